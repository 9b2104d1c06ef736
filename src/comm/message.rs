//! Bytes from one rank to another.

use std::fmt;
use std::ops::Deref;

use super::shared_memory::SharedMessage;

/// Bytes that a rank sends to another, written piece by piece.
///
/// Those of [`Communicator::message`](super::Communicator::message) are in memory that ranks of one host share:
/// sending such a message to another rank hands the memory over, and copies nothing. Any others are in the heap.
#[derive(Default)]
pub struct Message {
    storage: Storage,
}

enum Storage {
    Heap(Vec<u8>),
    Shared(SharedMessage),
}

impl Default for Storage {
    fn default() -> Self {
        Self::Heap(Vec::new())
    }
}

impl Message {
    pub(super) fn shared(message: SharedMessage) -> Self {
        Self {
            storage: Storage::Shared(message),
        }
    }

    /// Appends bytes.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        match &mut self.storage {
            Storage::Heap(own) => own.extend_from_slice(bytes),
            Storage::Shared(shared) => {
                if shared.append(bytes).is_err() {
                    // Where no more memory can be shared, the message is copied when it is sent.
                    let mut own = Vec::with_capacity(shared.bytes().len() + bytes.len());
                    own.extend_from_slice(shared.bytes());
                    own.extend_from_slice(bytes);
                    self.storage = Storage::Heap(own);
                }
            }
        }
    }

    /// Removes all bytes, and keeps the memory.
    pub fn clear(&mut self) {
        match &mut self.storage {
            Storage::Heap(own) => own.clear(),
            Storage::Shared(shared) => shared.clear(),
        }
    }

    /// The bytes in the heap.
    pub fn into_bytes(self) -> Vec<u8> {
        match self.storage {
            Storage::Heap(own) => own,
            Storage::Shared(shared) => shared.bytes().to_vec(),
        }
    }

    /// The message in shared memory, or its bytes in the heap.
    pub(super) fn into_shared(self) -> Result<SharedMessage, Vec<u8>> {
        match self.storage {
            Storage::Heap(own) => Err(own),
            Storage::Shared(shared) => Ok(shared),
        }
    }
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            storage: Storage::Heap(bytes),
        }
    }
}

impl Deref for Message {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.storage {
            Storage::Heap(own) => own,
            Storage::Shared(shared) => shared.bytes(),
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.storage {
            Storage::Heap(_) => "heap",
            Storage::Shared(_) => "shared",
        };
        write!(formatter, "Message({place}, {} bytes)", self.len())
    }
}
