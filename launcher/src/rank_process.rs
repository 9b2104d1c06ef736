//! One rank as a child process in a process group of its own.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process_group, waitid,
};

use crate::control::{CONTROL_VARIABLE, HEARTBEAT_VARIABLE};
use crate::cores::CorePlan;
use crate::diagnosis::Exit;
use crate::environment::RankEnvironment;
use crate::job::{FirstRankOutput, Job, THREADS_VARIABLE};
use crate::output::{Capture, Style};

/// A rank and what it started. Dropping it kills the group, if the rank still lives.
pub(crate) struct RankProcess {
    child: Child,
    /// The child leads the group, so this is its process id too.
    group: Pid,
    pub log: PathBuf,
    pub output: Capture,
    pub started: Instant,
    pub exit: Option<(Exit, Instant)>,
}

/// What ranks of one attempt have in common.
pub(crate) struct Setting<'a> {
    pub job: &'a Job,
    pub cores: &'a CorePlan,
    /// Folder of this attempt's logs.
    pub log_dir: &'a Path,
    /// Where ranks report to.
    pub control: String,
}

impl RankProcess {
    pub(crate) fn spawn(setting: &Setting<'_>, environment: &RankEnvironment) -> io::Result<Self> {
        let rank = environment.rank;
        let job = setting.job;
        let log = setting.log_dir.join(format!("rank-{rank}.log"));
        let mut file = File::options().create(true).append(true).open(&log)?;
        let direct = rank == 0 && job.first_rank == FirstRankOutput::Direct;
        let stderr = if direct && io::stderr().is_terminal() {
            writeln!(
                file,
                "[launcher] standard error went to the terminal; this file has standard output only"
            )?;
            Stdio::inherit()
        } else {
            Stdio::piped()
        };

        let mut command = Command::new(&job.program);
        command
            .args(&job.args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .process_group(0);
        if std::env::var_os(THREADS_VARIABLE).is_none() {
            command.env(THREADS_VARIABLE, setting.cores.threads.to_string());
        }
        command
            .envs(job.env.iter().map(|(name, value)| (name, value)))
            .envs(environment.variables())
            .env(CONTROL_VARIABLE, &setting.control)
            .env(
                HEARTBEAT_VARIABLE,
                job.timing.heartbeat.as_millis().to_string(),
            );

        let mut child = setting.cores.on_cores_of(rank, || command.spawn())?;
        let started = Instant::now();
        let group = Pid::from_child(&child);
        let style = if direct {
            Style::Raw
        } else {
            Style::Prefixed(format!("[rank {rank}] "))
        };
        let output = match Capture::start(&mut child, file, &style) {
            Ok(output) => output,
            Err(error) => {
                let _ = kill_process_group(group, Signal::KILL);
                let _ = child.wait();
                return Err(error);
            }
        };
        Ok(Self {
            child,
            group,
            log,
            output,
            started,
            exit: None,
        })
    }

    /// Notices whether the rank has ended. It stays a zombie until it is swept or dropped: so nobody else takes over the
    /// number of its group.
    pub(crate) fn look(&mut self) {
        if self.exit.is_some() {
            return;
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(self.group), options) {
            Ok(None) => {}
            Ok(Some(status)) => self.exit = Some((exit_of(&status), Instant::now())),
            // Somebody else waited for our child: it is gone, and we shall never know how.
            Err(error) => {
                tracing::warn!(%error, pid = self.child.id(), "cannot learn how the rank ended");
                self.exit = Some((Exit::Code(1), Instant::now()));
            }
        }
    }

    /// Whether it ended other than with code 0, or because it was asked to.
    pub(crate) fn has_failed(&self) -> bool {
        self.exit
            .is_some_and(|(exit, _)| exit != Exit::Code(0) && exit.stopped_by().is_none())
    }

    /// The signal that asked it to save and leave, when it has done so.
    pub(crate) fn stopped_by(&self) -> Option<i32> {
        self.exit.and_then(|(exit, _)| exit.stopped_by())
    }

    /// Signals the rank and all that it started, unless it has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.exit.is_none() {
            // The group may have ended since we looked.
            let _ = kill_process_group(self.group, signal);
        }
    }

    /// Ends what a failed rank may have left behind in its group, so that its output ends too.
    pub(crate) fn sweep(&mut self) {
        let _ = kill_process_group(self.group, Signal::KILL);
        let _ = self.child.wait();
        self.output.finish(Duration::from_secs(1));
    }
}

fn exit_of(status: &WaitIdStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Code(1),
    }
}

impl Drop for RankProcess {
    fn drop(&mut self) {
        self.look();
        if self.exit.is_none() {
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
