use cudarc::driver::result;

use super::{Feed, Gpu, Graph, Stream, failed, memory::Arena, products::Products};
use crate::cuda::{
    executor::{DeviceError, Executor},
    launch::{Address, Launch},
    product::Product,
};

/// A stream of a GPU that runs launches and products, with the memory they work on.
pub struct GpuExecutor {
    stream: Stream,
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
            products,
            arena,
            recording: false,
        })
    }

    /// The stream.
    pub fn stream(&self) -> &Stream {
        &self.stream
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

    fn allocate(&mut self, bytes: usize) -> Result<Address, DeviceError> {
        self.outside_of_recordings("allocating memory")?;
        self.arena.allocate(bytes)
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), DeviceError> {
        let gpu = self.stream.gpu();
        gpu.bind()?;
        let function = gpu.function(launch.kernel, launch.shared_bytes)?;
        let mut launch = launch.clone();
        let ([x, y, z], threads, shared_bytes) = (launch.grid, launch.threads, launch.shared_bytes);
        let mut arguments = launch.arguments();
        // SAFETY: the function's parameters are those of the launch, which the emulation checks for every
        // kernel; the driver copies them before it returns. What addresses point to is the caller's to prove,
        // as `Executor` says.
        unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (threads, 1, 1),
                shared_bytes,
                self.stream.handle(),
                &mut arguments,
            )
        }
        .map_err(failed(launch.kernel.name))
    }

    fn multiply(&mut self, product: &Product) -> Result<(), DeviceError> {
        self.stream.gpu().bind()?;
        self.products.multiply(product, self.stream.handle())
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

    fn send(
        &mut self,
        feed: &mut Feed,
        to: Address,
        write: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> Result<(), DeviceError> {
        self.outside_of_recordings("copying a batch")?;
        feed.send(&self.stream, to, write)
    }

    fn receive(&mut self, feed: &mut Feed) -> Result<(), DeviceError> {
        self.outside_of_recordings("waiting for a batch")?;
        feed.receive(&self.stream)
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
        let stream = self.stream.clone();
        self.recording = true;
        let graph = Graph::record(&stream, || work(self));
        self.recording = false;
        graph
    }

    fn replay(&mut self, graph: &Graph) -> Result<(), DeviceError> {
        self.outside_of_recordings("replaying")?;
        graph.launch(&self.stream)
    }
}
