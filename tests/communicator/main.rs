//! Collectives over shared memory: ranks as threads of this process, and ranks as processes.

mod agreement;
mod failures;
mod processes;

use std::time::Duration;

use streamrec::comm::{Settings, SharedMemory};

/// Runs `body` as each rank of a world of threads; returns the results in rank order.
fn on_all_ranks<T: Send>(size: usize, body: impl Fn(&SharedMemory) -> T + Sync) -> Vec<T> {
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
    body: impl Fn(&SharedMemory) -> T + Sync,
) -> Vec<T> {
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
