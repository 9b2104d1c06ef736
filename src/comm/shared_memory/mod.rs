//! The communicator of ranks that share one host: collectives straight on shared memory.
//!
//! ```text
//! SharedMemory (handle) ── job ──► communication thread: Engine
//!                                    ├ Control    who is where, with which call (one page)
//!                                    ├ Barrier    spin, then futex; timeout, dead ranks
//!                                    ├ Mailbox    byte messages, one a rank
//!                                    └ SharedBuffer  f32 buffers, mapped by every rank
//! ```
//! All memory is memfds, opened by the others through `/proc/<pid>/fd/<n>`: no names to clean
//! up, and no limit by the size of /dev/shm. Linux only.
//!
//! After an error nothing is given back that another rank may still write to: buffers in flight
//! are dropped, and mappings outlive the rank that made them.
#![allow(unsafe_code)]

mod address;
mod barrier;
mod buffer;
mod call;
mod collectives;
mod control;
mod engine;
mod group;
mod liveness;
mod mailbox;
mod segment;

use std::fmt;
use std::sync::{Arc, mpsc};
use std::time::Duration;

pub(super) use buffer::SharedBuffer;

use super::{
    Bootstrap, CommBuffer, CommError, Communicator, Event, InProcessBootstrap, Observer, ReduceOp,
    Silent, SingleRank,
};
use engine::Engine;

/// How a [`SharedMemory`] communicator behaves.
#[derive(Clone)]
pub struct Settings {
    /// How long a rank waits for the others in a collective. A rank whose process ends is
    /// noticed within a fraction of a second; this is for one that hangs.
    pub timeout: Duration,
    /// Hears what the communication thread does and waits for.
    pub observer: Arc<dyn Observer>,
    /// Bytes for one message in a rank's mailbox at first; larger messages make it grow.
    pub segment_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(600),
            observer: Arc::new(Silent),
            segment_bytes: 256 * 1024,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            timeout,
            segment_bytes,
            observer: _,
        } = self;
        formatter
            .debug_struct("Settings")
            .field("timeout", timeout)
            .field("segment_bytes", segment_bytes)
            .finish_non_exhaustive()
    }
}

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
    jobs: mpsc::Sender<Job>,
}

type Job = Box<dyn FnOnce(&mut Engine) + Send>;

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
        let bootstrap = &InProcessBootstrap::default();
        let connect = |rank| Self::connect(rank, size, bootstrap, settings.clone());
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..size)
                .map(|rank| scope.spawn(move || connect(rank)))
                .collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined
                .map(|result| result.unwrap_or(Err(CommError::Abandoned)))
                .collect()
        })
    }

    /// Starts the communication thread. It ends when the handle is dropped and all that was
    /// submitted is done; nobody waits for it, so that a failing rank can exit at once.
    fn start(mut engine: Engine) -> Result<Self, CommError> {
        let (rank, size) = (engine.rank, engine.size());
        let world_rank = engine.world[rank];
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name(format!("comm-{world_rank}"))
            .spawn(move || queue.into_iter().for_each(|job| job(&mut engine)))
            .map_err(|error| CommError::Connect {
                rank: world_rank,
                problem: format!("cannot start the communication thread: {error}"),
            })?;
        Ok(Self { rank, size, jobs })
    }

    fn submit<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Engine) -> Result<T, CommError> + Send + 'static,
    ) -> Event<T> {
        let (promise, event) = Event::pending();
        let job: Job = Box::new(move |engine| promise.complete(work(engine)));
        // If the thread has ended, the promise is dropped and the event says so.
        let _ = self.jobs.send(job);
        event
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
        self.submit(move |engine| engine.allocate(len)).wait()
    }

    fn all_reduce(&self, buffer: CommBuffer, op: ReduceOp) -> Event<CommBuffer> {
        self.submit(move |engine| engine.all_reduce(buffer, op))
    }

    fn broadcast(&self, buffer: CommBuffer, root: usize) -> Event<CommBuffer> {
        self.submit(move |engine| engine.broadcast(buffer, root))
    }

    fn reduce_scatter(&self, buffer: CommBuffer, op: ReduceOp) -> Event<CommBuffer> {
        self.submit(move |engine| engine.reduce_scatter(buffer, op))
    }

    fn all_gather(&self, buffer: CommBuffer) -> Event<CommBuffer> {
        self.submit(move |engine| engine.all_gather(buffer))
    }

    fn all_gather_bytes(&self, message: Vec<u8>) -> Event<Vec<Vec<u8>>> {
        self.submit(move |engine| engine.all_gather_bytes(&message))
    }

    fn all_to_all_bytes(&self, messages: Vec<Vec<u8>>) -> Event<Vec<Vec<u8>>> {
        self.submit(move |engine| engine.all_to_all_bytes(&messages))
    }

    fn barrier(&self) -> Event<()> {
        self.submit(Engine::barrier)
    }

    fn split(&self, color: usize, key: usize) -> Result<Arc<dyn Communicator>, CommError> {
        match self.submit(move |engine| engine.split(color, key)).wait()? {
            Some(engine) => Ok(Arc::new(Self::start(engine)?)),
            None => Ok(Arc::new(SingleRank)),
        }
    }
}
