//! Launches a job through `mpirun`: attempt after attempt, as [`launch`](crate::launch()) does with ranks of its own.
//!
//! `mpirun` starts the ranks, watches them and ends them all when one fails; here it is started again, up to a number of
//! times. A rank learns from [`RUN_ID_VARIABLE`] and [`RESTART_COUNT_VARIABLE`] which attempt of which job it is in.

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::diagnosis::Exit;
use crate::environment::{RESTART_COUNT_VARIABLE, RUN_ID_VARIABLE};
use crate::job::{Job, THREADS_VARIABLE};
use crate::launch::{LaunchError, backoff, new_run_id, rest};
use crate::output::{Capture, Style};
use crate::rank_process::attempt_dir;
use crate::signals::Interrupts;

/// How long `mpirun` may take to end all ranks once it was told to.
const LAST_GRACE: Duration = Duration::from_secs(5);

/// What became of a job that finished or was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MpirunReport {
    /// How often it was started again.
    pub restarts: u32,
    /// The signal, to the launcher or a rank, that stopped the job before its end.
    pub stopped_by: Option<i32>,
}

impl MpirunReport {
    /// The exit code for the launcher's process: 0, or 128 + signal.
    pub fn exit_code(&self) -> i32 {
        self.stopped_by.map_or(0, |signal| 128 + signal)
    }
}

/// Runs a job of this host to its end through the `mpirun` that the system finds. Of the job, ranks are not pinned, and
/// of its timing only pauses and the grace after a signal count.
///
/// SIGTERM and SIGINT to this process become SIGUSR1 to `mpirun`, which passes that on: ranks take it as the request to
/// save and leave. Output of all ranks goes to `attempt-K/mpirun.log` too.
///
/// # Errors
/// When `mpirun` cannot be started, or exits with a code that is not 0 and no restart is left or would help.
pub fn launch_mpirun(job: &Job) -> Result<MpirunReport, LaunchError> {
    if job.nproc == 0 {
        return Err(LaunchError::NoRanks);
    }
    let setup = |what| move |source| LaunchError::Setup { what, source };
    let run_id = job.run_id.clone().unwrap_or_else(new_run_id);
    let mut interrupts = Interrupts::watch().map_err(setup("watch signals"))?;
    for restarts in 0.. {
        let mut attempt = Attempt::start(job, &run_id, restarts)?;
        let (exit, asked) = attempt.watch(job, &mut interrupts);
        if let Some(signal) = asked.or(exit.stopped_by()) {
            let stopped_by = Some(signal);
            return Ok(MpirunReport {
                restarts,
                stopped_by,
            });
        }
        if exit == Exit::Code(0) {
            return Ok(MpirunReport {
                restarts,
                stopped_by: None,
            });
        }
        if restarts == job.max_restarts || exit == Exit::Code(2) {
            return Err(LaunchError::Mpirun {
                fault: exit.fault(),
                restarts,
                max_restarts: job.max_restarts,
                log: attempt.log.clone(),
                last_lines: attempt.output.last_lines(),
            });
        }
        let pause = backoff(&job.timing, restarts);
        let fault = exit.fault();
        tracing::warn!(
            restart = restarts + 1,
            max_restarts = job.max_restarts,
            ?pause,
            "mpirun {fault}; starting it again"
        );
        if let Some(signal) = rest(pause, &job.timing, &mut interrupts) {
            let stopped_by = Some(signal);
            return Ok(MpirunReport {
                restarts,
                stopped_by,
            });
        }
    }
    unreachable!("the loop ends at the last restart")
}

/// One run of `mpirun`. Dropping it ends that.
struct Attempt {
    child: Child,
    group: Pid,
    log: PathBuf,
    output: Capture,
    exit: Option<Exit>,
}

impl Attempt {
    fn start(job: &Job, run_id: &str, number: u32) -> Result<Self, LaunchError> {
        let folder = attempt_dir(&job.log_dir, number);
        let log_error = |source| LaunchError::LogDir {
            path: job.log_dir.clone(),
            source,
        };
        let log = folder.map_err(log_error)?.join("mpirun.log");
        let file = File::options().create(true).append(true).open(&log);
        let file = file.map_err(log_error)?;
        let mut child = command(job, run_id, number)
            .spawn()
            .map_err(|source| LaunchError::NoMpirun { source })?;
        let group = Pid::from_child(&child);
        let output = Capture::start(&mut child, file, &Style::Raw).map_err(|source| {
            let _ = kill_process_group(group, Signal::KILL);
            let _ = child.wait();
            LaunchError::Setup {
                what: "read the output of mpirun",
                source,
            }
        })?;
        tracing::info!(attempt = number, ranks = job.nproc, log = %log.display(), "started mpirun");
        Ok(Self {
            child,
            group,
            log,
            output,
            exit: None,
        })
    }

    /// Waits for the end; returns it, and the signal to this process that asked for it.
    fn watch(&mut self, job: &Job, interrupts: &mut Interrupts) -> (Exit, Option<i32>) {
        let mut asked: Option<(i32, Instant)> = None;
        loop {
            if let Some(exit) = self.reap() {
                self.output.finish(Duration::from_secs(1));
                return (exit, asked.map(|(signal, _)| signal));
            }
            if let Some(signal) = interrupts.take() {
                if asked.is_some() {
                    self.end();
                }
                let grace = job.timing.stop_grace;
                tracing::info!(?grace, "stopping: the ranks may save and leave");
                self.signal(Signal::USR1);
                asked.get_or_insert((signal, Instant::now()));
            }
            if asked.is_some_and(|(_, when)| when.elapsed() > job.timing.stop_grace) {
                tracing::warn!("the ranks did not leave in time and are killed");
                self.end();
            }
            thread::sleep(job.timing.poll);
        }
    }

    fn reap(&mut self) -> Option<Exit> {
        if self.exit.is_none() {
            self.exit = match self.child.try_wait() {
                Ok(status) => status.map(exit_of),
                // Somebody else waited for our child: it is gone, and we shall never know how.
                Err(_) => Some(Exit::Code(1)),
            };
        }
        self.exit
    }

    fn signal(&mut self, signal: Signal) {
        if self.reap().is_none() {
            // It may have ended since.
            let _ = kill_process(self.group, signal);
        }
    }

    /// Has `mpirun` end all ranks, and ends it if that takes too long.
    fn end(&mut self) {
        let began = Instant::now();
        self.signal(Signal::TERM);
        while self.reap().is_none() {
            if began.elapsed() > LAST_GRACE {
                self.signal(Signal::KILL);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.end();
    }
}

fn exit_of(status: ExitStatus) -> Exit {
    match status.signal() {
        Some(signal) => Exit::Signal(signal),
        None => Exit::Code(status.code().unwrap_or(1)),
    }
}

fn command(job: &Job, run_id: &str, number: u32) -> Command {
    let mut command = Command::new("mpirun");
    command
        .args(["-n", &job.nproc.to_string(), "--bind-to", "none"])
        .arg(&job.program)
        .args(&job.args)
        // More ranks than cores are the user's choice here; Open MPI 4 and 5 ask, each in its way.
        .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
        .env("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe")
        .envs(job.env.iter().map(|(name, value)| (name, value)))
        .env(RUN_ID_VARIABLE, run_id)
        .env(RESTART_COUNT_VARIABLE, number.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A signal from the terminal comes through the launcher.
        .process_group(0);
    // A launcher around this one described one rank.
    for name in [
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        THREADS_VARIABLE,
    ] {
        command.env_remove(name);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_without_ranks_is_refused() {
        let job = Job::new("true", 0, "unused");
        assert!(matches!(launch_mpirun(&job), Err(LaunchError::NoRanks)));
    }
}
