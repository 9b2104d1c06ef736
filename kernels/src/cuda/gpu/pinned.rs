use std::ops::{Deref, DerefMut};

use cudarc::driver::{result, sys};

use super::{Event, Gpu, Stream, failed};
use crate::cuda::{executor::DeviceError, launch::Address};

/// Host memory that stays where it is, so that copies from and to it run beside other work. While one is
/// under way, a [`Copying`] owns it.
#[derive(Debug)]
pub struct Pinned {
    gpu: Gpu,
    start: *mut u8,
    len: usize,
    /// Behind the last copy.
    event: Event,
}

// SAFETY: memory that this owns.
unsafe impl Send for Pinned {}
// SAFETY: shared access only reads.
unsafe impl Sync for Pinned {}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: allocated once, freed once. A failure leaks it.
            let _ = unsafe { result::free_host(self.start.cast()) };
        }
    }
}

impl Pinned {
    /// `len` bytes that are zero.
    ///
    /// # Errors
    /// When the host cannot pin so much.
    pub fn new(gpu: &Gpu, len: usize) -> Result<Self, DeviceError> {
        let event = Event::new(gpu)?;
        // SAFETY: plain memory, which is written before anybody reads it.
        let start = unsafe {
            let start = result::malloc_host(len.max(1), sys::CU_MEMHOSTALLOC_PORTABLE)
                .map_err(failed("pinning host memory"))?
                .cast::<u8>();
            start.write_bytes(0, len);
            start
        };
        let gpu = gpu.clone();
        Ok(Self {
            gpu,
            start,
            len,
            event,
        })
    }
}

impl Deref for Pinned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes that are initialised and live as long as this.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

/// A copy that is under way, with the host's side of it.
#[derive(Debug)]
pub struct Copying(Option<Pinned>);

impl Drop for Copying {
    fn drop(&mut self) {
        // Memory that a failed device still copies from is better lost than reused.
        if let Some(pinned) = self.0.take()
            && pinned.event.wait().is_err()
        {
            std::mem::forget(pinned);
        }
    }
}

impl Copying {
    /// Waits until the copy is done, and gives the memory back.
    ///
    /// # Errors
    /// When the copy, or something queued before it, failed.
    pub fn wait(mut self) -> Result<Pinned, DeviceError> {
        if let Some(pinned) = &self.0 {
            pinned.event.wait()?;
        }
        Ok(self.0.take().expect("only this takes the memory out"))
    }
}

impl Stream {
    /// Queues a copy to the device.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn upload(&self, from: Pinned, to: Address) -> Result<Copying, DeviceError> {
        let bytes = from.len();
        self.upload_first(from, bytes, to)
    }

    /// Queues a copy of the first `bytes` bytes to the device.
    ///
    /// # Errors
    /// When the driver fails.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn upload_first(
        &self,
        from: Pinned,
        bytes: usize,
        to: Address,
    ) -> Result<Copying, DeviceError> {
        self.gpu().bind()?;
        // SAFETY: `Copying` owns the memory until the event behind the copy has come; `to` is an address of
        // the device's memory, for whose size the caller answers, as `Executor` says.
        unsafe { result::memcpy_htod_async(to.0, &from[..bytes], self.handle()) }
            .map_err(failed("copying to the GPU"))?;
        self.copying(from)
    }

    /// Queues a copy from the device.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn download(&self, from: Address, mut to: Pinned) -> Result<Copying, DeviceError> {
        self.gpu().bind()?;
        // SAFETY: as for `upload`.
        unsafe { result::memcpy_dtoh_async(&mut to, from.0, self.handle()) }
            .map_err(failed("copying from the GPU"))?;
        self.copying(to)
    }

    fn copying(&self, pinned: Pinned) -> Result<Copying, DeviceError> {
        match pinned.event.record(self) {
            Ok(()) => Ok(Copying(Some(pinned))),
            Err(error) => {
                // No mark tells when the copy ends: it is under way for ever.
                std::mem::forget(pinned);
                Err(error)
            }
        }
    }
}
