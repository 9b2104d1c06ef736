//! A device that does nothing: what is left of a step is the host's part of it.

use streamrec_kernels::cuda::product::Product;
use streamrec_kernels::cuda::{
    Address, Begun, Collective, DeviceError, Executor, Feed, Group, Launch, Measured,
};

/// Hands out addresses, takes batches into memory of the host, and answers with zeros.
#[derive(Default)]
pub struct Idle {
    allocated: u64,
}

/// Where batches are packed.
pub struct Memory(Vec<u8>);

impl Feed for Memory {
    fn send(
        &mut self,
        _: Address,
        write: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> Result<(), DeviceError> {
        write(&mut self.0);
        Ok(())
    }
}

impl Executor for Idle {
    type Graph = ();
    type Feed = Memory;
    type Reply = Vec<u8>;

    fn allocate(&mut self, bytes: usize) -> Result<Address, DeviceError> {
        self.allocated += 256;
        let at = Address(self.allocated);
        self.allocated += bytes.next_multiple_of(256) as u64;
        Ok(at)
    }

    fn launch(&mut self, _: &Launch) -> Result<(), DeviceError> {
        Ok(())
    }

    fn supports(&mut self, _: &Product) -> Result<bool, DeviceError> {
        Ok(true)
    }

    fn multiply(&mut self, _: &Product) -> Result<(), DeviceError> {
        Ok(())
    }

    fn zero(&mut self, _: Address, _: usize) -> Result<(), DeviceError> {
        Ok(())
    }

    fn upload(&mut self, _: &[u8], _: Address) -> Result<(), DeviceError> {
        Ok(())
    }

    fn download(&mut self, _: Address, to: &mut [u8]) -> Result<(), DeviceError> {
        to.fill(0);
        Ok(())
    }

    fn feed(&mut self, bytes: usize) -> Result<Memory, DeviceError> {
        Ok(Memory(vec![0; bytes]))
    }

    fn vacate(&mut self, _: &mut Memory) -> Result<(), DeviceError> {
        Ok(())
    }

    fn receive(&mut self, _: &mut Memory) -> Result<(), DeviceError> {
        Ok(())
    }

    fn reply(&mut self, bytes: usize) -> Result<Vec<u8>, DeviceError> {
        Ok(vec![0; bytes])
    }

    fn ask(&mut self, _: &mut Vec<u8>, _: &[(Address, usize)]) -> Result<(), DeviceError> {
        Ok(())
    }

    fn has_come(&mut self, _: &Vec<u8>) -> Result<bool, DeviceError> {
        Ok(true)
    }

    fn read<'a>(&mut self, reply: &'a mut Vec<u8>) -> Result<&'a [u8], DeviceError> {
        Ok(reply)
    }

    fn was_read<'a>(&self, reply: &'a Vec<u8>) -> &'a [u8] {
        reply
    }

    fn rank(&self, _: Group) -> [usize; 2] {
        [0, 1]
    }

    fn begin(&mut self, _: Group, _: &'static str, _: &[Collective]) -> Result<Begun, DeviceError> {
        Err(DeviceError::Recording {
            call: "a collective",
        })
    }

    fn finish(&mut self, _: Begun) -> Result<(), DeviceError> {
        Ok(())
    }

    fn is_done(&mut self) -> Result<bool, DeviceError> {
        Ok(true)
    }

    fn last_begun(&self) -> Option<&'static str> {
        None
    }

    fn abandon(&mut self) {}

    fn measure(&mut self, _: bool) -> Result<(), DeviceError> {
        Ok(())
    }

    fn measured(&mut self) -> Result<Vec<Measured>, DeviceError> {
        Ok(Vec::new())
    }

    fn synchronize(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn record(
        &mut self,
        work: &mut dyn FnMut(&mut Self) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        work(self)
    }

    fn replay(&mut self, (): &()) -> Result<(), DeviceError> {
        Ok(())
    }
}
