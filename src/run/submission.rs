//! `streamrec launch --print`: the job, described for a scheduler.

use streamrec_launcher::{Submission, SubmissionError};

use super::RunError;
use super::backend;
use super::bytes::parse_bytes;
use super::cli::{BackendName, LaunchArgs, Scheduler, TrainArgs};
use crate::config::{Backend, Experiment};

/// What to hand to the scheduler.
pub(super) fn text(args: &LaunchArgs, scheduler: Scheduler) -> Result<String, RunError> {
    let submission = submission(args)?;
    let text = match scheduler {
        Scheduler::Slurm => Ok(submission.slurm()),
        Scheduler::Kubernetes => submission.kubernetes(),
        Scheduler::Mpirun => submission.mpirun(),
    };
    text.map_err(|error| {
        let option = match &error {
            SubmissionError::HostNames { .. } => "--host-names NAME,NAME,... and --nnodes",
            SubmissionError::Name(_) => "--set name=NAME",
            SubmissionError::Missing { .. } => "--image IMAGE and --volume-claim CLAIM",
        };
        RunError::Usage(format!("{error}: see {option}"))
    })
}

fn submission(args: &LaunchArgs) -> Result<Submission, RunError> {
    let experiment = Experiment::load(&args.train.config, &args.train.set)?;
    let options = &args.submission;
    if args.train.overwrite {
        return Err(RunError::Usage(
            "--print with --overwrite: a job that starts again would remove its own run; remove the old run by hand, \
             or choose another folder by --set output=FOLDER"
                .into(),
        ));
    }
    for (option, number) in [
        ("--nnodes", args.hosts.nnodes),
        ("--nproc", args.nproc),
        ("--cores", options.cores),
    ] {
        if number == 0 {
            return Err(RunError::Usage(format!(
                "{option}: expected at least 1, got 0"
            )));
        }
    }
    let (world, tp) = (args.hosts.nnodes * args.nproc, experiment.parallel.tp);
    if !world.is_multiple_of(tp) {
        return Err(RunError::Usage(format!(
            "{world} ranks (--nnodes x --nproc) do not divide into groups of `parallel.tp` = {tp}"
        )));
    }
    backend::check_hosts(experiment.parallel.backend, args.hosts.nnodes)?;
    let memory = options.memory.as_deref();
    let memory = memory
        .map(|text| parse_bytes("--memory", text))
        .transpose()?;
    Ok(Submission {
        name: experiment.name,
        host_command: host_command(args)?,
        rank_command: rank_command(args)?,
        mpi: experiment.parallel.backend == Backend::Mpi,
        hosts: args.hosts.nnodes,
        ranks_per_host: args.nproc,
        cores_per_rank: options.cores,
        memory_mib: memory.map(|bytes| bytes.div_ceil(1 << 20)),
        minutes: options.minutes,
        stop_grace_s: args.stop_grace.ceil() as u64,
        max_restarts: args.max_restarts,
        host_names: options.host_names.clone(),
        image: options.image.clone(),
        volume_claim: options.volume_claim.clone(),
    })
}

fn host_command(args: &LaunchArgs) -> Result<Vec<String>, RunError> {
    let mut words = ["streamrec", "launch", "--nproc"]
        .map(str::to_owned)
        .to_vec();
    words.push(args.nproc.to_string());
    words.extend(["--max-restarts".into(), args.max_restarts.to_string()]);
    words.extend(["--stuck-after".into(), args.stuck_after.to_string()]);
    words.extend(["--stop-grace".into(), args.stop_grace.to_string()]);
    if args.no_pin {
        words.push("--no-pin".into());
    }
    if let Some(program) = &args.program {
        words.extend(["--program".into(), program.display().to_string()]);
    }
    words.extend(train_words(args)?);
    Ok(words)
}

fn rank_command(args: &LaunchArgs) -> Result<Vec<String>, RunError> {
    let mut words = match &args.program {
        Some(program) => vec![program.display().to_string()],
        None => vec!["streamrec".to_owned(), "train".to_owned()],
    };
    words.extend(train_words(args)?);
    if args.hosts.nnodes > 1 {
        words.extend(["--set".into(), BackendName::Mpi.setting()]);
    }
    Ok(words)
}

/// The arguments of `train`. What starts again goes on.
fn train_words(args: &LaunchArgs) -> Result<Vec<String>, RunError> {
    let resumed = TrainArgs {
        resume: true,
        ..args.train.clone()
    };
    let text = |word: std::ffi::OsString| {
        word.into_string().map_err(|word| {
            RunError::Usage(format!(
                "{}: a script needs paths in Unicode",
                word.display()
            ))
        })
    };
    resumed.arguments().into_iter().map(text).collect()
}
