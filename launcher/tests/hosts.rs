//! One job over several hosts, which are addresses of this one: real processes, a launcher on a thread for each host.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use streamrec_launcher::nodes::{Head, Membership, serve_node};
use streamrec_launcher::{
    Cause, Fault, Job, JobReport, LaunchError, Timing, free_port, launch_hosts,
};

/// A program of `examples/`, which cargo builds beside the tests.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.parent().and_then(Path::parent).unwrap();
    let path = built.join("examples").join(name);
    assert!(
        path.exists(),
        "{} is missing: `cargo test -p streamrec-launcher` builds it",
        path.display()
    );
    path
}

fn job(program: impl Into<PathBuf>, args: &[&str], logs: &Path) -> Job {
    let mut job = Job::new(program, 1, logs);
    job.args = args.iter().map(Into::into).collect();
    job.pin_cores = false;
    job.timing = Timing {
        heartbeat: Duration::from_millis(50),
        failure_grace: Duration::from_secs(1),
        backoff: Duration::from_millis(20),
        poll: Duration::from_millis(10),
        ..Timing::default()
    };
    job
}

fn script(text: &str, logs: &Path) -> Job {
    job("/bin/sh", &["-c", text], logs)
}

/// Runs a job with these numbers of ranks by host; returns what host 0 says, and the exit codes of the others.
fn run(job: &mut Job, ranks: &[usize]) -> (Result<JobReport, LaunchError>, Vec<i32>) {
    let endpoint = format!("127.0.0.2:{}", free_port().unwrap());
    let member = |node: usize| Membership {
        node,
        nodes: ranks.len(),
        endpoint: endpoint.clone(),
        ranks: ranks[node],
        address: Some([127, 0, 0, 2 + node as u8].into()),
        patience: Duration::from_secs(10),
        pin_cores: false,
    };
    let serve = |member: Membership| thread::spawn(move || serve_node(&member).unwrap());
    let others: Vec<JoinHandle<i32>> = (1..ranks.len()).map(member).map(serve).collect();
    let head = Head {
        nodes: ranks.len(),
        endpoint: endpoint.clone(),
        ranks: ranks[0],
        patience: Duration::from_secs(10),
    };
    job.nproc = ranks[0];
    let report = launch_hosts(job, &head);
    let codes = others.into_iter().map(|other| other.join().unwrap());
    (report, codes.collect())
}

fn cause_of(result: Result<JobReport, LaunchError>) -> Cause {
    match result {
        Err(LaunchError::Failed { cause, .. } | LaunchError::Configuration(cause)) => *cause,
        other => panic!("expected a failed job, not {other:?}"),
    }
}

fn log(logs: &Path, attempt: u32, rank: usize) -> String {
    fs::read_to_string(logs.join(format!("attempt-{attempt}/rank-{rank}.log"))).unwrap()
}

#[test]
fn ranks_of_all_hosts_find_the_torchrun_environment_and_leave_their_logs_at_host_0() {
    let logs = tempfile::tempdir().unwrap();
    let text = "echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $GROUP_RANK $MASTER_ADDR \
                $TORCHELASTIC_RESTART_COUNT $TORCHELASTIC_RUN_ID $EXTRA $STREAMREC_NODE_ADDRESS $PWD; echo $MASTER_PORT >&2; \
                test $STREAMREC_THREADS -ge 1";
    let mut job = script(text, logs.path());
    job.run_id = Some("daily".into());
    job.env.push(("EXTRA".into(), "yes".into()));
    let (report, codes) = run(&mut job, &[2, 1, 2]);
    assert_eq!((report.unwrap().exit_code(), codes), (0, vec![0, 0]));
    let here = std::env::current_dir().unwrap();
    let here = here.display();
    let places = [
        ("0 0 5 2 0", 2),
        ("1 1 5 2 0", 2),
        ("2 0 5 1 1", 3),
        ("3 0 5 2 2", 4),
        ("4 1 5 2 2", 4),
    ];
    let mut ports = Vec::new();
    for (rank, (place, address)) in places.iter().enumerate() {
        let log = log(logs.path(), 0, rank);
        let expected = format!("{place} 127.0.0.2 0 daily yes 127.0.0.{address} {here}");
        assert!(log.lines().any(|line| line == expected), "{log}");
        ports.extend(log.lines().find_map(|line| line.parse::<u16>().ok()));
    }
    assert_eq!(ports, [ports[0]; 5]);
}

#[test]
fn ranks_of_several_hosts_meet_and_finish() {
    let logs = tempfile::tempdir().unwrap();
    let (report, codes) = run(&mut job(example("rank"), &["20"], logs.path()), &[1, 2]);
    assert_eq!((report.unwrap().failures.len(), codes), (0, vec![0]));
    assert!(log(logs.path(), 0, 2).contains("rank 2 finished"));
}

#[test]
fn a_killed_rank_of_another_host_is_named_and_the_restart_succeeds() {
    let logs = tempfile::tempdir().unwrap();
    let mut job = job(example("rank"), &["10", "kill", "2", "4"], logs.path());
    job.max_restarts = 1;
    let (report, codes) = run(&mut job, &[1, 2]);
    let report = report.unwrap();
    let [failure] = report.failures.as_slice() else {
        panic!("one failure, not {:?}", report.failures)
    };
    assert_eq!(
        (failure.rank, &failure.fault),
        (2, &Fault::Killed(9)),
        "{failure}"
    );
    assert_eq!(failure.ranks[2].step, Some(4), "{failure}");
    assert_eq!(codes, [0]);
    assert!(log(logs.path(), 1, 2).contains("rank 2 finished"));
}

#[test]
fn a_failure_on_another_host_is_told_with_its_last_line_and_every_launcher_has_its_code() {
    let logs = tempfile::tempdir().unwrap();
    let mut job = job(example("rank"), &["10", "exit-3", "1", "2"], logs.path());
    let (report, codes) = run(&mut job, &[1, 1, 1]);
    let cause = cause_of(report);
    assert_eq!(
        (cause.rank, &cause.fault),
        (1, &Fault::Exited(3)),
        "{cause}"
    );
    assert_eq!(cause.last_lines, ["error: the disk is on fire"]);
    assert_eq!(codes, [3, 3]);
}

#[test]
fn bad_configuration_on_another_host_is_never_restarted() {
    let logs = tempfile::tempdir().unwrap();
    let text = "if [ $RANK = 1 ]; then echo no such field >&2; exit 2; fi; sleep 600";
    let mut job = script(text, logs.path());
    job.max_restarts = 5;
    let (report, codes) = run(&mut job, &[1, 1]);
    let error = report.unwrap_err();
    assert!(matches!(error, LaunchError::Configuration(_)), "{error}");
    assert!(error.to_string().contains("no such field"), "{error}");
    assert_eq!(codes, [2]);
    assert!(!logs.path().join("attempt-1").exists());
}

#[test]
fn a_stopped_rank_of_another_host_is_found_by_its_silence_and_ended() {
    let logs = tempfile::tempdir().unwrap();
    let mut job = job(example("rank"), &["10", "stop", "1", "3"], logs.path());
    job.timing.silent_after = Duration::from_secs(1);
    let cause = cause_of(run(&mut job, &[1, 1]).0);
    assert!(
        cause.rank == 1 && matches!(cause.fault, Fault::Silent(_)),
        "{cause}"
    );
    assert_eq!(cause.ranks[0].waiting_for, [1], "{cause}");
}

#[test]
fn a_rank_of_another_host_that_was_asked_to_stop_stops_the_job() {
    let logs = tempfile::tempdir().unwrap();
    let text = "trap 'echo left; exit 143' TERM; if [ $RANK = 1 ]; then sleep 0.5; exit 143; fi; sleep 600 & wait";
    let mut job = script(text, logs.path());
    job.max_restarts = 1;
    let (report, codes) = run(&mut job, &[1, 1, 1]);
    assert_eq!(report.unwrap().stopped_by, Some(15));
    assert_eq!(codes, [143, 143]);
    assert_eq!(log(logs.path(), 0, 0), "left\n");
    assert_eq!(log(logs.path(), 0, 2), "left\n");
}

#[test]
fn ranks_of_another_host_that_ignore_sigterm_are_killed_after_the_grace() {
    let logs = tempfile::tempdir().unwrap();
    let text =
        "trap '' TERM; if [ $RANK = 0 ]; then exit 1; fi; echo $$; sleep 600 & echo $!; wait";
    let mut job = script(text, logs.path());
    job.timing.failure_grace = Duration::from_millis(300);
    assert_eq!(cause_of(run(&mut job, &[1, 1]).0).rank, 0);
    for process in log(logs.path(), 0, 1).lines() {
        let status = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        assert!(status.is_empty() || status.contains(") Z "), "{process}");
    }
}
