//! Collectives of ranks that share no memory: all is messages between two of them.
//!
//! ```text
//! OverMessages (handle) ── work ──► communication thread: Engine
//!                                     ├ Message    call, sizes and small data, from each rank to each
//!                                     ├ Transfers, AllReduce   the rest, in pieces
//!                                     ├ Wait       timeout, and who is to blame
//!                                     └ Transport  MPI, or sockets
//! ```
//! Nothing blocks but a [`Transport::pause`], so a late rank is noticed in time and named, and sums are in rank order.

mod all_reduce;
mod collectives;
mod engine;
mod group;
mod handle;
mod message;
mod transfers;
mod wait;

use std::ops::Range;
use std::time::Duration;

pub(super) use engine::{Engine, Work};
pub(super) use handle::{Handle, OverMessages};

use super::{CommBuffer, CommError};

/// The tag of [`Message`](message::Message)s; data have others.
pub(super) const MESSAGE_TAG: i32 = 1;

/// A group has at most so many ranks.
pub(super) const MAX_RANKS: usize = 4096;

/// The most bytes of a message besides those of [`Transport::INLINE_BYTES`].
pub(super) const MESSAGE_OVERHEAD: usize = message::HEAD_BYTES + MAX_RANKS * size_of::<u64>();

/// Carries messages and data between two ranks of a group. Ranks are those of the group.
///
/// What one rank sends to another with one tag arrives in the order in which it was sent.
pub(super) trait Transport: Send + Sized + 'static {
    /// With its head, a message of so many bytes takes one trip, whatever the receiver does.
    const INLINE_BYTES: usize;

    /// Whether a rank that leaves waits until all others have.
    const WAITS_FOR_FAREWELLS: bool;

    /// Whether a collective that is waited for may run on the thread that waits.
    const RUNS_WHERE_CALLED: bool;

    /// What data are sent from and received into.
    type Memory<L: Copy + Send>: Memory<L, Transport = Self>;

    /// Begins to send a message.
    fn say(&mut self, to: usize, text: Vec<u8>) -> Result<(), Refusal>;

    /// Goes on sending messages; returns whether all are out.
    fn push(&mut self) -> Result<bool, Refusal>;

    /// What has come next, if anything has.
    fn hear(&mut self) -> Result<Option<Heard>, Refusal>;

    /// Rests until something comes or can go out, or for a while that depends on how long nothing has happened.
    /// `spins` where every rank has a core of its own.
    fn pause(&mut self, idle: Duration, spins: bool);

    /// Whether the process is about to exit, and nothing must be sent any more.
    fn is_abandoned(&self) -> bool {
        false
    }

    /// Takes part in making the transports of all groups that the engine's splits into, and returns that of the group
    /// `members`; `None` if this rank is alone there. Every rank calls it, inside of no collective.
    fn split(engine: &mut Engine<Self>, members: &[usize]) -> Result<Option<Self>, CommError>;
}

/// What came from another rank.
pub(super) enum Heard {
    /// A whole message.
    Message { from: usize, text: Vec<u8> },
    /// Nothing will come any more.
    Closed { from: usize },
}

/// Why a transport refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) problem: String,
    /// The rank that sent what contradicts itself, if that is why.
    pub(super) corrupt: Option<usize>,
}

impl Refusal {
    #[cfg_attr(
        not(feature = "mpi"),
        expect(dead_code, reason = "sockets close instead")
    )]
    pub(super) fn new(problem: String) -> Self {
        let corrupt = None;
        Self { problem, corrupt }
    }

    pub(super) fn corrupt(rank: usize, problem: String) -> Self {
        let corrupt = Some(rank);
        Self { problem, corrupt }
    }
}

/// Bytes that are sent and received while this rank goes on; a label says what each operation is for.
pub(super) trait Memory<L>: Send + Sized {
    type Transport: Transport;

    fn of_buffer(buffer: CommBuffer) -> Self;

    fn of_bytes(bytes: Vec<u8>) -> Self;

    fn is_idle(&self) -> bool {
        self.under_way().next().is_none()
    }

    /// The labels of the operations under way.
    fn under_way(&self) -> impl Iterator<Item = L>;

    /// The buffer, if it is one. Panics while operations are under way.
    fn into_buffer(self) -> Option<CommBuffer>;

    /// The bytes; none of a buffer. Panics while operations are under way.
    fn into_bytes(self) -> Vec<u8>;

    /// The bytes at `range`, where none are being received.
    fn read(&self, range: Range<usize>) -> &[u8];

    /// The bytes at `range`, to be written; none of them are being sent or received.
    fn write(&mut self, range: Range<usize>) -> &mut [u8];

    /// Begins to send the bytes at `range`, at most `i32::MAX`, to the rank and with the tag of `address`.
    fn send(
        &mut self,
        transport: &mut Self::Transport,
        range: Range<usize>,
        address: (usize, i32),
        label: L,
    ) -> Result<(), Refusal>;

    /// Begins to receive the bytes at `range`, at most `i32::MAX`, from the rank and with the tag of `address`.
    fn receive(
        &mut self,
        transport: &mut Self::Transport,
        range: Range<usize>,
        address: (usize, i32),
        label: L,
    ) -> Result<(), Refusal>;

    /// Goes on, and appends the labels of the operations that are over by now.
    fn poll(&mut self, transport: &mut Self::Transport, over: &mut Vec<L>) -> Result<(), Refusal>;

    /// Gives up all operations, such that messages can still be sent.
    fn abandon(&mut self, _transport: &mut Self::Transport) {}
}
