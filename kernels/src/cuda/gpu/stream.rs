use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::{Event, Gpu, failed};
use crate::cuda::{
    executor::DeviceError,
    launch::{Address, Launch},
    product::{Epilogue, Product},
};

/// A queue of work on a GPU. Clones are the same queue.
#[derive(Debug, Clone)]
pub struct Stream {
    own: Arc<Own>,
}

#[derive(Debug)]
struct Own {
    gpu: Gpu,
    handle: sys::CUstream,
}

// SAFETY: the handle is a name of the driver's object, whose functions may be called from any thread.
unsafe impl Send for Own {}
// SAFETY: as above.
unsafe impl Sync for Own {}

impl Drop for Own {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: created once, destroyed once; the driver finishes what is queued. A failure leaks it.
            let _ = unsafe { result::stream::destroy(self.handle) };
        }
    }
}

impl Stream {
    /// A stream that waits for no other one.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn new(gpu: &Gpu) -> Result<Self, DeviceError> {
        gpu.bind()?;
        let handle = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(failed("creating a stream"))?;
        let gpu = gpu.clone();
        let own = Arc::new(Own { gpu, handle });
        Ok(Self { own })
    }

    /// The GPU it belongs to.
    pub fn gpu(&self) -> &Gpu {
        &self.own.gpu
    }

    pub(super) fn handle(&self) -> sys::CUstream {
        self.own.handle
    }

    /// Lets what is queued from now on wait until the stream of `event` has come to it.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn wait_for(&self, event: &Event) -> Result<(), DeviceError> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both live.
        unsafe { result::stream::wait_event(self.handle(), event.handle(), flags) }
            .map_err(failed("waiting for an event"))
    }

    /// Queues a kernel.
    pub(super) fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        let gpu = self.gpu();
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
                self.handle(),
                &mut arguments,
            )
        }
        .map_err(failed(launch.kernel.name))
    }

    /// Queues what a product of depth 0 comes to: a result of zeros, unless it is added to. cuBLASLt refuses such products.
    pub(super) fn multiply_nothing(&self, product: &Product) -> Result<(), DeviceError> {
        let (out, [rows, columns, depth]) = (&product.out, product.sizes());
        let (Epilogue::None | Epilogue::RightSums(_)) = product.epilogue else {
            return Err(DeviceError::Product {
                call: "fusing something after a product of nothing",
                status: "no algorithm".to_owned(),
                rows,
                columns,
                depth,
            });
        };
        let bytes = out.dtype.bytes();
        let zero = |address: Address, pitch: usize, width: usize, height: usize| {
            // SAFETY: rows of the result, or its sums, which are memory of this stream's by contract.
            unsafe { sys::cuMemsetD2D8Async(address.0, pitch, 0, width, height, self.handle()) }
                .result()
                .map_err(failed("clearing memory"))
        };
        if let Epilogue::RightSums(sums) = product.epilogue {
            let width = sums.len * sums.dtype.bytes();
            zero(sums.address, width, width, 1)?;
        }
        match product.accumulate {
            true => Ok(()),
            false => zero(out.address, out.stride * bytes, rows * bytes, columns),
        }
    }

    /// Whether all that is queued is done.
    ///
    /// # Errors
    /// When some of it failed.
    pub fn is_done(&self) -> Result<bool, DeviceError> {
        self.gpu().bind()?;
        // SAFETY: the stream lives.
        match unsafe { sys::cuStreamQuery(self.handle()) }.result() {
            Ok(()) => Ok(true),
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            Err(error) => Err(failed("work of a stream")(error)),
        }
    }

    /// Waits until all that is queued is done.
    ///
    /// # Errors
    /// When some of it failed.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        self.gpu().bind()?;
        // SAFETY: the stream lives.
        unsafe { result::stream::synchronize(self.handle()) }.map_err(failed("work of a stream"))
    }
}
