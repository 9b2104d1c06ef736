//! What the launcher does when a rank fails: real processes, real signals.
//!
//! The ranks are shell scripts, or `examples/rank.rs` where they must report.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use streamrec_launcher::{Fault, Job, JobReport, LaunchError, Timing, launch};

/// A program of `examples/`, which cargo builds beside the tests.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("examples")
        .join(name);
    assert!(
        path.exists(),
        "{} is missing: `cargo test -p streamrec-launcher` builds it",
        path.display()
    );
    path
}

fn impatient() -> Timing {
    Timing {
        heartbeat: Duration::from_millis(50),
        failure_grace: Duration::from_secs(1),
        backoff: Duration::from_millis(20),
        poll: Duration::from_millis(10),
        ..Timing::default()
    }
}

fn job(program: impl Into<PathBuf>, args: &[&str], nproc: usize, logs: &Path) -> Job {
    let mut job = Job::new(program, nproc, logs);
    job.args = args.iter().map(Into::into).collect();
    job.timing = impatient();
    job
}

fn script(text: &str, nproc: usize, logs: &Path) -> Job {
    job("/bin/sh", &["-c", text], nproc, logs)
}

fn cause_of(result: Result<JobReport, LaunchError>) -> streamrec_launcher::Cause {
    match result {
        Err(LaunchError::Failed { cause, .. } | LaunchError::Configuration(cause)) => *cause,
        other => panic!("expected a failed job, not {other:?}"),
    }
}

fn log(logs: &Path, attempt: u32, rank: usize) -> String {
    fs::read_to_string(logs.join(format!("attempt-{attempt}/rank-{rank}.log"))).unwrap()
}

#[test]
fn every_rank_finds_the_torchrun_environment_and_its_share_of_threads() {
    let logs = tempfile::tempdir().unwrap();
    let mut two = script(
        "echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $GROUP_RANK $MASTER_ADDR $TORCHELASTIC_RESTART_COUNT \
         $TORCHELASTIC_RUN_ID $EXTRA; test $MASTER_PORT -gt 0 && test $STREAMREC_THREADS -ge 1; ! read line",
        2,
        logs.path(),
    );
    two.run_id = Some("daily".into());
    two.env.push(("EXTRA".into(), "yes".into()));
    let report = launch(&two).unwrap();
    assert_eq!((report.failures.len(), report.exit_code()), (0, 0));
    assert_eq!(log(logs.path(), 0, 0), "0 0 2 2 0 127.0.0.1 0 daily yes\n");
    assert_eq!(log(logs.path(), 0, 1), "1 1 2 2 0 127.0.0.1 0 daily yes\n");
}

#[test]
fn an_exit_code_ends_the_other_rank_and_is_named_with_its_last_line() {
    let logs = tempfile::tempdir().unwrap();
    let text = "if [ $RANK = 1 ]; then echo oops >&2; exit 3; fi; sleep 600";
    let started = Instant::now();
    let error = launch(&script(text, 2, logs.path())).unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(error.exit_code(), 3);
    let message = error.to_string();
    for part in [
        "rank 1 exited with code 3",
        "| oops",
        "attempt-0/rank-1.log",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_killed_rank_leads_to_a_restart_that_succeeds() {
    let logs = tempfile::tempdir().unwrap();
    let mut job = job(example("rank"), &["10", "kill", "1", "4"], 2, logs.path());
    job.max_restarts = 1;
    let report = launch(&job).unwrap();
    let [failure] = report.failures.as_slice() else {
        panic!("one failure, not {:?}", report.failures)
    };
    assert_eq!(
        (failure.rank, &failure.fault),
        (1, &Fault::Killed(9)),
        "{failure}"
    );
    assert_eq!(failure.ranks[1].step, Some(4), "{failure}");
    assert!(log(logs.path(), 1, 0).contains("rank 0 finished"));
}

#[test]
fn a_stopped_rank_is_found_by_its_silence_and_ended() {
    let logs = tempfile::tempdir().unwrap();
    let mut job = job(example("rank"), &["10", "stop", "1", "3"], 2, logs.path());
    job.timing.silent_after = Duration::from_secs(1);
    let cause = cause_of(launch(&job));
    assert!(
        cause.rank == 1 && matches!(cause.fault, Fault::Silent(_)),
        "{cause}"
    );
    assert_eq!(cause.ranks[0].waiting_for, [1], "{cause}");
}

#[test]
fn a_rank_that_waits_in_a_collective_is_not_blamed_for_the_one_that_hangs() {
    let logs = tempfile::tempdir().unwrap();
    let mut job = job(example("rank"), &["10", "hang", "1", "2"], 3, logs.path());
    job.timing.stuck_after = Duration::from_secs(1);
    let cause = cause_of(launch(&job));
    assert!(
        cause.rank == 1 && matches!(cause.fault, Fault::Stuck(_)),
        "{cause}"
    );
    assert!(
        cause
            .to_string()
            .contains("rank 0: step 2, phase reduce, in all_reduce #2, waiting for [1]"),
        "{cause}"
    );
    assert!(
        cause.to_string().contains("rank 1: step 2, phase forward"),
        "{cause}"
    );
}

#[test]
fn a_rank_that_leaves_early_is_blamed_by_those_that_wait() {
    let logs = tempfile::tempdir().unwrap();
    let mut job = job(example("rank"), &["10", "leave", "1", "2"], 2, logs.path());
    job.timing.stuck_after = Duration::from_secs(1);
    let cause = cause_of(launch(&job));
    assert_eq!(
        (cause.rank, &cause.fault),
        (1, &Fault::LeftEarly),
        "{cause}"
    );
}

#[test]
fn the_loss_of_rank_0_is_not_blamed_on_the_ranks_that_notice_it_first() {
    let logs = tempfile::tempdir().unwrap();
    let cause = cause_of(launch(&job(
        example("rank"),
        &["10", "fail", "0", "2"],
        3,
        logs.path(),
    )));
    assert_eq!(
        (cause.rank, &cause.fault),
        (0, &Fault::Exited(1)),
        "{cause}"
    );
    assert_eq!(
        cause.message.as_deref(),
        Some("cannot read day 4"),
        "{cause}"
    );
}

#[test]
fn an_exhausted_budget_names_the_last_cause_and_the_logs() {
    let logs = tempfile::tempdir().unwrap();
    let mut job = script("exit $((7 + TORCHELASTIC_RESTART_COUNT))", 1, logs.path());
    job.max_restarts = 2;
    let error = launch(&job).unwrap_err();
    assert_eq!(error.exit_code(), 9);
    let message = error.to_string();
    let logs = logs.path().to_str().unwrap();
    for part in [
        "after 2 restarts of 2",
        "exited with code 9",
        logs,
        "attempt-2/rank-0.log",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn bad_configuration_is_never_restarted() {
    let logs = tempfile::tempdir().unwrap();
    let mut job = script("echo no such field >&2; exit 2", 2, logs.path());
    job.max_restarts = 5;
    let error = launch(&job).unwrap_err();
    assert!(
        matches!(error, LaunchError::Configuration(_)) && error.exit_code() == 2,
        "{error}"
    );
    assert!(!logs.path().join("attempt-1").exists());
}

#[test]
fn ranks_that_ignore_sigterm_are_killed_after_the_grace_with_all_they_started() {
    let logs = tempfile::tempdir().unwrap();
    let text = "trap '' TERM; if [ $RANK = 0 ]; then exit 1; fi; sleep 600 & echo $!; wait";
    let mut two = script(text, 2, logs.path());
    two.timing.failure_grace = Duration::from_millis(300);
    assert_eq!(cause_of(launch(&two)).rank, 0);
    let grandchild = log(logs.path(), 0, 1);
    assert!(
        !is_alive(grandchild.trim()),
        "process {grandchild} lives on"
    );
}

/// Whether a process runs; zombies do not count.
fn is_alive(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !status.is_empty() && !status.contains(") Z ")
}

#[test]
fn a_rank_that_was_asked_to_stop_stops_the_job_and_uses_up_no_restart() {
    let logs = tempfile::tempdir().unwrap();
    let text =
        "if [ $RANK = 1 ]; then exit 143; fi; trap 'echo left; exit 143' TERM; sleep 600 & wait";
    let mut two = script(text, 2, logs.path());
    two.max_restarts = 1;
    let report = launch(&two).unwrap();
    assert_eq!((report.stopped_by, report.failures.len()), (Some(15), 0));
    assert_eq!(log(logs.path(), 0, 0), "left\n");
    assert!(!logs.path().join("attempt-1").exists());
}

#[test]
fn a_program_that_does_not_exist_is_named() {
    let logs = tempfile::tempdir().unwrap();
    let message = launch(&job("/nonexistent/program", &[], 1, logs.path()))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("rank 0") && message.contains("/nonexistent/program"),
        "{message}"
    );
}
