//! What is sent from and received into, a little at every poll.

use std::ops::Range;

use super::sockets::Sockets;
use crate::comm::CommBuffer;
use crate::comm::messaging::{self, Refusal};

/// Bytes with the operations on them.
pub(in crate::comm) struct Memory<L> {
    storage: Storage,
    operations: Vec<Operation<L>>,
}

enum Storage {
    Buffer(CommBuffer),
    Bytes(Vec<u8>),
}

struct Operation<L> {
    /// What is left.
    range: Range<usize>,
    /// The number of all bytes.
    bytes: usize,
    rank: usize,
    ticket: u64,
    direction: Direction,
    label: L,
}

#[derive(Clone, Copy)]
enum Direction {
    Out,
    /// With the tag.
    In(i32),
}

impl Storage {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Buffer(buffer) => bytemuck::cast_slice(buffer),
            Self::Bytes(bytes) => bytes,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Buffer(buffer) => bytemuck::cast_slice_mut(buffer),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl<L> Memory<L> {
    fn new(storage: Storage) -> Self {
        Self {
            storage,
            operations: Vec::new(),
        }
    }
}

impl<L: Copy + Send> messaging::Memory<L> for Memory<L> {
    type Transport = Sockets;

    fn of_buffer(buffer: CommBuffer) -> Self {
        Self::new(Storage::Buffer(buffer))
    }

    fn of_bytes(bytes: Vec<u8>) -> Self {
        Self::new(Storage::Bytes(bytes))
    }

    fn under_way(&self) -> impl Iterator<Item = L> {
        self.operations.iter().map(|operation| operation.label)
    }

    fn into_buffer(self) -> Option<CommBuffer> {
        assert!(self.operations.is_empty(), "the buffer is still in use");
        match self.storage {
            Storage::Buffer(buffer) => Some(buffer),
            Storage::Bytes(_) => None,
        }
    }

    fn into_bytes(self) -> Vec<u8> {
        assert!(self.operations.is_empty(), "the bytes are still in use");
        match self.storage {
            Storage::Bytes(bytes) => bytes,
            Storage::Buffer(_) => Vec::new(),
        }
    }

    fn read(&self, range: Range<usize>) -> &[u8] {
        &self.storage.bytes()[range]
    }

    fn write(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.storage.bytes_mut()[range]
    }

    fn send(
        &mut self,
        sockets: &mut Sockets,
        range: Range<usize>,
        (to, tag): (usize, i32),
        label: L,
    ) -> Result<(), Refusal> {
        let bytes = range.len();
        self.operations.push(Operation {
            range,
            bytes,
            rank: to,
            ticket: sockets.announce(to, tag, bytes),
            direction: Direction::Out,
            label,
        });
        Ok(())
    }

    fn receive(
        &mut self,
        sockets: &mut Sockets,
        range: Range<usize>,
        (from, tag): (usize, i32),
        label: L,
    ) -> Result<(), Refusal> {
        self.operations.push(Operation {
            bytes: range.len(),
            range,
            rank: from,
            ticket: sockets.ticket(),
            direction: Direction::In(tag),
            label,
        });
        Ok(())
    }

    fn poll(&mut self, sockets: &mut Sockets, over: &mut Vec<L>) -> Result<(), Refusal> {
        for operation in &mut self.operations {
            let Operation {
                range,
                bytes,
                rank,
                ticket,
                direction,
                label,
            } = operation;
            let Some(peer) = sockets.peer(*rank) else {
                continue;
            };
            match *direction {
                Direction::Out => {
                    let left = peer.send(*ticket, &self.storage.bytes()[range.clone()]);
                    range.start = range.end - left;
                }
                Direction::In(tag) => {
                    let place = &mut self.storage.bytes_mut()[range.clone()];
                    let received = peer.receive(*ticket, tag, place, *bytes);
                    let corrupt = |problem| Refusal::corrupt(*rank, problem);
                    range.start += received.map_err(corrupt)?;
                }
            }
            if range.start == range.end {
                over.push(*label);
            }
        }
        self.operations
            .retain(|operation| operation.range.start < operation.range.end);
        Ok(())
    }

    fn abandon(&mut self, sockets: &mut Sockets) {
        for operation in self.operations.drain(..) {
            let peer = sockets.peer(operation.rank);
            if let (Some(peer), Direction::Out) = (peer, operation.direction) {
                peer.give_up(operation.ticket, &self.storage.bytes()[operation.range]);
            }
        }
    }
}
