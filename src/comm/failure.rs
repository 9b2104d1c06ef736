//! Why a collective failed on all ranks, as they tell one another.

use std::time::Duration;

use super::CommError;
use super::call::Kind;

/// The first failure of a communicator, as all ranks see it. Ranks are those of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) reason: Reason,
    pub(super) kind: Kind,
    pub(super) sequence: u64,
    pub(super) ranks: Vec<usize>,
    pub(super) waited: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// `ranks` did not arrive.
    Timeout = 1,
    /// `ranks` are gone.
    Lost = 2,
    /// The one rank in `ranks` had an error of its own.
    Failed = 3,
}

impl Reason {
    pub(super) fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Timeout,
            2 => Self::Lost,
            _ => Self::Failed,
        }
    }
}

impl Failure {
    /// The error that it is, with the ranks of the world: `world[r]` is that of rank r of the group.
    pub(super) fn error(&self, world: &[usize]) -> CommError {
        let collective = self.kind.name();
        let sequence = self.sequence;
        let mut ranks: Vec<usize> = self.ranks.iter().map(|rank| world[*rank]).collect();
        ranks.sort_unstable();
        match self.reason {
            Reason::Timeout => {
                let waited = self.waited;
                CommError::Timeout {
                    collective,
                    sequence,
                    missing: ranks,
                    waited,
                }
            }
            Reason::Lost => CommError::Lost {
                collective,
                sequence,
                ranks,
            },
            Reason::Failed => {
                let rank = ranks.first().copied().unwrap_or_default();
                CommError::PeerFailed {
                    collective,
                    sequence,
                    rank,
                }
            }
        }
    }
}
