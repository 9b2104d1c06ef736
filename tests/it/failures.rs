//! A rank that hangs is found and named; a job that cannot go on says why.

use std::process::Stdio;
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

#[test]
fn ranks_that_never_come_are_named() {
    let bench = Workbench::with_events(2_000);
    let mut command = command();
    let environment = [
        ("RANK", "0"),
        ("LOCAL_RANK", "0"),
        ("WORLD_SIZE", "2"),
        ("LOCAL_WORLD_SIZE", "1"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", "29512"),
    ];
    command
        .arg("train")
        .args(bench.experiment("synthetic_dlrm.toml", "run", &[]));
    let output = command.envs(environment).output().expect("starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("spans hosts"), "{}", said(&output));
}
