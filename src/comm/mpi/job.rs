//! This process as one of a job that `mpirun` started: MPI begins and ends here.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::environment::Universe;

use super::memory::Link;
use super::wire::Wire;
use crate::comm::CommError;
use crate::comm::call::Kind;
use crate::comm::messaging::Engine;

/// How long a process that abandons the others waits for its own communication threads.
const PATIENCE: Duration = Duration::from_secs(1);

/// MPI in this process. It stays on the thread that began it; communicators come from
/// [`Mpi::connect`](super::Mpi::connect) and may go anywhere.
///
/// MPI ends when all ranks [`finish`](Self::finish). A rank that fails must not do so, for it would wait for the others:
/// it [`abandon`](Self::abandon)s them and exits with a code that is not 0, upon which `mpirun` ends the job. Dropping
/// is abandoning.
pub struct MpiJob {
    /// Dropping it finalises MPI, which waits for all processes; so it is forgotten unless all went well.
    universe: Option<Universe>,
    rank: usize,
    size: usize,
    open: Arc<Open>,
    /// What meets the other ranks over MPI's own world whenever communicators are made of all of them: one for all
    /// times, since a rank that is ahead may have said already what belongs to the next.
    world: RefCell<Option<Engine<Wire>>>,
    /// MPI must end on the thread that began it.
    here: PhantomData<*const ()>,
}

/// The communication threads that use MPI.
#[derive(Default)]
pub(super) struct Open {
    count: Mutex<usize>,
    closed: Condvar,
    abandoned: AtomicBool,
}

/// Counts one communication thread, until it drops.
pub(in crate::comm) struct Member(Arc<Open>);

impl MpiJob {
    /// Begins MPI. Waits for all processes of the job.
    ///
    /// # Errors
    /// When MPI was begun in this process before, or cannot be used by several threads at a time.
    pub fn begin() -> Result<Self, CommError> {
        let refused = |problem: String| CommError::Connect { rank: 0, problem };
        let begun = mpi::initialize_with_threading(Threading::Multiple);
        let (universe, threading) = begun.ok_or_else(|| {
            refused("MPI was begun in this process before, and can be only once".to_owned())
        })?;
        let mut job = Self {
            universe: Some(universe),
            rank: 0,
            size: 1,
            open: Arc::default(),
            world: RefCell::default(),
            here: PhantomData,
        };
        if threading != Threading::Multiple {
            let library = mpi::environment::library_version().unwrap_or_default();
            return Err(refused(format!(
                "every communicator has a thread of its own, so the MPI library must offer MPI_THREAD_MULTIPLE, but \
                 `{}` offers {threading:?}; use a library that was built with it, as Open MPI and MPICH are unless told \
                 otherwise",
                library
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .trim_end_matches('\0')
            )));
        }
        let place = Link::world().and_then(Link::place);
        (job.rank, job.size) = place.map_err(|refusal| refused(refusal.problem))?;
        Ok(job)
    }

    /// Whether MPI was begun in this process.
    pub fn has_begun() -> bool {
        mpi::environment::is_initialized()
    }

    /// This process among those of the job.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The processes of the job.
    pub fn size(&self) -> usize {
        self.size
    }

    pub(super) fn join(&self) -> Member {
        Member::of(&self.open)
    }

    pub(super) fn world(&self) -> &RefCell<Option<Engine<Wire>>> {
        &self.world
    }

    /// Ends MPI, once every communicator of this process is dropped and the other ranks have dropped theirs. Collective.
    ///
    /// # Errors
    /// When that is not so within `timeout`; then this process must exit with a code that is not 0.
    pub fn finish(mut self, timeout: Duration) -> Result<(), CommError> {
        let began = Instant::now();
        drop(self.world.take());
        if self.open.wait(timeout) > 0 {
            return Err(CommError::Timeout {
                collective: Kind::Leave.name(),
                sequence: 1,
                missing: (0..self.size).filter(|rank| *rank != self.rank).collect(),
                waited: began.elapsed(),
            });
        }
        drop(self.universe.take());
        Ok(())
    }

    /// Leaves the job without another word to the other ranks. Communication threads of this process end what they do;
    /// the process is to exit, with a code that is not 0.
    pub fn abandon(self) {
        drop(self);
    }
}

impl Drop for MpiJob {
    fn drop(&mut self) {
        if let Some(universe) = self.universe.take() {
            std::mem::forget(universe);
            self.open.abandon();
            drop(self.world.take());
            // A thread inside of MPI while the process exits could end it by a signal instead of its code.
            self.open.wait(PATIENCE);
        }
    }
}

impl Open {
    fn lock(&self) -> std::sync::MutexGuard<'_, usize> {
        // A number is valid whatever its last holder did.
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no communicator is open; returns the number of those that are.
    fn wait(&self, timeout: Duration) -> usize {
        let count = self.lock();
        let waited = self
            .closed
            .wait_timeout_while(count, timeout, |count| *count > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }
}

impl Member {
    fn of(open: &Arc<Open>) -> Self {
        *open.lock() += 1;
        Self(Arc::clone(open))
    }

    /// Whether the process is about to exit, and must not call MPI any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.0.abandoned.load(Ordering::Relaxed)
    }
}

impl Clone for Member {
    fn clone(&self) -> Self {
        Self::of(&self.0)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        self.0.closed.notify_all();
    }
}

/// What the library of MPI calls itself.
pub fn mpi_version() -> String {
    let told = mpi::environment::library_version().unwrap_or_default();
    let name = told.split([',', '\n']).next().unwrap_or_default();
    let words: Vec<&str> = name.split_whitespace().collect();
    match words.is_empty() {
        true => "unknown version".to_owned(),
        false => words.join(" "),
    }
}
