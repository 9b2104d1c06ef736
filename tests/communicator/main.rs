//! Collectives: over shared memory and over TCP, with ranks as threads of this process or as processes, and, with the
//! feature `mpi`, the same claims over MPI.

mod agreement;
mod failures;
#[cfg(feature = "mpi")]
mod mpi;
mod processes;
mod strangers;

use std::cell::Cell;
use std::time::Duration;

use streamrec::comm::{Bootstrap, CommError, Communicator, Route, Settings, SharedMemory, Tcp};

/// What carries the ranks' data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Medium {
    SharedMemory,
    Tcp,
}

thread_local! {
    /// The one of the test that runs on this thread.
    static MEDIUM: Cell<Medium> = const { Cell::new(Medium::SharedMemory) };
}

impl Medium {
    fn current() -> Self {
        MEDIUM.get()
    }

    fn connect(
        self,
        rank: usize,
        size: usize,
        bootstrap: &dyn Bootstrap,
        settings: Settings,
    ) -> Result<Box<dyn Communicator>, CommError> {
        Ok(match self {
            Self::SharedMemory => Box::new(SharedMemory::connect(rank, size, bootstrap, settings)?),
            Self::Tcp => {
                let route = Route::LOOPBACK;
                Box::new(Tcp::connect(rank, size, bootstrap, route, settings)?)
            }
        })
    }

    fn connect_threads(self, size: usize, settings: &Settings) -> Vec<Box<dyn Communicator>> {
        fn boxed<C: Communicator + 'static>(ranks: Vec<C>) -> Vec<Box<dyn Communicator>> {
            let ranks = ranks.into_iter();
            ranks.map(|comm| Box::new(comm) as Box<_>).collect()
        }
        match self {
            Self::SharedMemory => boxed(SharedMemory::connect_threads(size, settings).unwrap()),
            Self::Tcp => boxed(Tcp::connect_threads(size, settings).unwrap()),
        }
    }
}

/// Claims of the module that names them, over TCP.
macro_rules! also_over_tcp {
    ($($claim:ident,)*) => {
        mod over_tcp {
            $(
                #[test]
                fn $claim() {
                    crate::MEDIUM.set(crate::Medium::Tcp);
                    super::$claim();
                }
            )*
        }
    };
}
pub(crate) use also_over_tcp;

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
    let ranks = Medium::current().connect_threads(size, settings);
    std::thread::scope(|scope| {
        let body = &body;
        let threads: Vec<_> = ranks
            .iter()
            .map(|comm| scope.spawn(move || body(comm.as_ref())))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}
