//! Launches a job through `mpirun`: attempt after attempt, as [`launch`](crate::launch()) does with ranks of its own.
//!
//! `mpirun` starts the ranks, watches them and ends them all when one fails; here it is started again, up to a number of
//! times. A rank learns from [`RUN_ID_VARIABLE`] and [`RESTART_COUNT_VARIABLE`] which attempt of which job it is in.

use std::fmt;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::cause::RankStatus;
use crate::control::board::{Board, Seen};
use crate::control::{CONTROL_VARIABLE, Ending, HEARTBEAT_VARIABLE};
use crate::diagnosis::{Exit, View, blame_exit, blame_hang};
use crate::environment::{RESTART_COUNT_VARIABLE, RUN_ID_VARIABLE};
use crate::job::{Job, THREADS_VARIABLE};
use crate::launch::{Gathered, LaunchError, backoff, board, gather, new_run_id, rest, setup};
use crate::nodes::{Gathering, Head, Roster};
use crate::output::{Capture, Style};
use crate::rank_process::attempt_dir;
use crate::stop_requests::StopRequests;

/// How long `mpirun` may take to end all ranks once it was told to.
const LAST_GRACE: Duration = Duration::from_secs(5);

/// Variable that sets the level of a rank's log.
const LOG_VARIABLE: &str = "STREAMREC_LOG";

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

/// Why an attempt failed. Displays as one message of several lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MpirunFailure {
    /// What happened, to a rank or else to `mpirun`.
    pub what: String,
    /// The exit code that passes it on.
    pub code: i32,
    /// What every rank was doing, by rank.
    pub ranks: Vec<RankStatus>,
    /// The output of the attempt.
    pub log: PathBuf,
    /// Its last lines.
    pub last_lines: Vec<String>,
}

impl fmt::Display for MpirunFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for (rank, status) in self.ranks.iter().enumerate() {
            write!(f, "\n  rank {rank}: {status}")?;
        }
        write!(f, "\n  log: {}", self.log.display())?;
        for line in &self.last_lines {
            write!(f, "\n  | {line}")?;
        }
        Ok(())
    }
}

/// How an attempt ended.
enum Outcome {
    Finished,
    Stopped(i32),
    Failed(MpirunFailure),
}

/// Runs a job to its end through the `mpirun` that the system finds: on this host, or as node 0 of several. Of the job,
/// ranks are not pinned. `agent` is the command that runs [`node_shell`](crate::nodes::node_shell), to be followed by a
/// host and a command; it is for several hosts.
///
/// SIGTERM and SIGINT to this process become SIGUSR1 to `mpirun`, which passes that on: ranks take it as the request to
/// save and leave. Output of all ranks goes to `attempt-K/mpirun.log` too. Ranks report to this process, as those of
/// [`launch`](crate::launch()) do: one that hangs ends the attempt.
///
/// # Errors
/// When `mpirun` cannot be started, a host does not come, or an attempt fails and no restart is left or would help.
pub fn launch_mpirun(
    job: &Job,
    head: Option<&Head>,
    agent: &str,
) -> Result<MpirunReport, LaunchError> {
    if job.nproc == 0 {
        return Err(LaunchError::NoRanks);
    }
    let roster = head.map(Roster::start).transpose()?;
    let outcome = attempts(job, roster.as_ref(), agent);
    if let Some(roster) = roster {
        let code = outcome
            .as_ref()
            .map_or_else(LaunchError::exit_code, MpirunReport::exit_code);
        roster.over(code);
    }
    outcome
}

fn attempts(job: &Job, roster: Option<&Roster>, agent: &str) -> Result<MpirunReport, LaunchError> {
    let run_id = job.run_id.clone().unwrap_or_else(new_run_id);
    let mut stops = StopRequests::watch(roster).map_err(setup("watch signals"))?;
    for restarts in 0.. {
        let report = |stopped_by| MpirunReport {
            restarts,
            stopped_by,
        };
        let hosts = match gather(roster, &mut stops)? {
            Gathered::Stopped(signal) => return Ok(report(Some(signal))),
            Gathered::All(hosts) => hosts,
        };
        let setting = Setting {
            job,
            run_id: &run_id,
            number: restarts,
            board: &board(job, &run_id, hosts.as_ref())?,
            hosts,
            agent,
        };
        setting.board.begin(restarts, setting.ranks());
        let failure = match Attempt::start(&setting)?.watch(&setting, &mut stops) {
            Outcome::Finished => return Ok(report(None)),
            Outcome::Stopped(signal) => return Ok(report(Some(signal))),
            Outcome::Failed(failure) => failure,
        };
        if restarts == job.max_restarts || failure.code == 2 {
            return Err(LaunchError::Mpirun {
                failure: Box::new(failure),
                restarts,
                max_restarts: job.max_restarts,
            });
        }
        let pause = backoff(&job.timing, restarts);
        tracing::warn!(
            restart = restarts + 1,
            max_restarts = job.max_restarts,
            ?pause,
            "starting mpirun again: {failure}"
        );
        if let Some(signal) = rest(pause, &job.timing, &mut stops) {
            return Ok(report(Some(signal)));
        }
    }
    unreachable!("the loop ends at the last restart")
}

/// What an attempt is made of.
struct Setting<'a> {
    job: &'a Job,
    run_id: &'a str,
    number: u32,
    board: &'a Board,
    /// All hosts, where there are several.
    hosts: Option<Gathering<'a>>,
    agent: &'a str,
}

impl Setting<'_> {
    /// Of all hosts.
    fn ranks(&self) -> usize {
        self.hosts.as_ref().map_or(self.job.nproc, Gathering::ranks)
    }

    fn lost_hosts(&self) -> Option<String> {
        let lost = self.hosts.as_ref()?.lost();
        (!lost.is_empty()).then(|| format!("the launchers of nodes {lost:?} are gone"))
    }
}

/// One run of `mpirun`. Dropping it ends that.
struct Attempt {
    child: Child,
    group: Pid,
    log: PathBuf,
    output: Capture,
    started: Instant,
    exit: Option<Exit>,
}

impl Attempt {
    fn start(setting: &Setting<'_>) -> Result<Self, LaunchError> {
        let folder = attempt_dir(&setting.job.log_dir, setting.number);
        let log_error = |source| LaunchError::LogDir {
            path: setting.job.log_dir.clone(),
            source,
        };
        let log = folder.map_err(log_error)?.join("mpirun.log");
        let file = File::options().create(true).append(true).open(&log);
        let file = file.map_err(log_error)?;
        let mut child = command(setting)
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
        let (attempt, ranks) = (setting.number, setting.ranks());
        tracing::info!(attempt, ranks, log = %log.display(), "started mpirun");
        Ok(Self {
            child,
            group,
            log,
            output,
            started: Instant::now(),
            exit: None,
        })
    }

    /// Waits for the end.
    fn watch(mut self, setting: &Setting<'_>, stops: &mut StopRequests<'_>) -> Outcome {
        let timing = &setting.job.timing;
        // The first signal, when it came, and whether one came to this process.
        let mut asked: Option<(i32, Instant, bool)> = None;
        let mut last_look = Instant::now();
        loop {
            if let Some(exit) = self.reap() {
                self.output.finish(Duration::from_secs(1));
                let signal = asked.map(|(signal, ..)| signal).or(exit.stopped_by());
                return match (signal, exit) {
                    (Some(signal), exit) => {
                        if exit != Exit::Code(0) && exit.stopped_by().is_none() {
                            let failure = self.exit_failure(setting, exit);
                            tracing::warn!(
                                "the ranks did not leave as they were asked to: {failure}"
                            );
                        }
                        Outcome::Stopped(signal)
                    }
                    (None, Exit::Code(0)) => Outcome::Finished,
                    (None, exit) => Outcome::Failed(self.exit_failure(setting, exit)),
                };
            }
            if let Some(request) = stops.take() {
                if request.own && asked.is_some_and(|(_, _, own)| own) {
                    self.end();
                }
                let (_, _, own) = asked.get_or_insert_with(|| {
                    tracing::info!(grace = ?timing.stop_grace, "stopping: the ranks may save and leave");
                    self.signal(Signal::USR1);
                    (request.signal, Instant::now(), false)
                });
                *own |= request.own;
            }
            if asked.is_some_and(|(_, when, _)| when.elapsed() > timing.stop_grace) {
                tracing::warn!("the ranks did not leave in time and are killed");
                self.end();
            }
            // A launcher that was stopped itself finds old reports, and must not blame the ranks for it.
            if last_look.elapsed() > timing.silent_after / 2 {
                setting.board.forgive();
            }
            last_look = Instant::now();
            if asked.is_none()
                && let Some((what, code)) = self.trouble(setting)
            {
                return Outcome::Failed(self.give_up(setting, what, code));
            }
            thread::sleep(timing.poll);
        }
    }

    /// What makes the attempt hopeless although `mpirun` still runs, and the exit code for it.
    fn trouble(&self, setting: &Setting<'_>) -> Option<(String, i32)> {
        if let Some(what) = setting.lost_hosts() {
            return Some((what, 1));
        }
        let blame = blame_hang(&self.views(setting, None), &setting.job.timing)?;
        let what = format!("rank {} {}", blame.rank, blame.fault);
        Some((what, blame.fault.exit_code()))
    }

    fn give_up(mut self, setting: &Setting<'_>, what: String, code: i32) -> MpirunFailure {
        tracing::warn!(attempt = setting.number, "{what}; ending all ranks");
        let ranks = self.statuses(setting, None);
        setting.board.abort(&what);
        self.end();
        self.output.finish(Duration::from_secs(1));
        self.failure(what, code, ranks)
    }

    fn exit_failure(&self, setting: &Setting<'_>, exit: Exit) -> MpirunFailure {
        let ranks = self.statuses(setting, Some(exit));
        if let Some(what) = setting.lost_hosts() {
            return self.failure(what, exit.fault().exit_code(), ranks);
        }
        let blame = blame_exit(&self.views(setting, Some(exit)));
        let what = match blame {
            None => format!("mpirun {}", exit.fault()),
            Some(blame) => {
                let seen = setting.board.look().swap_remove(blame.rank);
                let message = match seen.and_then(|seen| seen.report.ending) {
                    Some(Ending::Failed { message, .. }) => format!(": {message}"),
                    _ => String::new(),
                };
                format!("rank {} {}{message}", blame.rank, blame.fault)
            }
        };
        self.failure(what, exit.fault().exit_code(), ranks)
    }

    fn failure(&self, what: String, code: i32, ranks: Vec<RankStatus>) -> MpirunFailure {
        MpirunFailure {
            what,
            code,
            ranks,
            log: self.log.clone(),
            last_lines: self.output.last_lines(),
        }
    }

    /// The ranks by their reports, as their exits are not seen from here. One that said that it failed has ended with
    /// `exit`, once there is one.
    fn views(&self, setting: &Setting<'_>, exit: Option<Exit>) -> Vec<View> {
        let view = |seen: Option<Seen>| {
            let ending = seen.as_ref().and_then(|seen| seen.report.ending.as_ref());
            let exit = match ending {
                None => None,
                Some(Ending::Finished) => Some(Exit::Code(0)),
                Some(Ending::Failed { .. }) => exit,
            };
            View {
                exit: exit.map(|exit| (exit, Instant::now())),
                seen,
                age: self.started.elapsed(),
            }
        };
        setting.board.look().into_iter().map(view).collect()
    }

    fn statuses(&self, setting: &Setting<'_>, exit: Option<Exit>) -> Vec<RankStatus> {
        self.views(setting, exit)
            .iter()
            .map(RankStatus::of)
            .collect()
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
                // Its agents too, and with them what they started on other hosts.
                let _ = kill_process_group(self.group, Signal::KILL);
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

fn command(setting: &Setting<'_>) -> Command {
    let Setting {
        job, number, hosts, ..
    } = setting;
    let heartbeat = job.timing.heartbeat.as_millis().to_string();
    let variables = [
        (RUN_ID_VARIABLE, (*setting.run_id).to_owned()),
        (RESTART_COUNT_VARIABLE, number.to_string()),
        (CONTROL_VARIABLE, setting.board.address().to_string()),
        (HEARTBEAT_VARIABLE, heartbeat),
    ];
    let mut command = Command::new("mpirun");
    command.args(["-n", &setting.ranks().to_string(), "--bind-to", "none"]);
    if let Some(hosts) = hosts {
        // Open MPI alone: others do not know `-x`, by which variables reach other hosts.
        command.args(["--host", &hosts.hosts()]);
        let exported = variables.iter().map(|(name, _)| *name);
        let logged = std::env::var_os(LOG_VARIABLE).map(|_| LOG_VARIABLE);
        for name in exported.chain(logged) {
            command.args(["-x", name]);
        }
        for (name, _) in &job.env {
            command.arg("-x").arg(name);
        }
        command.envs(hosts.roster.variables(setting.agent));
    }
    command
        .arg(&job.program)
        .args(&job.args)
        // More ranks than cores are the user's choice here; Open MPI 4 and 5 ask, each in its way.
        .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
        .env("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe")
        .envs(job.env.iter().map(|(name, value)| (name, value)))
        .envs(variables)
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
        assert!(matches!(
            launch_mpirun(&job, None, ""),
            Err(LaunchError::NoRanks)
        ));
    }
}
