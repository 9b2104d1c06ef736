use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use cudarc::driver::{result, sys};

use super::{failed, modules::Modules};
use crate::cuda::{
    NotKept,
    executor::DeviceError,
    launch::Kernel,
    library::{CudaLibrary, load_driver},
    source::{SOURCES, Source},
};

/// A GPU of this host, with its context and the kernels compiled for it. Clones share them.
#[derive(Clone)]
pub struct Gpu {
    shared: Arc<Shared>,
}

struct Shared {
    device: sys::CUdevice,
    context: sys::CUcontext,
    architecture: String,
    cache: PathBuf,
    modules: Mutex<Modules>,
}

// SAFETY: the driver's functions may be called from any thread; the handles are plain names of its objects,
// and modules are behind a lock.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Drop for Shared {
    fn drop(&mut self) {
        let modules = self
            .modules
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        // SAFETY: nothing runs any more: streams, memory and graphs hold a clone. A failure leaks.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            modules.unload();
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

impl Gpu {
    /// GPU `ordinal` of those that this process sees. Compiled kernels are kept in the folder `cache`.
    ///
    /// # Errors
    /// When a library or the GPU is missing, or the driver fails.
    pub fn new(ordinal: usize, cache: &Path) -> Result<Self, DeviceError> {
        if !load_driver() {
            return Err(DeviceError::Missing(CudaLibrary::Driver));
        }
        result::init().map_err(failed("starting the driver"))?;
        let count = result::device::get_count().map_err(failed("counting GPUs"))? as usize;
        if ordinal >= count {
            return Err(DeviceError::NoGpu { ordinal, count });
        }
        let device = result::device::get(ordinal as i32).map_err(failed("opening the GPU"))?;
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
        };
        // SAFETY: the driver has just given the device.
        let (major, minor, context) = unsafe {
            let attribute = |name| result::device::get_attribute(device, name);
            (
                attribute(MAJOR).map_err(failed("asking for the architecture"))?,
                attribute(MINOR).map_err(failed("asking for the architecture"))?,
                result::primary_ctx::retain(device).map_err(failed("opening a context"))?,
            )
        };
        let gpu = Self {
            shared: Arc::new(Shared {
                device,
                context,
                architecture: format!("sm_{major}{minor}"),
                cache: cache.to_owned(),
                modules: Mutex::default(),
            }),
        };
        gpu.bind()?;
        Ok(gpu)
    }

    /// The architecture, such as `sm_90`.
    pub fn architecture(&self) -> &str {
        &self.shared.architecture
    }

    /// Compiles all kernels now, instead of each source when it is first used, which must not be while a step
    /// is recorded. Tells why kernels could not be kept for the next start, if so.
    ///
    /// # Errors
    /// When there is no compiler, or the driver refuses what it made.
    pub fn compile(&self) -> Result<Option<NotKept>, DeviceError> {
        self.bind()?;
        for source in SOURCES {
            let name = source.kernels[0];
            self.function(Kernel::new(source.name, name), 0)?;
        }
        let modules = self.shared.modules.lock();
        let mut modules = modules.unwrap_or_else(PoisonError::into_inner);
        Ok(modules.not_kept.take())
    }

    /// Lets threads sleep where they wait for this GPU. Else they ask over and over, which takes a core and is some ten
    /// microseconds faster a wait.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn sleep_while_waiting(&self) -> Result<(), DeviceError> {
        let flags = sys::CUctx_flags::CU_CTX_SCHED_BLOCKING_SYNC as u32;
        // SAFETY: the driver has given the device.
        unsafe { sys::cuDevicePrimaryCtxSetFlags_v2(self.shared.device, flags) }
            .result()
            .map_err(failed("choosing how to wait"))
    }

    /// Compiles and loads kernels of a source that is not this crate's, for [custom](crate::cuda::Launch::custom) launches.
    ///
    /// # Errors
    /// As for [`compile`](Self::compile).
    pub fn load(&self, source: &Source) -> Result<(), DeviceError> {
        self.bind()?;
        let Shared {
            architecture,
            cache,
            ..
        } = self.shared.as_ref();
        let modules = self.shared.modules.lock();
        let mut modules = modules.unwrap_or_else(PoisonError::into_inner);
        modules.load(source, architecture, cache)
    }

    /// Makes the context that of the calling thread.
    pub(super) fn bind(&self) -> Result<(), DeviceError> {
        // SAFETY: the context is retained as long as this lives.
        unsafe { result::ctx::set_current(self.shared.context) }
            .map_err(failed("binding the context"))
    }

    /// The function of a kernel, which may be given `shared_bytes` bytes of dynamic shared memory.
    pub(super) fn function(
        &self,
        kernel: Kernel,
        shared_bytes: u32,
    ) -> Result<sys::CUfunction, DeviceError> {
        let modules = self.shared.modules.lock();
        let mut modules = modules.unwrap_or_else(PoisonError::into_inner);
        let Shared {
            architecture,
            cache,
            ..
        } = self.shared.as_ref();
        modules.function(kernel, shared_bytes, architecture, cache)
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu")
            .field("device", &self.shared.device)
            .field("architecture", &self.shared.architecture)
            .finish_non_exhaustive()
    }
}
