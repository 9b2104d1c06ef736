//! Which processes still run, so that the death of a rank is noticed before the timeout.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

/// Process handles of the ranks of a group, by rank, opened at the first question about one. A handle stays with its
/// process, whatever takes over the process id later.
pub(super) struct Liveness {
    processes: Vec<Process>,
}

enum Process {
    NotWatched,
    Watched(OwnedFd),
    Ended,
    /// A rank of this process; or the system has no such handles, and only the timeout tells.
    Unknown,
}

impl Liveness {
    pub(super) fn new(size: usize) -> Self {
        Self {
            processes: (0..size).map(|_| Process::NotWatched).collect(),
        }
    }

    /// Whether the process of the rank has ended; `false` if that is unknown.
    pub(super) fn has_ended(&mut self, rank: usize, pid: u32) -> bool {
        let process = &mut self.processes[rank];
        if matches!(process, Process::NotWatched) {
            *process = open(pid);
        }
        if let Process::Watched(handle) = process
            && is_readable(handle)
        {
            *process = Process::Ended;
        }
        matches!(process, Process::Ended)
    }
}

fn open(pid: u32) -> Process {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(other) = raw.filter(|_| pid != std::process::id()) else {
        return Process::Unknown;
    };
    match rustix::process::pidfd_open(other, PidfdFlags::empty()) {
        Ok(handle) => Process::Watched(handle),
        Err(Errno::SRCH) => Process::Ended,
        Err(_) => Process::Unknown,
    }
}

/// The handle becomes readable when the process ends, also before its parent reaps it.
fn is_readable(process: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(process, PollFlags::IN)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    matches!(rustix::event::poll(&mut polled, Some(&at_once)), Ok(1))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn an_ended_process_is_noticed_even_as_a_zombie_and_when_it_is_gone() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let (pid, mut liveness) = (child.id(), Liveness::new(2));
        assert!(!liveness.has_ended(0, pid));
        child.kill().unwrap();
        while !liveness.has_ended(0, pid) {
            std::thread::yield_now();
        }
        assert!(!liveness.has_ended(1, std::process::id()));
        child.wait().unwrap();
        assert!(Liveness::new(1).has_ended(0, pid));
    }
}
