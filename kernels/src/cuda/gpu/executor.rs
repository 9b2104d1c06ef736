use cudarc::driver::result;

use super::{
    Feed, Gpu, Graph, Nccl, Reply, Stream, failed, memory::Arena, products::Products, ranks::Ranks,
    times::Times,
};
use crate::cuda::{
    collective::{Begun, Collective, Group},
    executor::{BEGUN_BEFORE, DeviceError, Executor, NOT_FINISHED},
    launch::{Address, Launch},
    measured::Measured,
    product::Product,
};

/// A stream of a GPU that runs launches and products, with the memory they work on.
pub struct GpuExecutor {
    stream: Stream,
    /// The GPUs of other ranks.
    ranks: Option<Ranks>,
    /// While work is measured.
    times: Option<Times>,
    products: Products,
    // Fields are dropped in their order: the memory goes last.
    arena: Arena,
    recording: bool,
}

impl GpuExecutor {
    /// A new stream of a GPU.
    ///
    /// # Errors
    /// When cuBLASLt is missing, or the driver fails.
    pub fn new(gpu: &Gpu) -> Result<Self, DeviceError> {
        let stream = Stream::new(gpu)?;
        let mut arena = Arena::new(gpu);
        let products = Products::new(&mut arena)?;
        Ok(Self {
            stream,
            ranks: None,
            times: None,
            products,
            arena,
            recording: false,
        })
    }

    /// Works together with the GPUs of other ranks.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn with_ranks(mut self, nccl: Nccl) -> Result<Self, DeviceError> {
        self.ranks = Some(Ranks::new(self.stream.gpu(), nccl)?);
        Ok(self)
    }

    /// Does some collectives with the GPUs of this rank's data-parallel and tensor-parallel groups, after
    /// [`with_ranks`](Self::with_ranks): without this all ranks are data-parallel.
    pub fn with_mesh(mut self, dp: Nccl, tp: Nccl) -> Self {
        self.ranks = self.ranks.map(|ranks| ranks.with_mesh(dp, tp));
        self
    }

    /// The stream.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Copies `bytes` bytes of this executor's memory to other ones of it, after all that was asked for before.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn copy(&mut self, from: Address, to: Address, bytes: usize) -> Result<(), DeviceError> {
        self.stream.gpu().bind()?;
        // SAFETY: `bytes` bytes at two addresses of this executor's.
        unsafe { result::memcpy_dtod_async(to.0, from.0, bytes, self.stream.handle()) }
            .map_err(failed("copying on the GPU"))
    }

    /// Marks the beginning of work that is measured.
    fn timed(&mut self, name: &dyn Fn() -> String) -> Result<(), DeviceError> {
        match &mut self.times {
            Some(times) if !self.recording => times.begin(&self.stream, name(), false),
            _ => Ok(()),
        }
    }

    /// Marks its end.
    fn ended(&self) -> Result<(), DeviceError> {
        match &self.times {
            Some(times) if !self.recording => times.end(&self.stream),
            _ => Ok(()),
        }
    }

    /// Refuses recordings that collectives cross, which CUDA does with fewer words.
    fn nothing_begun(&self, call: &'static str) -> Result<(), DeviceError> {
        match self.ranks.as_ref().is_some_and(Ranks::is_under_way) {
            true => Err(DeviceError::Recording { call }),
            false => Ok(()),
        }
    }

    fn outside_of_recordings(&self, call: &'static str) -> Result<(), DeviceError> {
        match self.recording {
            true => Err(DeviceError::Recording { call }),
            false => self.stream.gpu().bind(),
        }
    }
}

impl Executor for GpuExecutor {
    type Graph = Graph;
    type Feed = Feed;
    type Reply = Reply;

    fn allocate(&mut self, bytes: usize) -> Result<Address, DeviceError> {
        self.outside_of_recordings("allocating memory")?;
        self.arena.allocate(bytes)
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), DeviceError> {
        self.timed(&|| launch.kernel.name.to_owned())?;
        self.stream.launch(launch)?;
        self.ended()
    }

    fn supports(&mut self, product: &Product) -> Result<bool, DeviceError> {
        self.stream.gpu().bind()?;
        self.products.supports(product)
    }

    fn multiply(&mut self, product: &Product) -> Result<(), DeviceError> {
        self.stream.gpu().bind()?;
        if product.has_no_depth() {
            return self.stream.multiply_nothing(product);
        }
        self.timed(&|| product.to_string())?;
        self.products.multiply(product, self.stream.handle())?;
        self.ended()
    }

    fn zero(&mut self, at: Address, bytes: usize) -> Result<(), DeviceError> {
        self.stream.gpu().bind()?;
        // SAFETY: `bytes` bytes at an address of this executor's.
        unsafe { result::memset_d8_async(at.0, 0, bytes, self.stream.handle()) }
            .map_err(failed("clearing memory"))
    }

    fn upload(&mut self, from: &[u8], to: Address) -> Result<(), DeviceError> {
        self.outside_of_recordings("copying from memory that is not pinned")?;
        // SAFETY: `to` is an address of this executor's; the call below waits for the copy.
        unsafe { result::memcpy_htod_async(to.0, from, self.stream.handle()) }
            .map_err(failed("copying to the GPU"))?;
        self.stream.synchronize()
    }

    fn download(&mut self, from: Address, to: &mut [u8]) -> Result<(), DeviceError> {
        self.outside_of_recordings("copying to memory that is not pinned")?;
        // SAFETY: as for `upload`.
        unsafe { result::memcpy_dtoh_async(to, from.0, self.stream.handle()) }
            .map_err(failed("copying from the GPU"))?;
        self.stream.synchronize()
    }

    fn feed(&mut self, bytes: usize) -> Result<Feed, DeviceError> {
        self.outside_of_recordings("allocating memory")?;
        Feed::new(self.stream.gpu(), bytes)
    }

    fn vacate(&mut self, feed: &mut Feed) -> Result<(), DeviceError> {
        self.outside_of_recordings("making room for a batch")?;
        feed.vacate(&self.stream)
    }

    fn receive(&mut self, feed: &mut Feed) -> Result<(), DeviceError> {
        self.outside_of_recordings("waiting for a batch")?;
        feed.receive(&self.stream)
    }

    fn reply(&mut self, bytes: usize) -> Result<Reply, DeviceError> {
        self.outside_of_recordings("allocating memory")?;
        Reply::new(self.stream.gpu(), bytes)
    }

    fn ask(&mut self, reply: &mut Reply, parts: &[(Address, usize)]) -> Result<(), DeviceError> {
        self.outside_of_recordings("asking what a step found")?;
        reply.ask(&self.stream, parts)
    }

    fn has_come(&mut self, reply: &Reply) -> Result<bool, DeviceError> {
        self.outside_of_recordings("asking whether work is done")?;
        if let Some(ranks) = &self.ranks {
            ranks.look()?;
        }
        reply.has_come()
    }

    fn read<'a>(&mut self, reply: &'a mut Reply) -> Result<&'a [u8], DeviceError> {
        self.outside_of_recordings("waiting")?;
        reply.read()
    }

    fn was_read<'a>(&self, reply: &'a Reply) -> &'a [u8] {
        reply.was_read()
    }

    fn rank(&self, group: Group) -> [usize; 2] {
        let ranks = self.ranks.as_ref();
        ranks.map_or([0, 1], |ranks| ranks.rank(group))
    }

    fn begin(
        &mut self,
        group: Group,
        what: &'static str,
        collectives: &[Collective],
    ) -> Result<Begun, DeviceError> {
        self.stream.gpu().bind()?;
        let ranks = self.ranks.as_mut().ok_or_else(|| alone(what))?;
        let times = self.times.as_mut().filter(|_| !self.recording);
        ranks.begin(&self.stream, group, (what, collectives), times)
    }

    fn finish(&mut self, begun: Begun) -> Result<(), DeviceError> {
        self.stream.gpu().bind()?;
        let ranks = self.ranks.as_mut().ok_or_else(|| alone("collectives"))?;
        ranks.finish(&self.stream, begun)
    }

    fn is_done(&mut self) -> Result<bool, DeviceError> {
        self.outside_of_recordings("asking whether work is done")?;
        if let Some(ranks) = &self.ranks {
            ranks.look()?;
        }
        self.stream.is_done()
    }

    fn last_begun(&self) -> Option<&'static str> {
        self.ranks.as_ref().and_then(Ranks::last_begun)
    }

    fn abandon(&mut self) {
        if let Some(ranks) = &mut self.ranks {
            ranks.abandon();
        }
    }

    fn measure(&mut self, on: bool) -> Result<(), DeviceError> {
        self.outside_of_recordings("measuring")?;
        self.times = on.then(Times::new);
        Ok(())
    }

    fn measured(&mut self) -> Result<Vec<Measured>, DeviceError> {
        self.synchronize()?;
        match &mut self.times {
            Some(times) => times.take(self.stream.gpu()),
            None => Ok(Vec::new()),
        }
    }

    fn synchronize(&mut self) -> Result<(), DeviceError> {
        self.outside_of_recordings("waiting")?;
        self.stream.synchronize()
    }

    fn record(
        &mut self,
        work: &mut dyn FnMut(&mut Self) -> Result<(), DeviceError>,
    ) -> Result<Graph, DeviceError> {
        self.outside_of_recordings("recording")?;
        self.nothing_begun(BEGUN_BEFORE)?;
        let stream = self.stream.clone();
        self.recording = true;
        let graph = Graph::record(&stream, || {
            work(self).and_then(|()| self.nothing_begun(NOT_FINISHED))
        });
        self.recording = false;
        if let (Err(_), Some(ranks)) = (&graph, &mut self.ranks) {
            ranks.forget_begun();
        }
        graph
    }

    fn replay(&mut self, graph: &Graph) -> Result<(), DeviceError> {
        self.outside_of_recordings("replaying")?;
        graph.launch(&self.stream)
    }
}

pub(super) fn alone(what: &'static str) -> DeviceError {
    DeviceError::Collective {
        what,
        call: "a collective".to_owned(),
        message: "this GPU was connected with no others".to_owned(),
    }
}
