//! Which processes still run, so that the death of a rank is noticed before the timeout.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

/// Process handles of the ranks of a group, by rank. A handle stays with its process, whatever
/// takes over the process id later.
pub(super) struct Liveness {
    /// `None` for ranks in this process, and where the system has no such handles: then only
    /// the timeout tells.
    processes: Vec<Option<OwnedFd>>,
}

impl Liveness {
    /// Watches nobody.
    pub(super) fn none() -> Self {
        Self {
            processes: Vec::new(),
        }
    }

    /// Watches these processes, by rank; those that do not run any more are not noticed.
    pub(super) fn of(pids: impl Iterator<Item = u32>) -> Self {
        let own = std::process::id();
        let open = |pid: u32| {
            let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
            rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()
        };
        let handle = |pid| if pid == own { None } else { open(pid) };
        Self {
            processes: pids.map(handle).collect(),
        }
    }

    /// Whether the process of the rank has ended; `false` if that is unknown.
    pub(super) fn has_ended(&self, rank: usize) -> bool {
        let Some(Some(process)) = self.processes.get(rank) else {
            return false;
        };
        // The handle becomes readable when the process ends, also before its parent reaps it.
        let mut polled = [PollFd::new(process, PollFlags::IN)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(rustix::event::poll(&mut polled, Some(&at_once)), Ok(1))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn an_ended_process_is_noticed_even_as_a_zombie() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let liveness = Liveness::of([child.id(), std::process::id()].into_iter());
        assert!(!liveness.has_ended(0));
        child.kill().unwrap();
        while !liveness.has_ended(0) {
            std::thread::yield_now();
        }
        assert!(!liveness.has_ended(1));
        child.wait().unwrap();
    }
}
