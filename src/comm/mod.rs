//! Collectives: how the ranks of a job add, share and exchange.
//!
//! ```text
//! caller ── all_reduce(buffer) ──► communication thread (the stream) ──► peers
//!        ◄── Event<CommBuffer> ──┘        in order of submission
//! ```
//!
//! [`Communicator`] is the one interface; [`SharedMemory`] implements it for the ranks of one
//! host, [`Tcp`] for those of any hosts, `Mpi` (with the feature `mpi`) for those that `mpirun` started on any hosts,
//! [`SingleRank`] for a world of one. A collective only enqueues: it returns an [`Event`],
//! and the caller computes on until it needs the result. Every rank of a communicator must make
//! the same collective calls in the same order; where they do not, all of them get an error that
//! names both calls. A rank that is lost or late is an error on all ranks too. After an error the
//! communicator is poisoned: later calls fail at once.
//!
//! Sums are taken in rank order (or by halves, [`ReduceOp::TreeSum`]), `((x0 + x1) + x2) + ...`, so a result is the same on every rank
//! and in every run. Ranks in errors and reports are those of the world, also inside a group.
//!
//! Never does: retry, or change the membership of a running communicator.

mod bootstrap;
mod buffer;
mod call;
mod delayed;
mod error;
mod event;
mod failure;
mod message;
mod messaging;
#[cfg(feature = "mpi")]
mod mpi;
mod observer;
mod reduction;
mod rendezvous;
mod settings;
mod shared_memory;
mod single_rank;
mod stream;
mod tcp;
mod typed;

use std::ops::Range;
use std::sync::Arc;

pub use bootstrap::{Bootstrap, BootstrapError, InProcessBootstrap};
pub use buffer::CommBuffer;
pub use delayed::{Carried, Delayed, LinkSpeed};
pub use error::CommError;
pub use event::{Event, Promise};
pub use message::Message;
#[cfg(feature = "mpi")]
pub use mpi::{Mpi, MpiJob, mpi_version};
pub use observer::{Observer, Silent};
pub use settings::Settings;
pub use shared_memory::SharedMemory;
pub use single_rank::SingleRank;
pub use tcp::{Route, Tcp};
pub use typed::{all_gather_pod, all_reduce_f64, broadcast_bytes};

/// How a collective combines the values of the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReduceOp {
    /// The float32 sum in rank order.
    Sum,
    /// The float32 sum by halves, `(first half) + (second half)`, each again by halves: for 2, 4, 8, ...
    /// ranks the tree whose leaves are the ranks.
    TreeSum,
    /// The largest value; NaN where any rank has NaN.
    Max,
}

/// A group of ranks that communicate, seen from one of them.
///
/// Buffers are `[len]` of f32. Collectives run in the order of submission; several may be in
/// flight. Every method is collective, except [`rank`](Self::rank), [`size`](Self::size) and [`ended`](Self::ended):
/// all ranks call it, in the same order, with the same `len`, operation and root.
pub trait Communicator: Send + Sync {
    /// This rank, in `0..size`.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn size(&self) -> usize;

    /// A zeroed buffer of `len` f32 that the collectives of this communicator, and of no other,
    /// use without a copy. Waits for all ranks.
    fn allocate(&self, len: usize) -> Result<CommBuffer, CommError>;

    /// Takes the buffer and gives it back reduced over all ranks: ownership is the proof that
    /// nobody touches it in flight. After an error the buffer is gone.
    fn all_reduce(&self, buffer: CommBuffer, op: ReduceOp) -> Event<CommBuffer>;

    /// Gives every rank the contents of the buffer of `root`.
    fn broadcast(&self, buffer: CommBuffer, root: usize) -> Event<CommBuffer>;

    /// Reduces the chunk of this rank, [`chunk_range`]`(len, rank, size)`; the rest of the buffer
    /// is unspecified afterwards.
    fn reduce_scatter(&self, buffer: CommBuffer, op: ReduceOp) -> Event<CommBuffer>;

    /// Fills each chunk [`chunk_range`]`(len, r, size)` from the buffer of its owner, rank r.
    fn all_gather(&self, buffer: CommBuffer) -> Event<CommBuffer>;

    /// Gives every rank the messages of all ranks, in rank order. Sizes may differ.
    fn all_gather_bytes(&self, message: Vec<u8>) -> Event<Vec<Vec<u8>>>;

    /// An empty message, to be written and sent: where ranks share memory, without a copy.
    fn message(&self) -> Message {
        Message::default()
    }

    /// Sends `messages[r]` to rank r; returns what each rank sent to this one, in rank order. What came can be cleared
    /// and be the next message.
    fn all_to_all_bytes(&self, messages: Vec<Message>) -> Event<Vec<Message>>;

    /// [`all_reduce`](Self::all_reduce), waited for. Whoever computes nothing meanwhile calls this: a communicator may do
    /// it on the calling thread, which saves small collectives two wake-ups.
    fn reduce_now(&self, buffer: CommBuffer, op: ReduceOp) -> Result<CommBuffer, CommError> {
        self.all_reduce(buffer, op).wait()
    }

    /// [`all_gather_bytes`](Self::all_gather_bytes), waited for, likewise.
    fn gather_now(&self, message: Vec<u8>) -> Result<Vec<Vec<u8>>, CommError> {
        self.all_gather_bytes(message).wait()
    }

    /// [`all_to_all_bytes`](Self::all_to_all_bytes), waited for, likewise.
    fn exchange_now(&self, messages: Vec<Message>) -> Result<Vec<Message>, CommError> {
        self.all_to_all_bytes(messages).wait()
    }

    /// Is ready once every rank has come to it.
    fn barrier(&self) -> Event<()>;

    /// The other ranks that have ended or left, as far as this one can know without waiting for anybody: not collective, and
    /// ready once what was begun before is over. None where only collectives tell.
    fn ended(&self) -> Event<Vec<usize>> {
        Event::completed(Ok(Vec::new()))
    }

    /// Splits the ranks into groups of equal `color`, ordered by `key`, then by rank. Waits for
    /// all ranks.
    fn split(&self, color: usize, key: usize) -> Result<Arc<dyn Communicator>, CommError>;
}

/// The chunk of a buffer of `len` values that `rank` owns: `[rank*len/size, (rank+1)*len/size)`.
///
/// ```
/// use streamrec::comm::chunk_range;
/// assert_eq!(chunk_range(10, 0, 3), 0..3);
/// assert_eq!(chunk_range(10, 2, 3), 6..10);
/// ```
pub fn chunk_range(len: usize, rank: usize, size: usize) -> Range<usize> {
    // 128 bits, because rank * len may not fit in 64.
    let bound = |rank: usize| (rank as u128 * len as u128 / size as u128) as usize;
    bound(rank)..bound(rank + 1)
}
