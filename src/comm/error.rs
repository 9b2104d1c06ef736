//! What can go wrong between ranks.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::bootstrap::BootstrapError;

/// Why a collective failed. Ranks are those of the world, also inside a group.
///
/// `sequence` counts the collectives of one communicator from 1.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CommError {
    /// Ranks did not arrive in time.
    #[error(
        "{collective} (number {sequence}) waited {:.1} s for ranks {missing:?}, which never \
         arrived; look at the logs of those ranks, or raise the communication timeout",
        waited.as_secs_f64()
    )]
    Timeout {
        /// The collective.
        collective: &'static str,
        /// Its number.
        sequence: u64,
        /// The ranks that did not arrive, ascending.
        missing: Vec<usize>,
        /// How long the first rank to give up had waited.
        waited: Duration,
    },

    /// Ranks ended, or dropped their communicator, before they arrived.
    #[error(
        "{collective} (number {sequence}) can never complete: ranks {ranks:?} have ended or left \
         the communicator; look at the logs of those ranks"
    )]
    Lost {
        /// The collective.
        collective: &'static str,
        /// Its number.
        sequence: u64,
        /// The ranks that are gone, ascending.
        ranks: Vec<usize>,
    },

    /// Whoever started the ranks ends the job, as [`Observer::called_off`](super::Observer::called_off) told.
    #[error(
        "{collective} (number {sequence}) waited for ranks {missing:?} when the job was ended: {reason}"
    )]
    CalledOff {
        /// The collective.
        collective: &'static str,
        /// Its number.
        sequence: u64,
        /// The ranks that had not arrived, ascending.
        missing: Vec<usize>,
        /// Why the job ends.
        reason: String,
    },

    /// Another rank failed inside the collective, for a reason that it reports itself.
    #[error("{collective} (number {sequence}) failed on rank {rank}; its own error tells why")]
    PeerFailed {
        /// The collective.
        collective: &'static str,
        /// Its number.
        sequence: u64,
        /// The rank that failed.
        rank: usize,
    },

    /// Ranks made different calls. Every rank gets this same error.
    #[error(
        "ranks disagree on collective number {sequence}: rank {rank} called {call}, but rank \
         {other_rank} called {other_call}; all ranks must make the same calls in the same order"
    )]
    Mismatch {
        /// The number of the collective.
        sequence: u64,
        /// The first rank.
        rank: usize,
        /// What it called.
        call: String,
        /// The first rank that called something else.
        other_rank: usize,
        /// What that one called.
        other_call: String,
    },

    /// An earlier collective of this communicator failed.
    #[error("the communicator is unusable after an earlier failure; restart the job")]
    Poisoned {
        /// That failure.
        #[source]
        cause: Box<CommError>,
    },

    /// The caller passed something that the collective cannot take.
    #[error("{collective}: {problem}")]
    Argument {
        /// The collective.
        collective: &'static str,
        /// What was expected, and what came.
        problem: String,
    },

    /// The operating system refused shared memory.
    #[error("cannot {action} ({bytes} bytes of shared memory); is the memory limit reached?")]
    Memory {
        /// What was tried.
        action: &'static str,
        /// The size in bytes.
        bytes: u64,
        /// The answer of the operating system.
        #[source]
        source: Arc<io::Error>,
    },

    /// The transport between processes refused.
    #[error(
        "{collective} (number {sequence}): {problem}; look at the logs of all ranks and at the network"
    )]
    Transport {
        /// The collective.
        collective: &'static str,
        /// Its number.
        sequence: u64,
        /// What was tried, and what the transport said.
        problem: String,
    },

    /// A message of another rank contradicts itself.
    #[error("{collective}: the message of rank {rank} is corrupt: {problem}")]
    Corrupt {
        /// The collective.
        collective: &'static str,
        /// The sender.
        rank: usize,
        /// The contradiction.
        problem: String,
    },

    /// The ranks could not be connected.
    #[error("cannot connect rank {rank}: {problem}")]
    Connect {
        /// The rank that tried.
        rank: usize,
        /// What was expected, and what came.
        problem: String,
    },

    /// The store through which the ranks find each other failed.
    #[error("cannot connect rank {rank} through the rendezvous")]
    Bootstrap {
        /// The rank that tried.
        rank: usize,
        /// The error of the store.
        #[source]
        source: BootstrapError,
    },

    /// The communication thread ended before the collective.
    #[error("the communication thread ended before the collective; its panic tells why")]
    Abandoned,
}
