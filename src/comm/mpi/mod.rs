//! The communicator of ranks that `mpirun` started, on one host or on several: over Open MPI or MPICH.
//!
//! ```text
//! MpiJob      MPI itself: begun and ended once a process
//! Mpi         the handle; `messaging` does the collectives
//! Wire        messages, and asking MPI again: at once, then now and then
//! Memory      what MPI reads and writes; the only unsafe code
//! ```
//! Each communicator has a context of MPI and a thread of its own, so MPI must offer `MPI_THREAD_MULTIPLE`.

mod group;
mod job;
mod memory;
mod wire;

use std::fmt;

pub use job::{MpiJob, mpi_version};

use super::messaging::{Handle, OverMessages};
use super::{CommError, Settings};
use wire::Wire;

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
pub struct Mpi(Handle<Wire>);

impl Mpi {
    /// Connects this process with all others of the job; all of them call it, as often as each other. Waits for all.
    ///
    /// # Errors
    /// When a rank does not come in time, or MPI refuses, or an earlier call failed.
    pub fn connect(job: &MpiJob, settings: Settings) -> Result<Self, CommError> {
        Handle::start(group::connect(job, settings)?).map(Self)
    }
}

impl OverMessages for Mpi {
    type Transport = Wire;

    fn of(handle: Handle<Wire>) -> Self {
        Self(handle)
    }

    fn handle(&self) -> &Handle<Wire> {
        &self.0
    }
}

impl fmt::Debug for Mpi {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Mpi({:?})", self.0)
    }
}
