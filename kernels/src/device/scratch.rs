use std::{
    ops::{Deref, DerefMut},
    sync::{Mutex, PoisonError},
};

use crate::tensor::AlignedBuffer;

/// Buffers that operations borrow for the time of a call, so that a steady training step
/// allocates none.
#[derive(Default)]
pub(super) struct ScratchPool {
    idle: Mutex<Vec<AlignedBuffer>>,
}

impl ScratchPool {
    pub(super) fn take(&self, len: usize) -> Scratch<'_> {
        let bytes = len * size_of::<f32>();
        if bytes == 0 {
            let buffer = AlignedBuffer::zeroed(0);
            return Scratch {
                pool: self,
                buffer,
                len,
            };
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let best = (0..idle.len())
            .filter(|&index| idle[index].bytes() >= bytes)
            .min_by_key(|&index| idle[index].bytes());
        let buffer = match best {
            Some(index) => idle.swap_remove(index),
            None => {
                // Sizes are rounded up so that slightly different batches share buffers.
                drop(idle);
                AlignedBuffer::zeroed(bytes.next_power_of_two().max(4096))
            }
        };
        Scratch {
            pool: self,
            buffer,
            len,
        }
    }
}

/// A borrowed buffer of floats, aligned to 64 bytes, of arbitrary content.
pub(crate) struct Scratch<'a> {
    pool: &'a ScratchPool,
    buffer: AlignedBuffer,
    len: usize,
}

impl Deref for Scratch<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(self.buffer.as_bytes())[..self.len]
    }
}

impl DerefMut for Scratch<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(self.buffer.as_bytes_mut())[..self.len]
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        if self.buffer.bytes() == 0 {
            return;
        }
        let buffer = std::mem::replace(&mut self.buffer, AlignedBuffer::zeroed(0));
        self.pool
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_buffer_is_reused() {
        let pool = ScratchPool::default();
        let first = pool.take(1000).as_ptr();
        let again = pool.take(900);
        assert_eq!(again.len(), 900);
        assert_eq!(again.as_ptr(), first);
        assert_ne!(pool.take(10).as_ptr(), first);
    }
}
