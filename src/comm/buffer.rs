//! The memory that collectives work on.

use std::fmt;
use std::ops::{Deref, DerefMut};

use super::shared_memory::SharedBuffer;

/// `[len]` f32, aligned to 64 bytes, from [`Communicator::allocate`](super::Communicator::allocate).
///
/// It lives in memory shared with the other ranks, or in the heap where ranks share none. Holding
/// it means that no collective is using it.
pub struct CommBuffer {
    storage: Storage,
}

enum Storage {
    Heap(HeapBuffer),
    Shared(SharedBuffer),
}

/// Over-allocated by a cache line, so that an aligned start lies inside.
struct HeapBuffer {
    values: Vec<f32>,
    start: usize,
    len: usize,
    owner: Owner,
}

/// Which communicator a heap buffer is of, and its number there. All zero where nobody asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Owner {
    /// Tells the communicators of one process apart.
    pub(super) token: u64,
    /// Counts the allocations of the communicator from 1.
    pub(super) number: u64,
}

const ALIGNMENT: usize = 64;

impl CommBuffer {
    /// A zeroed buffer in the heap, for communicators that share no memory.
    pub(super) fn heap(len: usize, owner: Owner) -> Self {
        let values = vec![0.0f32; len + ALIGNMENT / size_of::<f32>()];
        let start = values
            .as_ptr()
            .align_offset(ALIGNMENT)
            .min(values.len() - len);
        Self {
            storage: Storage::Heap(HeapBuffer {
                values,
                start,
                len,
                owner,
            }),
        }
    }

    pub(super) fn shared(buffer: SharedBuffer) -> Self {
        Self {
            storage: Storage::Shared(buffer),
        }
    }

    /// Whose it is, if it is in the heap.
    pub(super) fn owner(&self) -> Option<Owner> {
        match &self.storage {
            Storage::Heap(heap) => Some(heap.owner),
            Storage::Shared(_) => None,
        }
    }

    /// The buffer's place in shared memory, if it is there.
    pub(super) fn as_shared(&self) -> Option<&SharedBuffer> {
        match &self.storage {
            Storage::Shared(buffer) => Some(buffer),
            Storage::Heap(_) => None,
        }
    }
}

impl Deref for CommBuffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.storage {
            Storage::Heap(heap) => &heap.values[heap.start..heap.start + heap.len],
            Storage::Shared(buffer) => buffer.own(),
        }
    }
}

impl DerefMut for CommBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        match &mut self.storage {
            Storage::Heap(heap) => &mut heap.values[heap.start..heap.start + heap.len],
            Storage::Shared(buffer) => buffer.own_mut(),
        }
    }
}

impl fmt::Debug for CommBuffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.storage {
            Storage::Heap(_) => "heap",
            Storage::Shared(_) => "shared",
        };
        write!(formatter, "CommBuffer({place}, {} f32)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heap_buffers_are_zeroed_and_aligned() {
        for len in [0, 1, 15, 16, 17, 1000] {
            let buffer = CommBuffer::heap(len, Owner::default());
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr() as usize % ALIGNMENT, 0);
            assert!(buffer.iter().all(|value| *value == 0.0));
        }
    }
}
