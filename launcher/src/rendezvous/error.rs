//! What can go wrong when ranks meet.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;

/// Why ranks did not meet.
#[derive(Debug, Error)]
pub enum RendezvousError {
    /// The port of the rendezvous belongs to another process.
    #[error(
        "port {port} on {host} is already in use, so rank 0 cannot host the rendezvous there: \
         end the other job, or set MASTER_PORT to a free port for all ranks"
    )]
    PortInUse {
        /// The address of the listener.
        host: IpAddr,
        /// The port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// The listener or its thread could not be made.
    #[error("rank 0 cannot host the rendezvous on port {port}")]
    Host {
        /// The port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody told where rank 0 is.
    #[error(
        "rank {rank} does not know where rank 0 hosts the rendezvous: set MASTER_ADDR to the host of rank 0 for all ranks"
    )]
    NoAddress {
        /// The rank that asked.
        rank: usize,
    },
    /// Rank 0 was not reached in time.
    #[error(
        "rank {rank} did not reach the rendezvous of rank 0 at {address} within {waited:?} (last: {last}): \
         check that rank 0 runs, and that MASTER_ADDR and MASTER_PORT are the same for all ranks"
    )]
    Unreachable {
        /// The rank that tried.
        rank: usize,
        /// `host:port` of rank 0.
        address: String,
        /// How long it tried.
        waited: Duration,
        /// How the last attempt ended.
        last: String,
    },
    /// The host answered, and refused.
    #[error("the rendezvous at {address} refused: {reason}")]
    Refused {
        /// `host:port` of rank 0.
        address: String,
        /// The host's reason.
        reason: String,
    },
    /// The connection broke.
    #[error("lost the rendezvous at {address}: rank 0 has left or died; its log has the cause")]
    Lost {
        /// `host:port` of rank 0.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody set the key in time.
    #[error("no rank set {key:?} within {waited:?}: look for a rank that failed before it")]
    NotSet {
        /// The key.
        key: String,
        /// How long the host waited.
        waited: Duration,
    },
    /// Not all ranks came to a barrier in time.
    #[error(
        "ranks {missing:?} did not come to barrier {name:?} within {waited:?}: look at their logs"
    )]
    MissingRanks {
        /// The barrier.
        name: String,
        /// The ranks that did not come, ascending.
        missing: Vec<usize>,
        /// How long this rank waited.
        waited: Duration,
    },
    /// A key or value is longer than the protocol allows.
    #[error(
        "a {what} of {bytes} bytes exceeds the rendezvous limit of {limit}: it is for small strings only"
    )]
    TooLarge {
        /// `"key"` or `"value"`.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The longest allowed.
        limit: usize,
    },
}
