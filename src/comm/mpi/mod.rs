//! The communicator of ranks that `mpirun` started, on one host or on several: over Open MPI or MPICH.
//!
//! ```text
//! MpiJob      MPI itself: begun and ended once a process
//! Mpi (handle) ── work ──► communication thread: Engine
//!                            ├ Message    call, sizes and small data, from each rank to each
//!                            ├ Transfers, AllReduce   the rest, in pieces
//!                            ├ Wait       asks MPI again: at once, then now and then; timeout
//!                            └ Memory     what MPI reads and writes; the only unsafe code
//! ```
//! All is point-to-point and never blocks, so that a late rank is noticed in time and named, and sums are in rank
//! order. Each communicator has a context of MPI and a thread of its own, so MPI must offer `MPI_THREAD_MULTIPLE`.

mod all_reduce;
mod collectives;
mod engine;
mod group;
mod job;
mod memory;
mod message;
mod transfers;
mod wait;

use std::fmt;
use std::sync::Arc;

pub use job::{MpiJob, mpi_version};

use super::stream::Stream;
use super::{CommBuffer, CommError, Communicator, Event, Message, ReduceOp, Settings, SingleRank};
use engine::Engine;

/// The ranks of a job that `mpirun` started.
///
/// ```no_run
/// use std::time::Duration;
/// use streamrec::comm::{Communicator, Mpi, MpiJob, Settings};
///
/// let job = MpiJob::begin()?;
/// let comm = Mpi::connect(&job, Settings::default())?;
/// comm.barrier().wait()?;
/// drop(comm);
/// job.finish(Duration::from_secs(60))?;
/// # Ok::<(), streamrec::comm::CommError>(())
/// ```
pub struct Mpi {
    rank: usize,
    size: usize,
    stream: Stream<Engine>,
}

impl Mpi {
    /// Connects this process with all others of the job; all of them call it, as often as each other. Waits for all.
    ///
    /// # Errors
    /// When a rank does not come in time, or MPI refuses, or an earlier call failed.
    pub fn connect(job: &MpiJob, settings: Settings) -> Result<Self, CommError> {
        Self::start(group::connect(job, settings)?)
    }

    fn start(engine: Engine) -> Result<Self, CommError> {
        let (rank, size) = (engine.rank, engine.size());
        let stream = Stream::start(engine.world[rank], engine)?;
        Ok(Self { rank, size, stream })
    }
}

impl fmt::Debug for Mpi {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Mpi(rank {} of {})", self.rank, self.size)
    }
}

impl Communicator for Mpi {
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
            .submit(move |engine| engine.all_gather_bytes(message))
    }

    fn all_to_all_bytes(&self, messages: Vec<Message>) -> Event<Vec<Message>> {
        self.stream
            .submit(move |engine| engine.all_to_all_bytes(messages))
    }

    fn barrier(&self) -> Event<()> {
        self.stream.submit(Engine::barrier)
    }

    fn split(&self, color: usize, key: usize) -> Result<Arc<dyn Communicator>, CommError> {
        let split = self.stream.submit(move |engine| engine.split(color, key));
        match split.wait()? {
            Some(engine) => Ok(Arc::new(Self::start(engine)?)),
            None => Ok(Arc::new(SingleRank)),
        }
    }
}
