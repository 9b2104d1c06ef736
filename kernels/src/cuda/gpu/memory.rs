use cudarc::driver::{result, sys};

use super::{Gpu, failed};
use crate::cuda::{executor::DeviceError, launch::Address};

/// The alignment of every address.
const ALIGNMENT: usize = 256;
/// The driver is asked for at least this much at a time.
const BLOCK_BYTES: usize = 64 << 20;

/// Memory of a GPU that is taken piece by piece and given back as a whole: what a step needs is known before
/// the first one.
#[derive(Debug)]
pub(super) struct Arena {
    gpu: Gpu,
    blocks: Vec<sys::CUdeviceptr>,
    /// What is left of the last block.
    free: std::ops::Range<u64>,
}

impl Drop for Arena {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            for &block in &self.blocks {
                // SAFETY: allocated once, freed once; the driver waits for work that uses it. A failure leaks.
                let _ = unsafe { result::free_sync(block) };
            }
        }
    }
}

impl Arena {
    pub(super) fn new(gpu: &Gpu) -> Self {
        Self {
            gpu: gpu.clone(),
            blocks: Vec::new(),
            free: 0..0,
        }
    }

    pub(super) fn allocate(&mut self, bytes: usize) -> Result<Address, DeviceError> {
        let bytes = bytes.next_multiple_of(ALIGNMENT).max(ALIGNMENT) as u64;
        if self.free.end - self.free.start < bytes {
            self.gpu.bind()?;
            let size = (bytes as usize).max(BLOCK_BYTES);
            // SAFETY: plain memory, which nobody reads before it is written.
            let block = unsafe { result::malloc_sync(size) }.map_err(|error| {
                let (free_bytes, total_bytes) = result::mem_get_info().unwrap_or_default();
                match error.0 {
                    sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => DeviceError::Memory {
                        bytes: size,
                        free_bytes,
                        total_bytes,
                    },
                    _ => failed("allocating memory")(error),
                }
            })?;
            self.blocks.push(block);
            self.free = block..block + size as u64;
        }
        let address = Address(self.free.start);
        self.free.start += bytes;
        Ok(address)
    }
}
