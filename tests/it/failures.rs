//! A rank that hangs is found and named; a job that cannot go on says why.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use crate::workbench::{Workbench, command, rank_process, said, send};

const SETTINGS: [&str; 4] = [
    "train.global_batch=64",
    "train.max_steps=400",
    "train.log_every_steps=1",
    "checkpoint.every_steps=20",
];

#[test]
fn a_stopped_rank_is_found_within_seconds_and_the_job_goes_on() {
    let bench = Workbench::with_events(20_000);
    let mut command = bench.launch_command(2, "synthetic_dlrm.toml", "run", &SETTINGS);
    let child = command.stderr(Stdio::piped()).spawn().expect("starts");
    bench.wait_for_step("run", 60);
    let stopped = Instant::now();
    send("STOP", rank_process(child.id(), 1));
    let output = child.wait_with_output().expect("ends");
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("rank 1"), "names the stuck rank: {text}");
    assert!(
        stopped.elapsed() < Duration::from_secs(40),
        "took {:?}",
        stopped.elapsed()
    );
    assert_eq!(bench.newest_shards("run").0, 400);
    // The other rank gave up by itself, and said what it had waited for.
    let log = bench.path("run/logs/attempt-0/rank-0.log");
    let log = std::fs::read_to_string(log).expect("a log");
    assert!(
        log.contains("error: ") && log.contains("ranks [1]"),
        "{log}"
    );
}

#[test]
fn a_job_without_restarts_left_names_the_rank_and_its_log() {
    let bench = Workbench::with_events(20_000);
    let mut command = bench.launch_command(2, "synthetic_dlrm.toml", "run", &SETTINGS);
    let child = command
        .args(["--max-restarts", "0"])
        .stderr(Stdio::piped())
        .spawn();
    let child = child.expect("starts");
    bench.wait_for_step("run", 40);
    send("KILL", rank_process(child.id(), 0));
    let output = child.wait_with_output().expect("ends");
    let text = said(&output);
    assert!(!output.status.success());
    for part in ["rank 0", "SIGKILL", "rank-0.log"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

/// Rank 0 of 2, alone, on a host with `local` of them.
fn rank_without_its_peer(local: &str, port: &str) -> Output {
    let bench = Workbench::with_events(2_000);
    let environment = [
        ("RANK", "0"),
        ("LOCAL_RANK", "0"),
        ("WORLD_SIZE", "2"),
        ("LOCAL_WORLD_SIZE", local),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", port),
    ];
    let mut command = command();
    command.arg("train").args(bench.experiment(
        "synthetic_dlrm.toml",
        "run",
        &["parallel.timeout_s=1"],
    ));
    command.envs(environment).output().expect("starts")
}

#[test]
fn ranks_that_never_come_are_named() {
    let output = rank_without_its_peer("2", "29512");
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("[1]"), "{}", said(&output));
}
