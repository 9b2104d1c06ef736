//! The launchers that were there when an attempt began.

use std::net::{IpAddr, SocketAddr};

use super::Roster;

/// One host of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seat {
    /// Where its launcher runs what node 0 asks for.
    pub shell: SocketAddr,
    /// Ranks on it.
    pub ranks: usize,
    /// Its launcher's connection, which differs from a later one of the same host.
    pub join: u64,
}

/// All hosts of an attempt.
pub(crate) struct Gathering<'a> {
    pub roster: &'a Roster,
    /// By node.
    pub seats: Vec<Seat>,
}

impl Gathering<'_> {
    /// The address by which all hosts reach node 0.
    pub(crate) fn address(&self) -> IpAddr {
        self.roster.address().ip()
    }

    /// The ranks of all hosts.
    pub(crate) fn ranks(&self) -> usize {
        self.seats.iter().map(|seat| seat.ranks).sum()
    }

    /// The hosts as `mpirun --host` takes them, each with its number of ranks, by node.
    pub(crate) fn hosts(&self) -> String {
        let host = |seat: &Seat| format!("{}:{}", seat.shell.ip(), seat.ranks);
        self.seats.iter().map(host).collect::<Vec<_>>().join(",")
    }

    /// The nodes whose launchers are not there any more, or went and came back.
    pub(crate) fn lost(&self) -> Vec<usize> {
        let now = self.roster.joins();
        let present = |node: usize| now[node] == Some(self.seats[node].join);
        (0..self.seats.len())
            .filter(|node| !present(*node))
            .collect()
    }
}
