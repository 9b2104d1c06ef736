//! The communicator of ranks on any hosts that reach each other, without MPI: over TCP.
//!
//! ```text
//! Tcp         the handle; `messaging` does the collectives
//! Sockets     the streams to all others, which never block; asks the system which have bytes or room
//! ├ Peer      one of them: frames out, frames in
//! └ Memory    what data are sent from and received into, straight from and to the stream
//! mesh        how the streams come about: everybody connects with everybody, and strangers are refused
//! ```
//! Ranks that a rank computes with for minutes may be silent meanwhile: their systems answer for them. A host whose
//! system does not, for half a minute, is lost; a process that ends is lost at once.
//!
//! The network is trusted, as by NCCL and by torchrun's rendezvous: the token of a job keeps strangers and other jobs
//! out, but nothing is encrypted.

mod frame;
mod group;
mod hello;
mod memory;
mod mesh;
mod peer;
mod sockets;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::messaging::{Handle, OverMessages};
use super::{Bootstrap, CommError, InProcessBootstrap, Settings};
use sockets::Sockets;

/// How a rank and the others reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The address at which this rank listens, on a port of the system's choice, and at which others reach it. Rank 0
    /// may name all of its addresses at once (`::`).
    pub own: IpAddr,
    /// The address at which this rank reaches rank 0, for when that one does not know.
    pub first: IpAddr,
}

impl Route {
    /// All ranks are on this host.
    pub const LOOPBACK: Self = Self {
        own: IpAddr::V4(Ipv4Addr::LOCALHOST),
        first: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
}

/// The ranks of any hosts, over TCP.
///
/// ```
/// use streamrec::comm::{Communicator, ReduceOp, Settings, Tcp};
///
/// let ranks = Tcp::connect_threads(2, &Settings::default())?;
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
pub struct Tcp(Handle<Sockets>);

impl Tcp {
    /// Connects this process (or thread) as `rank` of a world of `size` ranks. Waits for all.
    ///
    /// # Errors
    /// When a rank does not come in time or cannot be reached, or the bootstrap fails.
    pub fn connect(
        rank: usize,
        size: usize,
        bootstrap: &dyn Bootstrap,
        route: Route,
        settings: Settings,
    ) -> Result<Self, CommError> {
        let engine = group::connect(rank, size, bootstrap, route, settings)?;
        Handle::start(engine).map(Self)
    }

    /// All ranks of a world inside this process, in rank order; each is meant for a thread of its own. For tests and
    /// examples.
    ///
    /// # Errors
    /// As of [`connect`](Self::connect).
    pub fn connect_threads(size: usize, settings: &Settings) -> Result<Vec<Self>, CommError> {
        InProcessBootstrap::connect_threads(size, |rank, bootstrap| {
            let settings = settings.clone();
            Self::connect(rank, size, bootstrap, Route::LOOPBACK, settings)
        })
    }
}

impl OverMessages for Tcp {
    type Transport = Sockets;

    fn of(handle: Handle<Sockets>) -> Self {
        Self(handle)
    }

    fn handle(&self) -> &Handle<Sockets> {
        &self.0
    }
}

impl fmt::Debug for Tcp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Tcp({:?})", self.0)
    }
}
