//! Collectives: over shared memory with ranks as threads of this process or as processes, and, with the feature `mpi`,
//! the same claims over MPI.

mod agreement;
mod failures;
#[cfg(feature = "mpi")]
mod mpi;
mod processes;

use std::time::Duration;

use streamrec::comm::{Communicator, Settings, SharedMemory};

/// Runs `body` as each rank of a world of threads; returns the results in rank order. Where this process is a rank that
/// `mpirun` started, it runs as that one only, if it is one of the first `size`.
fn on_all_ranks<T: Send>(size: usize, body: impl Fn(&dyn Communicator) -> T + Sync) -> Vec<T> {
    // When one rank fails a test, the others soon give up too.
    let settings = Settings {
        timeout: Duration::from_secs(20),
        ..Settings::default()
    };
    on_all_ranks_with(size, &settings, body)
}

fn on_all_ranks_with<T: Send>(
    size: usize,
    settings: &Settings,
    body: impl Fn(&dyn Communicator) -> T + Sync,
) -> Vec<T> {
    #[cfg(feature = "mpi")]
    if let Some(comm) = mpi::world(size, settings) {
        return comm.iter().map(|comm| body(comm.as_ref())).collect();
    }
    let ranks = SharedMemory::connect_threads(size, settings).unwrap();
    std::thread::scope(|scope| {
        let body = &body;
        let threads: Vec<_> = ranks
            .iter()
            .map(|comm| scope.spawn(move || body(comm)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}
