//! Launches a job: attempt after attempt, until one finishes or no restart is left.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use thiserror::Error;

use crate::attempt::{Attempt, Outcome, Setting};
use crate::cause::Cause;
use crate::control::board::Board;
use crate::cores::CorePlan;
use crate::job::{Job, Timing};
use crate::mpirun::MpirunFailure;
use crate::nodes::{Gathering, Head, NodesError, Roster};
use crate::rank_process::attempt_dir;
use crate::rendezvous::free_port;
use crate::stop_requests::StopRequests;

/// Why a job did not run to its end.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// The job has no ranks.
    #[error("a job needs at least one rank, not 0")]
    NoRanks,
    /// The folder of the logs cannot be made.
    #[error("cannot make the log folder {path}: check that its parent exists and may be written")]
    LogDir {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The launcher cannot prepare itself.
    #[error("the launcher cannot {what}")]
    Setup {
        /// What it could not do.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A rank cannot be started.
    #[error(
        "cannot start rank {rank}: {program} must be an executable file, and its log file be writable"
    )]
    Spawn {
        /// The rank.
        rank: usize,
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program refuses its configuration or command line: a restart would not help.
    #[error("not restarted: {0}")]
    Configuration(Box<Cause>),
    /// A rank failed, and no restart is left.
    #[error(
        "the job failed after {restarts} restarts of {max_restarts} allowed; logs are in {log_dir}\n{cause}"
    )]
    Failed {
        /// Why the last attempt failed.
        cause: Box<Cause>,
        /// Restarts done.
        restarts: u32,
        /// Restarts allowed.
        max_restarts: u32,
        /// The folder of the logs of all attempts.
        log_dir: PathBuf,
    },
    /// There is no `mpirun`.
    #[error("cannot start mpirun: install Open MPI or MPICH, and have its mpirun in PATH")]
    NoMpirun {
        /// What the system said.
        source: io::Error,
    },
    /// A job of `mpirun` failed, and no restart is left or would help.
    #[error("the job failed after {restarts} restarts of {max_restarts} allowed\n{failure}")]
    Mpirun {
        /// Why the last attempt failed.
        failure: Box<MpirunFailure>,
        /// Restarts done.
        restarts: u32,
        /// Restarts allowed.
        max_restarts: u32,
    },
    /// The launchers of several hosts do not work together.
    #[error(transparent)]
    Nodes(#[from] NodesError),
}

impl LaunchError {
    /// The exit code for the launcher's process: that of the rank to blame, or 1.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Configuration(cause) | Self::Failed { cause, .. } => cause.exit_code(),
            Self::Mpirun { failure, .. } => failure.code,
            _ => 1,
        }
    }
}

/// What became of a job that finished or was stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobReport {
    /// Why each attempt that failed did so: all but the last, and the last too where it failed as it was stopped.
    pub failures: Vec<Cause>,
    /// The signal, to the launcher or a rank, that stopped the job before its end.
    pub stopped_by: Option<i32>,
}

impl JobReport {
    /// The exit code for the launcher's process: 0, or 128 + signal.
    pub fn exit_code(&self) -> i32 {
        self.stopped_by.map_or(0, |signal| 128 + signal)
    }
}

/// Runs a job to its end on this host.
///
/// Spawns the ranks with the torchrun environment and a fresh `MASTER_PORT`, watches them, and starts all of them
/// again when one fails, up to `max_restarts` times. SIGTERM and SIGINT to this process are passed on to the ranks.
/// Ranks bound by [`bind_to_parent`](crate::bind_to_parent) die with the calling thread, not only with the process:
/// call it from the main thread.
///
/// # Errors
/// When a rank cannot be started, refuses its configuration (exit code 2), or fails with no restart left.
pub fn launch(job: &Job) -> Result<JobReport, LaunchError> {
    attempts(job, None)
}

/// Runs a job to its end on this host, node 0, and on others: as [`launch`], with the ranks of other hosts started by
/// the launchers that [serve](crate::nodes::serve_node) there. Those bring their numbers of ranks; `job.nproc` is that
/// of this host. A signal to any launcher stops the job. All ranks start in the folder of this process.
///
/// # Errors
/// As [`launch`]; and when this host cannot listen, or another does not come.
pub fn launch_hosts(job: &Job, head: &Head) -> Result<JobReport, LaunchError> {
    let roster = Roster::start(head)?;
    let outcome = attempts(job, Some(&roster));
    let code = outcome
        .as_ref()
        .map_or_else(LaunchError::exit_code, JobReport::exit_code);
    roster.over(code);
    outcome
}

fn attempts(job: &Job, roster: Option<&Roster>) -> Result<JobReport, LaunchError> {
    if job.nproc == 0 {
        return Err(LaunchError::NoRanks);
    }
    let run_id = job.run_id.clone().unwrap_or_else(new_run_id);
    let mut stops = StopRequests::watch(roster).map_err(setup("watch signals"))?;
    let cores = CorePlan::new(job.nproc, job.pin_cores);
    let mut failures: Vec<Cause> = Vec::new();
    for number in 0.. {
        let hosts = match gather(roster, &mut stops)? {
            Gathered::Stopped(signal) => return Ok(stopped(failures, signal)),
            Gathered::All(hosts) => hosts,
        };
        let setting = Setting {
            job,
            run_id: &run_id,
            number,
            cores: &cores,
            board: board(job, &run_id, hosts.as_ref())?,
            hosts,
            log_dir: attempt_dir(&job.log_dir, number).map_err(|source| LaunchError::LogDir {
                path: job.log_dir.clone(),
                source,
            })?,
            master_port: free_port().map_err(setup("find a free port"))?,
        };
        let cause = match Attempt::start(setting)?.watch(&mut stops) {
            Outcome::Finished => {
                return Ok(JobReport {
                    failures,
                    stopped_by: None,
                });
            }
            Outcome::Stopped { signal, cause } => {
                if let Some(cause) = cause {
                    tracing::warn!("stopped after a failure: {cause}");
                    failures.push(cause);
                }
                return Ok(stopped(failures, signal));
            }
            Outcome::Failed(cause) => cause,
        };
        if cause.is_configuration() {
            return Err(LaunchError::Configuration(Box::new(cause)));
        }
        if number == job.max_restarts {
            return Err(LaunchError::Failed {
                cause: Box::new(cause),
                restarts: number,
                max_restarts: job.max_restarts,
                log_dir: job.log_dir.clone(),
            });
        }
        let pause = backoff(&job.timing, number);
        tracing::warn!(
            restart = number + 1,
            max_restarts = job.max_restarts,
            ?pause,
            "restarting all ranks: {cause}"
        );
        failures.push(cause);
        if let Some(signal) = rest(pause, &job.timing, &mut stops) {
            return Ok(stopped(failures, signal));
        }
    }
    unreachable!("the loop ends at the last restart")
}

/// What to say when the launcher cannot do something for itself.
pub(crate) fn setup(what: &'static str) -> impl FnOnce(io::Error) -> LaunchError {
    move |source| LaunchError::Setup { what, source }
}

fn stopped(failures: Vec<Cause>, signal: i32) -> JobReport {
    JobReport {
        failures,
        stopped_by: Some(signal),
    }
}

/// Where the ranks of an attempt report to.
pub(crate) fn board(
    job: &Job,
    run_id: &str,
    hosts: Option<&Gathering<'_>>,
) -> Result<Board, LaunchError> {
    let ranks = hosts.map_or(job.nproc, Gathering::ranks);
    let address = hosts.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), Gathering::address);
    Board::start(address, run_id, ranks).map_err(setup("listen for the reports of its ranks"))
}

/// How a wait for the launchers of all hosts ended.
pub(crate) enum Gathered<'a> {
    /// They are there; `None` where there is one host only.
    All(Option<Gathering<'a>>),
    /// A signal came first.
    Stopped(i32),
}

/// Waits for the launchers of all hosts, where there are several.
pub(crate) fn gather<'a>(
    roster: Option<&'a Roster>,
    stops: &mut StopRequests<'_>,
) -> Result<Gathered<'a>, LaunchError> {
    let Some(roster) = roster else {
        return Ok(Gathered::All(None));
    };
    let mut request = None;
    let hosts = roster.gather(|| {
        request = stops.take();
        request.is_some()
    })?;
    Ok(match request {
        Some(request) => Gathered::Stopped(request.signal),
        None => Gathered::All(hosts),
    })
}

/// The pause before restart `number + 1`: it doubles with each restart, so that a job that fails at once does not spin.
pub(crate) fn backoff(timing: &Timing, number: u32) -> Duration {
    timing.backoff.saturating_mul(1 << number.min(5))
}

/// Rests for `pause`, unless a signal comes.
pub(crate) fn rest(pause: Duration, timing: &Timing, stops: &mut StopRequests<'_>) -> Option<i32> {
    let started = Instant::now();
    while started.elapsed() < pause {
        if let Some(request) = stops.take() {
            return Some(request.signal);
        }
        thread::sleep(timing.poll.min(pause));
    }
    None
}

pub(crate) fn new_run_id() -> String {
    let time = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}-{:x}", std::process::id(), time.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_stop_doubling() {
        let timing = Timing {
            backoff: Duration::from_secs(1),
            ..Timing::default()
        };
        let pauses: Vec<_> = [0, 1, 2, 5, 100]
            .map(|number| backoff(&timing, number).as_secs())
            .to_vec();
        assert_eq!(pauses, [1, 2, 4, 32, 32]);
    }

    #[test]
    fn a_job_without_ranks_is_refused() {
        assert!(matches!(
            launch(&Job::new("true", 0, "unused")),
            Err(LaunchError::NoRanks)
        ));
    }
}
