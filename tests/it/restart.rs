//! A restart goes on with the run of its own job, and with no other's.

use std::process::{Command, Output, Stdio};

use crate::workbench::{Workbench, command, expect_success, rank_process, said, send};

const CONFIG: &str = "synthetic_dlrm.toml";

/// One rank in attempt `number` of `job`, as torchrun starts it.
fn attempt(mut command: Command, job: &str, number: u32) -> Command {
    command.envs([
        ("RANK", "0"),
        ("LOCAL_RANK", "0"),
        ("WORLD_SIZE", "1"),
        ("LOCAL_WORLD_SIZE", "1"),
        ("TORCHELASTIC_RUN_ID", job),
        ("TORCHELASTIC_RESTART_COUNT", &number.to_string()),
    ]);
    command
}

fn arguments(bench: &Workbench, steps: u64) -> Vec<String> {
    let steps = format!("train.max_steps={steps}");
    let settings = ["train.global_batch=64", "train.log_every_steps=1", &steps];
    let mut arguments = vec!["train".to_owned()];
    arguments.extend(bench.experiment(CONFIG, "run", &settings));
    arguments
}

fn train(bench: &Workbench, steps: u64, job: &str, number: u32, option: Option<&str>) -> Output {
    let mut command = attempt(command(), job, number);
    command.args(arguments(bench, steps)).args(option);
    command.output().expect("starts")
}

/// Whether the run began anew, after [`mark`].
fn is_fresh(bench: &Workbench) -> bool {
    !std::path::Path::new(&bench.path("run/tensorboard/mark")).exists()
}

fn mark(bench: &Workbench) {
    std::fs::write(bench.path("run/tensorboard/mark"), "").expect("written");
}

fn experiment(bench: &Workbench) -> String {
    std::fs::read_to_string(bench.path("run/experiment.toml")).expect("read")
}

#[test]
fn a_restart_goes_on_with_the_run_of_its_job_only() {
    let bench = Workbench::with_events(4_000);
    expect_success(&train(&bench, 10, "monday", 0, None));
    mark(&bench);

    // The first attempt of another job never came this far.
    let other = train(&bench, 10, "tuesday", 1, None);
    assert_eq!(other.status.code(), Some(2), "{}", said(&other));
    assert!(
        said(&other).contains("already holds a run"),
        "{}",
        said(&other)
    );
    assert!(!is_fresh(&bench));

    expect_success(&train(&bench, 12, "monday", 1, None));
    assert!(!is_fresh(&bench), "goes on");
    assert_eq!(bench.records("run", "train").len(), 12);
    assert!(
        experiment(&bench).contains("max_steps = 12"),
        "{}",
        experiment(&bench)
    );

    expect_success(&train(&bench, 10, "tuesday", 1, Some("--overwrite")));
    assert!(is_fresh(&bench), "begins anew");
    mark(&bench);
    // It is this job's run now: what attempt 1 began anew, attempt 2 goes on with.
    expect_success(&train(&bench, 12, "tuesday", 2, Some("--overwrite")));
    assert!(!is_fresh(&bench), "goes on");
}

#[test]
fn jobs_of_one_name_are_told_apart_by_who_started_them() {
    for name in ["none", "daily"] {
        let bench = Workbench::with_events(4_000);
        expect_success(&train(&bench, 10, name, 0, None));
        expect_success(&train(&bench, 12, name, 1, None));

        let mut shell = Command::new("/bin/sh");
        // More than one command, so that the shell stays the parent.
        shell.args([
            "-c",
            "\"$0\" \"$@\"; exit $?",
            env!("CARGO_BIN_EXE_streamrec"),
        ]);
        let mut elsewhere = attempt(shell, name, 1);
        let output = elsewhere.args(arguments(&bench, 12)).output();
        let output = output.expect("starts");
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    }
}

#[test]
fn torchrun_starts_ranks_and_its_restart_goes_on() {
    let found = Command::new("torchrun").arg("--help").output();
    if !found.is_ok_and(|output| output.status.success()) {
        println!("skipped: torchrun is not installed");
        return;
    }
    let bench = Workbench::with_events(20_000);
    let settings = [
        "train.global_batch=64",
        "train.epochs=2",
        "train.max_steps=300",
        "train.threads=1",
        "train.log_every_steps=1",
        "checkpoint.every_steps=20",
    ];
    let mut torchrun = Command::new("torchrun");
    torchrun
        .args([
            "--no-python",
            "--nproc-per-node",
            "2",
            "--max-restarts",
            "1",
        ])
        .args([
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            "127.0.0.1:29540",
        ])
        .args([env!("CARGO_BIN_EXE_streamrec"), "train"])
        .args(bench.experiment(CONFIG, "run", &settings))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let agent = torchrun.spawn().expect("starts");
    bench.wait_for_step("run", 60);
    send("KILL", rank_process(agent.id(), 1));
    let output = agent.wait_with_output().expect("ends");
    expect_success(&output);
    bench.launch(2, CONFIG, "launched", &settings);
    assert!(bench.newest_tensors("run") == bench.newest_tensors("launched"));
}
