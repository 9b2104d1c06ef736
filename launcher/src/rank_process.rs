//! One rank as a child process in a process group of its own.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process_group, waitid,
};

use crate::cores::CorePlan;
use crate::diagnosis::Exit;
use crate::output::{Capture, Style};
use crate::rank_order::RankOrder;

/// A rank and what it started. Dropping it kills the group, if the rank still lives.
pub(crate) struct RankProcess {
    child: Child,
    /// The child leads the group, so this is its process id too.
    group: Pid,
    exit: Option<Exit>,
}

impl RankProcess {
    pub(crate) fn spawn(order: &RankOrder, cores: &CorePlan, stderr: Stdio) -> io::Result<Self> {
        let child = order.spawn(cores, stderr)?;
        let group = Pid::from_child(&child);
        let exit = None;
        Ok(Self { child, group, exit })
    }

    /// Starts to copy its output.
    pub(crate) fn capture(&mut self, log: File, style: &Style) -> io::Result<Capture> {
        Capture::start(&mut self.child, log, style)
    }

    /// How the rank has ended. It stays a zombie until it is swept or dropped: so nobody else takes over the number of
    /// its group.
    pub(crate) fn exit(&mut self) -> Option<Exit> {
        if self.exit.is_none() {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            self.exit = match waitid(WaitId::Pid(self.group), options) {
                Ok(status) => status.as_ref().map(exit_of),
                // Somebody else waited for our child: it is gone, and we shall never know how.
                Err(error) => {
                    tracing::warn!(%error, pid = self.child.id(), "cannot learn how the rank ended");
                    Some(Exit::Code(1))
                }
            };
        }
        self.exit
    }

    /// Signals the rank and all that it started.
    pub(crate) fn signal(&self, signal: Signal) {
        // The group may have ended since we looked.
        let _ = kill_process_group(self.group, signal);
    }

    /// Ends what a rank that has ended may have left behind in its group.
    pub(crate) fn sweep(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

pub(crate) fn exit_of(status: &WaitIdStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Code(1),
    }
}

impl Drop for RankProcess {
    fn drop(&mut self) {
        if self.exit().is_none() {
            self.signal(Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// Makes the folder of an attempt's logs.
pub(crate) fn attempt_dir(log_dir: &Path, attempt: u32) -> io::Result<PathBuf> {
    let path = log_dir.join(format!("attempt-{attempt}"));
    fs::create_dir_all(&path)?;
    Ok(path)
}
