//! The communicator of ranks that share one host: collectives straight on shared memory.
//!
//! ```text
//! SharedMemory (handle) ── job ──► communication thread, or the caller's where it waits: Engine
//!                                    ├ Control    who is where, with which call (one page)
//!                                    ├ Barrier    spin, then futex; timeout, dead ranks
//!                                    ├ Mailbox    byte messages, one a rank
//!                                    ├ SharedBuffer  f32 buffers, mapped by every rank
//!                                    └ MessagePool  messages whose memory changes hands
//! ```
//! All memory is memfds, opened by the others through `/proc/<pid>/fd/<n>`: no names to clean
//! up, and no limit by the size of /dev/shm. Linux only.
//!
//! After an error nothing is given back that another rank may still write to: buffers in flight
//! are dropped, and mappings outlive the rank that made them.
#![allow(unsafe_code)]

mod address;
mod all_to_all;
mod barrier;
mod buffer;
mod collectives;
mod control;
mod engine;
mod group;
mod liveness;
mod mailbox;
mod message;
mod segment;

use std::fmt;
use std::sync::Arc;

pub(super) use buffer::SharedBuffer;
pub(super) use message::SharedMessage;

use super::stream::Stream;
use super::{
    Bootstrap, CommBuffer, CommError, Communicator, Event, InProcessBootstrap, Message, ReduceOp,
    Settings, SingleRank,
};
use engine::Engine;
use message::MessagePool;

/// The ranks of one host, over shared memory.
///
/// ```
/// use streamrec::comm::{Communicator, ReduceOp, Settings, SharedMemory};
///
/// let ranks = SharedMemory::connect_threads(2, &Settings::default())?;
/// std::thread::scope(|scope| {
///     for comm in &ranks {
///         scope.spawn(move || {
///             let mut buffer = comm.allocate(3).unwrap();
///             buffer.fill(1.0 + comm.rank() as f32);
///             let event = comm.all_reduce(buffer, ReduceOp::Sum);
///             // ... compute something else ...
///             assert_eq!(*event.wait().unwrap(), [3.0; 3]);
///         });
///     }
/// });
/// # Ok::<(), streamrec::comm::CommError>(())
/// ```
pub struct SharedMemory {
    rank: usize,
    size: usize,
    messages: Arc<MessagePool>,
    stream: Stream<Engine>,
}

impl SharedMemory {
    /// Connects this process (or thread) as `rank` of a world of `size` ranks. Waits for all.
    pub fn connect(
        rank: usize,
        size: usize,
        bootstrap: &dyn Bootstrap,
        settings: Settings,
    ) -> Result<Self, CommError> {
        Self::start(group::connect(rank, size, bootstrap, settings)?)
    }

    /// All ranks of a world inside this process, in rank order; each is meant for a thread of
    /// its own. For tests and examples.
    pub fn connect_threads(size: usize, settings: &Settings) -> Result<Vec<Self>, CommError> {
        InProcessBootstrap::connect_threads(size, |rank, bootstrap| {
            Self::connect(rank, size, bootstrap, settings.clone())
        })
    }

    fn start(engine: Engine) -> Result<Self, CommError> {
        let (rank, size) = (engine.rank, engine.size());
        let messages = Arc::clone(&engine.messages);
        let stream = Stream::start(engine.world[rank], engine)?;
        Ok(Self {
            rank,
            size,
            messages,
            stream,
        })
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "SharedMemory(rank {} of {})",
            self.rank, self.size
        )
    }
}

impl Communicator for SharedMemory {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn allocate(&self, len: usize) -> Result<CommBuffer, CommError> {
        self.stream
            .submit(move |engine| engine.allocate(len))
            .wait()
    }

    fn all_reduce(&self, buffer: CommBuffer, op: ReduceOp) -> Event<CommBuffer> {
        self.stream
            .submit(move |engine| engine.all_reduce(buffer, op))
    }

    fn broadcast(&self, buffer: CommBuffer, root: usize) -> Event<CommBuffer> {
        self.stream
            .submit(move |engine| engine.broadcast(buffer, root))
    }

    fn reduce_scatter(&self, buffer: CommBuffer, op: ReduceOp) -> Event<CommBuffer> {
        self.stream
            .submit(move |engine| engine.reduce_scatter(buffer, op))
    }

    fn all_gather(&self, buffer: CommBuffer) -> Event<CommBuffer> {
        self.stream.submit(move |engine| engine.all_gather(buffer))
    }

    fn all_gather_bytes(&self, message: Vec<u8>) -> Event<Vec<Vec<u8>>> {
        self.stream
            .submit(move |engine| engine.all_gather_bytes(&message))
    }

    fn message(&self) -> Message {
        // Without shared memory, it is copied.
        let message = self.messages.message();
        message.map_or_else(|_| Message::default(), Message::shared)
    }

    fn all_to_all_bytes(&self, messages: Vec<Message>) -> Event<Vec<Message>> {
        self.stream
            .submit(move |engine| engine.all_to_all_bytes(messages))
    }

    fn reduce_now(&self, buffer: CommBuffer, op: ReduceOp) -> Result<CommBuffer, CommError> {
        self.stream.run(move |engine| engine.all_reduce(buffer, op))
    }

    fn gather_now(&self, message: Vec<u8>) -> Result<Vec<Vec<u8>>, CommError> {
        self.stream
            .run(move |engine| engine.all_gather_bytes(&message))
    }

    fn exchange_now(&self, messages: Vec<Message>) -> Result<Vec<Message>, CommError> {
        self.stream
            .run(move |engine| engine.all_to_all_bytes(messages))
    }

    fn barrier(&self) -> Event<()> {
        self.stream.submit(Engine::barrier)
    }

    fn ended(&self) -> Event<Vec<usize>> {
        self.stream.submit(|engine| Ok(engine.ended()))
    }

    fn split(&self, color: usize, key: usize) -> Result<Arc<dyn Communicator>, CommError> {
        match self
            .stream
            .submit(move |engine| engine.split(color, key))
            .wait()?
        {
            Some(engine) => Ok(Arc::new(Self::start(engine)?)),
            None => Ok(Arc::new(SingleRank)),
        }
    }
}
