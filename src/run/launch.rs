//! `streamrec launch`: ranks of `streamrec train` on this host and others, watched and restarted.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use streamrec_launcher::nodes::{Head, Membership, Roster, serve_node};
use streamrec_launcher::{
    FirstRankOutput, Job, JobReport, LaunchError, launch, launch_hosts, launch_mpirun,
};

use super::RunError;
use super::backend;
use super::cli::{BackendName, LaunchArgs};
use super::folder::RunFolder;
use super::submission;
use crate::config::{Backend, Experiment};
use crate::data::Dataset;

/// How long a job that is refused waits for the launchers of other hosts, to tell them.
const DISMISSAL: Duration = Duration::from_secs(10);

pub(super) fn run(args: &LaunchArgs) -> ExitCode {
    let mut args = args.clone();
    let backend = args.backend.map(BackendName::setting);
    args.train.set.extend(backend);
    if let Some(scheduler) = args.print {
        return match submission::text(&args, scheduler) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => error.report(),
        };
    }
    let head = match part(&args) {
        Ok(Part::Alone) => None,
        Ok(Part::Head(head)) => Some(head),
        Ok(Part::Member(membership)) => return member(&membership),
        Err(error) => return error.report(),
    };
    let prepared = job(&args).and_then(|(job, backend)| {
        let agent = match (backend, &head) {
            (Backend::Mpi, Some(_)) => agent()?,
            _ => String::new(),
        };
        Ok((job, backend, agent))
    });
    let ended = |report: JobReport| (report.failures.len() as u32, report.exit_code());
    match prepared {
        Ok((job, Backend::Mpi, agent)) => {
            let report = launch_mpirun(&job, head.as_ref(), &agent);
            finish(report.map(|report| (report.restarts, report.exit_code())))
        }
        Ok((job, ..)) => finish(match &head {
            None => launch(&job).map(ended),
            Some(head) => launch_hosts(&job, head).map(ended),
        }),
        Err(error) => {
            let code = error.report();
            // The other hosts' launchers are waiting, or will be soon.
            let told = head.map(|head| Roster::dismiss(&head, DISMISSAL, 2));
            if let Some(Err(error)) = told {
                report(error.into());
            }
            code
        }
    }
}

/// This launcher's part in a job.
enum Part {
    /// All of it is on this host.
    Alone,
    /// It starts the ranks of all hosts.
    Head(Head),
    /// It runs what the head asks for.
    Member(Membership),
}

fn part(args: &LaunchArgs) -> Result<Part, RunError> {
    let hosts = &args.hosts;
    if hosts.nnodes == 1 && hosts.node_rank == 0 {
        return Ok(Part::Alone);
    }
    if hosts.node_rank >= hosts.nnodes {
        return Err(RunError::Usage(format!(
            "--node-rank {}: expected less than --nnodes, which is {}",
            hosts.node_rank, hosts.nnodes
        )));
    }
    let endpoint = hosts.rdzv_endpoint.clone().ok_or_else(|| {
        RunError::Usage(
            "--nnodes above 1 needs --rdzv-endpoint HOST:PORT, an address of host 0 that all reach, \
             the same on each host"
                .into(),
        )
    })?;
    let patience = seconds("--join-timeout", hosts.join_timeout)?;
    if hosts.node_rank > 0 {
        return Ok(Part::Member(Membership {
            node: hosts.node_rank,
            nodes: hosts.nnodes,
            endpoint,
            ranks: args.nproc,
            address: hosts.node_address,
            patience,
            pin_cores: !args.no_pin,
        }));
    }
    Ok(Part::Head(Head {
        nodes: hosts.nnodes,
        endpoint,
        ranks: args.nproc,
        patience,
    }))
}

/// The command of `mpirun`'s agent, which Open MPI splits at blanks and colons.
fn agent() -> Result<String, RunError> {
    let program = own_program()?.display().to_string();
    if program.contains([' ', ':']) {
        return Err(RunError::Usage(format!(
            "Open MPI cannot start an agent at {program}: over several hosts, the path of this program must be without \
             blanks and colons"
        )));
    }
    Ok(format!("{program} node-shell"))
}

fn member(membership: &Membership) -> ExitCode {
    match serve_node(membership) {
        Ok(code) => exit_code(code),
        Err(error) => report(error.into()),
    }
}

/// The agent of `mpirun`.
pub(super) fn node_shell(host: &str, command: &[String]) -> ExitCode {
    match streamrec_launcher::nodes::node_shell(host, command) {
        Ok(code) => exit_code(code),
        Err(error) => report(error.into()),
    }
}

fn own_program() -> Result<PathBuf, RunError> {
    std::env::current_exe().map_err(RunError::other("cannot find this program's own file"))
}

/// Checks experiment and dataset once, before any rank starts.
fn job(args: &LaunchArgs) -> Result<(Job, Backend), RunError> {
    let stuck_after = seconds("--stuck-after", args.stuck_after)?;
    let stop_grace = seconds("--stop-grace", args.stop_grace)?;
    let experiment = Experiment::load(&args.train.config, &args.train.set)?;
    backend::check(experiment.parallel.backend)?;
    backend::check_hosts(experiment.parallel.backend, args.hosts.nnodes)?;
    Dataset::open(&experiment.data.dataset)?;
    let folder = RunFolder::new(&experiment.output);
    if !args.train.resume && !args.train.overwrite {
        folder.refuse_present()?;
    }
    let mut job = Job::new(program(args)?, args.nproc, folder.logs());
    job.args = rank_arguments(args);
    job.max_restarts = args.max_restarts;
    job.pin_cores = !args.no_pin;
    job.first_rank = FirstRankOutput::Direct;
    job.timing.stuck_after = stuck_after;
    job.timing.stop_grace = stop_grace;
    // Ranks that lost a peer have nothing left to save.
    job.timing.failure_grace = Duration::from_secs(2);
    Ok((job, experiment.parallel.backend))
}

fn seconds(option: &str, value: f64) -> Result<Duration, RunError> {
    Duration::try_from_secs_f64(value)
        .ok()
        .filter(|time| !time.is_zero())
        .ok_or_else(|| RunError::Usage(format!("{option}: expected seconds above 0, got {value}")))
}

/// What each rank runs: the user's program, else this one.
fn program(args: &LaunchArgs) -> Result<PathBuf, RunError> {
    match &args.program {
        None => {
            std::env::current_exe().map_err(RunError::other("cannot find this program's own file"))
        }
        // A bare name would be looked for in PATH, and never in the working folder.
        Some(program) => {
            std::path::absolute(program).map_err(RunError::file("find", program.as_path()))
        }
    }
}

fn rank_arguments(args: &LaunchArgs) -> Vec<OsString> {
    let command = args.program.is_none().then(|| "train".into());
    command.into_iter().chain(args.train.arguments()).collect()
}

/// Ends as the job did: with how many restarts, and which exit code.
fn finish(outcome: Result<(u32, i32), LaunchError>) -> ExitCode {
    match outcome {
        Ok((restarts, code)) => {
            if restarts > 0 && code == 0 {
                tracing::info!(restarts, "the job ended well");
            }
            exit_code(code)
        }
        Err(error) => report(error),
    }
}

fn report(error: LaunchError) -> ExitCode {
    let code = error.exit_code();
    eprintln!(
        "error: {}",
        RunError::other("the job did not finish")(error).message()
    );
    exit_code(code)
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
