//! Requests to stop a job: signals to its launcher, or to that of another host.

use std::io;

use crate::nodes::Roster;
use crate::signals::Interrupts;

/// Collects them from now on.
pub(crate) struct StopRequests<'a> {
    interrupts: Interrupts,
    roster: Option<&'a Roster>,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StopRequest {
    pub signal: i32,
    /// Whether the signal came to this very process. One signal to all hosts reaches node 0 many times, so only a
    /// second one of its own is impatience.
    pub own: bool,
}

impl<'a> StopRequests<'a> {
    pub(crate) fn watch(roster: Option<&'a Roster>) -> io::Result<Self> {
        let interrupts = Interrupts::watch()?;
        Ok(Self { interrupts, roster })
    }

    /// A request that came since the last call.
    pub(crate) fn take(&mut self) -> Option<StopRequest> {
        let request = |signal, own| StopRequest { signal, own };
        let own = self.interrupts.take().map(|signal| request(signal, true));
        own.or_else(|| Some(request(self.roster?.take_stop()?, false)))
    }
}
