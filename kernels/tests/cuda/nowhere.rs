//! A device that hands out addresses and runs nothing: shapes that no memory here holds are described all the same.

use streamrec_kernels::cuda::product::Product;
use streamrec_kernels::cuda::{
    Address, Begun, Collective, DeviceError, Executor, Feed, Group, Launch, Measured,
};

#[derive(Default)]
pub struct Nowhere {
    /// Bytes that were asked for.
    pub allocated: usize,
    pub launches: usize,
}

fn refused<T>(call: &'static str) -> Result<T, DeviceError> {
    Err(DeviceError::Recording { call })
}

/// None is made.
pub enum NoFeed {}

impl Feed for NoFeed {
    fn send(
        &mut self,
        _: Address,
        _: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> Result<(), DeviceError> {
        match *self {}
    }
}

impl Executor for Nowhere {
    type Graph = ();
    type Feed = NoFeed;
    type Reply = ();

    fn allocate(&mut self, bytes: usize) -> Result<Address, DeviceError> {
        let at = Address(self.allocated as u64 + 256);
        self.allocated += bytes.next_multiple_of(256).max(256);
        Ok(at)
    }

    fn launch(&mut self, _: &Launch) -> Result<(), DeviceError> {
        self.launches += 1;
        Ok(())
    }

    fn supports(&mut self, _: &Product) -> Result<bool, DeviceError> {
        Ok(false)
    }

    fn multiply(&mut self, _: &Product) -> Result<(), DeviceError> {
        refused("a product")
    }

    fn zero(&mut self, _: Address, _: usize) -> Result<(), DeviceError> {
        Ok(())
    }

    fn upload(&mut self, _: &[u8], _: Address) -> Result<(), DeviceError> {
        Ok(())
    }

    fn download(&mut self, _: Address, _: &mut [u8]) -> Result<(), DeviceError> {
        refused("a copy")
    }

    fn feed(&mut self, _: usize) -> Result<NoFeed, DeviceError> {
        refused("a feed")
    }

    fn vacate(&mut self, _: &mut NoFeed) -> Result<(), DeviceError> {
        refused("a feed")
    }

    fn receive(&mut self, _: &mut NoFeed) -> Result<(), DeviceError> {
        refused("a feed")
    }

    fn reply(&mut self, _: usize) -> Result<(), DeviceError> {
        refused("a reply")
    }

    fn ask(&mut self, (): &mut (), _: &[(Address, usize)]) -> Result<(), DeviceError> {
        refused("a reply")
    }

    fn has_come(&mut self, (): &()) -> Result<bool, DeviceError> {
        refused("a reply")
    }

    fn read<'a>(&mut self, (): &'a mut ()) -> Result<&'a [u8], DeviceError> {
        refused("a reply")
    }

    fn was_read<'a>(&self, (): &'a ()) -> &'a [u8] {
        &[]
    }

    fn rank(&self, _: Group) -> [usize; 2] {
        [0, 1]
    }

    fn begin(&mut self, _: Group, _: &'static str, _: &[Collective]) -> Result<Begun, DeviceError> {
        refused("a collective")
    }

    fn finish(&mut self, _: Begun) -> Result<(), DeviceError> {
        refused("a collective")
    }

    fn is_done(&mut self) -> Result<bool, DeviceError> {
        Ok(true)
    }

    fn last_begun(&self) -> Option<&'static str> {
        None
    }

    fn abandon(&mut self) {}

    fn measure(&mut self, _: bool) -> Result<(), DeviceError> {
        refused("a measurement")
    }

    fn measured(&mut self) -> Result<Vec<Measured>, DeviceError> {
        refused("a measurement")
    }

    fn synchronize(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn record(
        &mut self,
        _: &mut dyn FnMut(&mut Self) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        refused("a recording")
    }

    fn replay(&mut self, (): &()) -> Result<(), DeviceError> {
        refused("a recording")
    }
}
