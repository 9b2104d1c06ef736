use std::sync::OnceLock;

use cudarc::driver::{result, sys};

use super::{Gpu, Stream, failed};
use crate::cuda::executor::DeviceError;

/// `cuEventElapsedTime`. Drivers have it under a second name since CUDA 12.8, the only one that the bindings know, which
/// end the thread with a panic where it is missing.
type Elapsed = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;

fn elapsed() -> Option<Elapsed> {
    static ELAPSED: OnceLock<Option<Elapsed>> = OnceLock::new();
    *ELAPSED.get_or_init(|| {
        // SAFETY: there are events, so the driver is loaded; both names have this signature.
        unsafe {
            let names: [&[u8]; 2] = [b"cuEventElapsedTime_v2\0", b"cuEventElapsedTime\0"];
            let mut found = names
                .into_iter()
                .filter_map(|name| sys::culib().get::<Elapsed>(name).ok());
            found.next().map(|symbol| *symbol)
        }
    })
}

/// A mark in a stream.
#[derive(Debug)]
pub struct Event {
    gpu: Gpu,
    handle: sys::CUevent,
}

// SAFETY: the handle is a name of the driver's object, whose functions may be called from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Drop for Event {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: created once, destroyed once. A failure leaks it.
            let _ = unsafe { result::event::destroy(self.handle) };
        }
    }
}

impl Event {
    /// A mark that is in no stream yet: nobody waits for it.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn new(gpu: &Gpu) -> Result<Self, DeviceError> {
        Self::with(gpu, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// Likewise, one that also notes the time.
    pub(super) fn timed(gpu: &Gpu) -> Result<Self, DeviceError> {
        Self::with(gpu, sys::CUevent_flags::CU_EVENT_DEFAULT)
    }

    /// The time from this mark to another, of which both were timed and come to.
    pub(super) fn microseconds_to(&self, other: &Self) -> Result<f64, DeviceError> {
        let Some(elapsed) = elapsed() else {
            return Err(DeviceError::Driver {
                call: "measuring",
                message: "the driver does not tell the time between events".to_owned(),
            });
        };
        let mut milliseconds = 0.0f32;
        // SAFETY: both live, and the driver writes one number.
        unsafe { elapsed(&mut milliseconds, self.handle, other.handle) }
            .result()
            .map_err(failed("measuring"))?;
        Ok(f64::from(milliseconds) * 1e3)
    }

    fn with(gpu: &Gpu, flags: sys::CUevent_flags) -> Result<Self, DeviceError> {
        gpu.bind()?;
        let handle = result::event::create(flags).map_err(failed("creating an event"))?;
        let gpu = gpu.clone();
        Ok(Self { gpu, handle })
    }

    pub(super) fn handle(&self) -> sys::CUevent {
        self.handle
    }

    /// Puts the mark behind all that is queued in `stream`.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn record(&self, stream: &Stream) -> Result<(), DeviceError> {
        // SAFETY: both live.
        unsafe { result::event::record(self.handle, stream.handle()) }
            .map_err(failed("recording an event"))
    }

    /// Whether its stream has come to it.
    ///
    /// # Errors
    /// When something before it failed.
    pub fn is_done(&self) -> Result<bool, DeviceError> {
        // SAFETY: the event lives.
        match unsafe { result::event::query(self.handle) } {
            Ok(()) => Ok(true),
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            Err(error) => Err(failed("work before an event")(error)),
        }
    }

    /// Waits until its stream has come to it.
    ///
    /// # Errors
    /// When something before it failed.
    pub fn wait(&self) -> Result<(), DeviceError> {
        // SAFETY: the event lives.
        unsafe { result::event::synchronize(self.handle) }.map_err(failed("work before an event"))
    }
}
