use cudarc::driver::result;

use super::{Event, Gpu, Pinned, Stream, failed};
use crate::cuda::{executor::DeviceError, launch::Address};

/// Pinned memory that copies from the device come to.
#[derive(Debug)]
pub struct Reply {
    /// Taken out where the device failed and may still be writing.
    memory: Option<Pinned>,
    /// Bytes of the last copies.
    len: usize,
    /// Behind them.
    copied: Event,
    under_way: bool,
}

impl Drop for Reply {
    fn drop(&mut self) {
        // Memory that a failed device still writes is better lost than reused.
        if self.under_way && self.copied.wait().is_err() {
            std::mem::forget(self.memory.take());
        }
    }
}

impl Reply {
    pub(super) fn new(gpu: &Gpu, bytes: usize) -> Result<Self, DeviceError> {
        Ok(Self {
            memory: Some(Pinned::new(gpu, bytes)?),
            len: 0,
            copied: Event::new(gpu)?,
            under_way: false,
        })
    }

    /// As [`Executor::ask`](crate::cuda::Executor::ask), behind the work of `stream`.
    pub(super) fn ask(
        &mut self,
        stream: &Stream,
        parts: &[(Address, usize)],
    ) -> Result<(), DeviceError> {
        self.wait()?;
        let memory = self.memory.as_mut().ok_or_else(lost)?;
        let (mut start, mut outcome) = (0, Ok(()));
        self.under_way = true;
        for &(from, bytes) in parts {
            let to = &mut memory[start..start + bytes];
            // SAFETY: the memory is this one's, which nobody reads before the event behind the copies has come; `from`
            // is an address of the device's memory, for whose size the caller answers, as `Executor` says.
            outcome = unsafe { result::memcpy_dtoh_async(to, from.0, stream.handle()) }
                .map_err(failed("copying from the GPU"));
            start += bytes;
            if outcome.is_err() {
                break;
            }
        }
        self.len = start;
        match outcome.and_then(|()| self.copied.record(stream)) {
            Ok(()) => Ok(()),
            Err(error) => {
                // No mark tells when the copies end: they are under way for ever.
                self.under_way = false;
                std::mem::forget(self.memory.take());
                Err(error)
            }
        }
    }

    pub(super) fn has_come(&self) -> Result<bool, DeviceError> {
        match self.under_way {
            true => self.copied.is_done(),
            false => Ok(true),
        }
    }

    pub(super) fn read(&mut self) -> Result<&[u8], DeviceError> {
        self.wait()?;
        let memory = self.memory.as_ref().ok_or_else(lost)?;
        Ok(&memory[..self.len])
    }

    /// What was read last, unless copies are under way.
    pub(super) fn was_read(&self) -> &[u8] {
        match &self.memory {
            Some(memory) if !self.under_way => &memory[..self.len],
            _ => &[],
        }
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        if self.under_way {
            self.copied.wait()?;
            self.under_way = false;
        }
        Ok(())
    }
}

fn lost() -> DeviceError {
    DeviceError::Driver {
        call: "copying from the GPU",
        message: "an earlier copy failed".to_owned(),
    }
}
