//! One job over several hosts: a launcher on each, whose ranks node 0 starts.
//!
//! ```text
//! node 0: launcher (attempts, ranks of its own)              node 1: launcher
//!    ├ Roster ◄────────── joins, beats ────────────────────────────┤
//!    └ RemoteRank ───── a connection a rank ────────────────────► Shell ── rank
//! or: mpirun ── agent (one a host) ── a command ────────────────► Shell ── orted ── ranks
//! ```
//!
//! Launchers join at node 0's address (`--rdzv-endpoint`), which starts the ranks once all are there: those of other hosts
//! through their launchers. Over MPI only `mpirun` can start ranks as one job: where it would log in to a host by ssh, it
//! runs an agent (`streamrec node-shell HOST COMMAND`) that hands the command to that host's launcher. Whoever runs
//! something for others must know whom to trust: node 0 makes a token for the job, tells it the launchers that join, and
//! they run nothing without it. Their network is trusted, as by torchrun's rendezvous.
//!
//! A launcher that is gone, or silent for [`SILENCE`], ends the attempt; the next one begins when all are there again.

mod gathering;
mod member;
mod remote_rank;
mod roster;
mod shell;
mod wire;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use thiserror::Error;

pub(crate) use gathering::Gathering;
pub use member::{Membership, serve_node};
pub(crate) use remote_rank::RemoteRank;
pub use roster::{Head, Roster};
pub use shell::node_shell;

/// Variable that tells an agent where the launchers are.
pub const NODES_VARIABLE: &str = "STREAMREC_NODES";

/// Variable that tells a rank the address by which other hosts reach its own, where there are several.
pub const ADDRESS_VARIABLE: &str = "STREAMREC_NODE_ADDRESS";

/// Time between two signs of life.
const BEAT: Duration = Duration::from_secs(1);
/// A launcher that gives no sign of life for so long is lost.
pub const SILENCE: Duration = Duration::from_secs(6);

/// The addresses of an endpoint that all hosts can use: IPv4, as Open MPI separates a host from its slots by a colon.
fn addresses_of(endpoint: &str) -> io::Result<Vec<SocketAddr>> {
    let mut addresses: Vec<_> = endpoint.to_socket_addrs()?.collect();
    addresses.retain(|address| address.is_ipv4() && !address.ip().is_unspecified());
    if addresses.is_empty() {
        let problem =
            "expected a name or an IPv4 address by which all hosts reach host 0, and a port";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    Ok(addresses)
}

/// Why launchers do not work together.
#[derive(Debug, Error)]
pub enum NodesError {
    /// Node 0 cannot listen.
    #[error(
        "cannot listen at {endpoint}: it must be an address of this host, node 0, with a free port"
    )]
    Listen {
        /// The rendezvous endpoint.
        endpoint: String,
        /// What the system said.
        source: io::Error,
    },
    /// Node 0 does not answer.
    #[error(
        "node {node} cannot reach node 0 at {endpoint} for {waited:.0?}: is its launcher started, and the address right?"
    )]
    Join {
        /// This node.
        node: usize,
        /// The rendezvous endpoint.
        endpoint: String,
        /// For how long it tried.
        waited: Duration,
        /// What the system said last.
        source: io::Error,
    },
    /// Node 0 does not want this one.
    #[error("node 0 at {endpoint} refuses node {node}: {reason}")]
    Refused {
        /// This node.
        node: usize,
        /// The rendezvous endpoint.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// Some nodes never came, or never came back.
    #[error(
        "nodes {missing:?} did not join within {waited:.0?}; start `streamrec launch --node-rank N` on each host"
    )]
    Missing {
        /// Those nodes.
        missing: Vec<usize>,
        /// How long node 0 waited.
        waited: Duration,
    },
    /// This node cannot run anything for node 0.
    #[error(
        "node {node} cannot listen at {address}: `--node-address` must be an address of this host"
    )]
    Shell {
        /// This node.
        node: usize,
        /// The address.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The agent was not started by a launcher, or cannot do its work.
    #[error("node-shell {host}: {problem}")]
    Agent {
        /// The host that it was to reach.
        host: String,
        /// What is wrong.
        problem: String,
    },
}
