use super::{
    collective::{Begun, Collective, Group},
    launch::{Address, Launch},
    library::CudaLibrary,
    measured::Measured,
    product::Product,
};
use crate::cuda::CompileError;

/// Host memory whose copies to a device run beside other work. Any thread may fill it, while others ask the device for work.
pub trait Feed: Send + 'static {
    /// Lets `write` fill the memory, of which it tells how many bytes are to be copied to `to`. The copy runs behind all
    /// that was asked for before the place was [vacated](Executor::vacate), and beside what is asked for since, up to
    /// [`receive`](Executor::receive). Waits for the copy that was sent from this memory before.
    ///
    /// # Errors
    /// As [`Executor::synchronize`].
    fn send(
        &mut self,
        to: Address,
        write: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> Result<(), DeviceError>;
}

/// What runs launches and products, each after the one before: a stream of a GPU, or in tests the
/// emulation. Code of a step is written against this, so that all of it runs without a GPU too.
///
/// Addresses are this executor's. Launches are trusted: the operations of [`cuda`](super) check shapes when
/// they describe them, and whoever gives them addresses answers for the memory behind.
pub trait Executor {
    /// Work that was recorded once, to be run again and again with the same arguments.
    type Graph: Send;

    /// Host memory whose copies to the device run beside other work.
    type Feed: Feed;

    /// Host memory that copies from the device come to, so that the host reads them when it likes.
    type Reply: Send;

    /// Memory of its own, aligned to 256 bytes, of arbitrary content; it lives as long as the executor. Not
    /// for the steady state.
    ///
    /// # Errors
    /// When there is not so much left.
    fn allocate(&mut self, bytes: usize) -> Result<Address, DeviceError>;

    /// Runs a kernel.
    ///
    /// # Errors
    /// When it cannot be started. What it does wrong later is told by a call that waits.
    fn launch(&mut self, launch: &Launch) -> Result<(), DeviceError>;

    /// Whether the matrix library has a product, with its epilogue. Of its addresses only the alignment counts: no
    /// memory need be there yet.
    ///
    /// # Errors
    /// When the library fails.
    fn supports(&mut self, product: &Product) -> Result<bool, DeviceError>;

    /// Multiplies.
    ///
    /// # Errors
    /// As [`launch`](Self::launch), and [`DeviceError::Product`] where the library does not
    /// [support](Self::supports) the product.
    fn multiply(&mut self, product: &Product) -> Result<(), DeviceError>;

    /// Sets each of `bytes` bytes to zero.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    fn zero(&mut self, at: Address, bytes: usize) -> Result<(), DeviceError>;

    /// Copies to the device; `from` may change once this returns.
    ///
    /// # Errors
    /// As [`synchronize`](Self::synchronize).
    fn upload(&mut self, from: &[u8], to: Address) -> Result<(), DeviceError>;

    /// Copies from the device, after all that was asked for before.
    ///
    /// # Errors
    /// As [`synchronize`](Self::synchronize).
    fn download(&mut self, from: Address, to: &mut [u8]) -> Result<(), DeviceError>;

    /// Host memory of `bytes` bytes to copy from. Not for the steady state.
    ///
    /// # Errors
    /// When the host cannot give so much.
    fn feed(&mut self, bytes: usize) -> Result<Self::Feed, DeviceError>;

    /// Gives up the place that the memory was copied to: nothing that is asked for from now on, up to
    /// [`receive`](Self::receive), touches where the [next copy](Feed::send) goes.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    fn vacate(&mut self, feed: &mut Self::Feed) -> Result<(), DeviceError>;

    /// Lets all that is asked for from now on wait for the copy that was sent. The host does not wait.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    fn receive(&mut self, feed: &mut Self::Feed) -> Result<(), DeviceError>;

    /// Host memory of `bytes` bytes to copy to. Not for the steady state.
    ///
    /// # Errors
    /// When the host cannot give so much.
    fn reply(&mut self, bytes: usize) -> Result<Self::Reply, DeviceError>;

    /// Copies parts of the device's memory, addresses and bytes, one behind the other into the host's. The copies run behind
    /// all that was asked for before and before all that is asked for afterwards. The host does not wait, unless for
    /// copies into the same memory that were asked for before.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    ///
    /// # Panics
    /// When the memory has no room for them.
    fn ask(
        &mut self,
        reply: &mut Self::Reply,
        parts: &[(Address, usize)],
    ) -> Result<(), DeviceError>;

    /// Whether the copies are there, with all that was asked for before them. Does not wait, so that a host can look after
    /// the other ranks meanwhile.
    ///
    /// # Errors
    /// When something that was asked for failed.
    fn has_come(&mut self, reply: &Self::Reply) -> Result<bool, DeviceError>;

    /// What was copied last. Waits for it.
    ///
    /// # Errors
    /// As [`synchronize`](Self::synchronize).
    fn read<'a>(&mut self, reply: &'a mut Self::Reply) -> Result<&'a [u8], DeviceError>;

    /// What was [read](Self::read) last; nothing once something else was asked for. Does not wait.
    fn was_read<'a>(&self, reply: &'a Self::Reply) -> &'a [u8];

    /// The devices of a group, one a rank, and which of them this is: `[rank, ranks]`.
    fn rank(&self, group: Group) -> [usize; 2];

    /// Lets the ranks of a group do some collectives together, as one step. They run behind all that was asked for before, each
    /// after the one before, and beside what is asked for afterwards, up to [`finish`](Self::finish): until then nobody
    /// may write what they read, nor touch what they write. `what` is what messages call them. Every rank begins the
    /// same in the same order; and records, or does not record, the same.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    fn begin(
        &mut self,
        group: Group,
        what: &'static str,
        collectives: &[Collective],
    ) -> Result<Begun, DeviceError>;

    /// Lets all that is asked for from now on wait for collectives. The host does not wait.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    fn finish(&mut self, begun: Begun) -> Result<(), DeviceError>;

    /// Whether all that was asked for is done. Does not wait, so that a host can look after the other ranks meanwhile.
    ///
    /// # Errors
    /// When something that was asked for failed.
    fn is_done(&mut self) -> Result<bool, DeviceError>;

    /// The collectives that were begun last of those the device has come to.
    fn last_begun(&self) -> Option<&'static str>;

    /// Gives up collectives that never end, so that nothing waits for them. The executor is of no use afterwards.
    fn abandon(&mut self);

    /// Begins, or ends, to measure each piece of work that is asked for. Recorded work is not measured.
    ///
    /// # Errors
    /// When the device fails.
    fn measure(&mut self, on: bool) -> Result<(), DeviceError>;

    /// What was measured since this was asked last. Waits.
    ///
    /// # Errors
    /// As [`synchronize`](Self::synchronize).
    fn measured(&mut self) -> Result<Vec<Measured>, DeviceError>;

    /// Waits until all is done.
    ///
    /// # Errors
    /// When something that was asked for failed.
    fn synchronize(&mut self) -> Result<(), DeviceError>;

    /// Records what `work` asks for, without running it. Collectives that it begins it also finishes, and no other ones.
    ///
    /// # Errors
    /// What `work` returns, or when it asked for something that waits or allocates, or collectives cross its ends.
    fn record(
        &mut self,
        work: &mut dyn FnMut(&mut Self) -> Result<(), DeviceError>,
    ) -> Result<Self::Graph, DeviceError>;

    /// Runs what was recorded.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    fn replay(&mut self, graph: &Self::Graph) -> Result<(), DeviceError>;
}

/// What [`DeviceError::Recording`] says where collectives that were begun before a recording are not finished.
#[doc(hidden)]
pub const BEGUN_BEFORE: &str = "waiting for collectives that were begun before the recording";

/// What it says where a recording ends before collectives that it begins are finished.
#[doc(hidden)]
pub const NOT_FINISHED: &str = "beginning collectives that the recording does not wait for";

/// Why a device did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// A library is missing.
    #[error("{} is not found; {}", .0.name(), .0.remedy())]
    Missing(CudaLibrary),
    /// There is no such GPU.
    #[error(
        "there is no GPU {ordinal}: this process sees {count}; check CUDA_VISIBLE_DEVICES and `nvidia-smi`"
    )]
    NoGpu {
        /// The GPU asked for.
        ordinal: usize,
        /// The GPUs there are.
        count: usize,
    },
    /// The memory of the GPU is full.
    #[error(
        "no room for {bytes} bytes on the GPU, {free_bytes} of {total_bytes} bytes are free; lower the batch, or shard tables over more GPUs"
    )]
    Memory {
        /// What was asked for.
        bytes: usize,
        /// What is free.
        free_bytes: usize,
        /// What there is.
        total_bytes: usize,
    },
    /// A call of the driver failed, perhaps for something that was asked for earlier.
    #[error(
        "CUDA: {call} failed: {message}; run `streamrec doctor`, and look for earlier errors of this GPU"
    )]
    Driver {
        /// What was asked for.
        call: &'static str,
        /// The driver's words.
        message: String,
    },
    /// Kernels could not be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// cuBLASLt has no such product, or refuses it.
    #[error(
        "cuBLASLt: {call} failed with {status} for a product of {rows} x {depth} x {columns}; use another version of cuBLASLt"
    )]
    Product {
        /// The call that failed.
        call: &'static str,
        /// The library's status.
        status: String,
        /// Rows of the column-major result.
        rows: usize,
        /// Columns of the column-major result.
        columns: usize,
        /// The depth.
        depth: usize,
    },
    /// A collective failed, here or on another rank.
    #[error(
        "{what} ({call}) failed: {message}; look at the logs of all ranks, and set NCCL_DEBUG=INFO to hear more"
    )]
    Collective {
        /// What it is called.
        what: &'static str,
        /// The collective, or the call of the library.
        call: String,
        /// What was said.
        message: String,
    },
    /// Something was asked for that cannot be recorded.
    #[error("{call} cannot be part of a recorded step; do it before or after")]
    Recording {
        /// What was asked for.
        call: &'static str,
    },
    /// A kernel did something that is undefined; emulations tell.
    #[error("{0}")]
    Undefined(String),
}
