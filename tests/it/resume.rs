//! Stopped and resumed equals uninterrupted, bit for bit.

use crate::workbench::{Running, Workbench, command, expect_success, rank_process, said, send};

const CONFIG: &str = "synthetic_dlrm.toml";
const SETTINGS: [&str; 5] = [
    "train.global_batch=64",
    "train.epochs=2",
    "train.max_steps=480",
    "train.log_every_steps=1",
    "checkpoint.every_steps=20",
];

/// The shards that an uninterrupted run of two ranks ends with.
fn assert_same_end(bench: &Workbench, run: &str) {
    bench.launch(2, CONFIG, "uninterrupted", &SETTINGS);
    let (step, expected) = bench.newest_shards("uninterrupted");
    let (resumed_step, shards) = bench.newest_shards(run);
    assert_eq!((step, resumed_step), (480, 480));
    assert_eq!(expected.len(), 2);
    for (name, bytes) in &expected {
        assert!(shards[name] == *bytes, "{name} differs");
    }
    // The journal tells each step once, with the same losses.
    let losses = |run: &str| -> Vec<(u64, String)> {
        let records = bench.records(run, "train");
        let line = |r: &serde_json::Value| (r["step"].as_u64().unwrap_or(0), r["loss"].to_string());
        records.iter().map(line).collect()
    };
    assert_eq!(losses(run), losses("uninterrupted"));
}

#[test]
fn a_rank_killed_in_mid_step_restarts_and_ends_with_the_same_model() {
    let bench = Workbench::with_events(20_000);
    let mut command = bench.launch_command(2, CONFIG, "killed", &SETTINGS);
    let child = command
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    let parent = child.id();
    bench.wait_for_step("killed", 150);
    send("KILL", rank_process(parent, 1));
    let output = child.wait_with_output().expect("ends");
    expect_success(&output);
    let text = said(&output);
    assert!(
        text.contains("rank 1") && text.contains("SIGKILL"),
        "names the cause: {text}"
    );
    assert_same_end(&bench, "killed");
}

#[test]
fn a_run_stopped_by_sigterm_saves_and_resumes() {
    let bench = Workbench::with_events(20_000);
    let child = bench
        .launch_command(2, CONFIG, "stopped", &SETTINGS)
        .spawn()
        .expect("starts");
    let mut running = Running(child);
    bench.wait_for_step("stopped", 100);
    send("TERM", running.0.id() as i32);
    let status = running.0.wait().expect("ends");
    assert_eq!(
        status.code(),
        Some(143),
        "the launcher says that a signal stopped it"
    );
    let (step, _) = bench.newest_shards("stopped");
    assert!((100..480).contains(&step), "saved at step {step}");

    let mut again = bench.launch_command(2, CONFIG, "stopped", &SETTINGS);
    let output = again.arg("--resume").output().expect("starts");
    expect_success(&output);
    assert_same_end(&bench, "stopped");
}

#[test]
fn a_signal_to_every_process_of_the_job_saves_too() {
    let bench = Workbench::with_events(20_000);
    let mut command = bench.launch_command(2, CONFIG, "all", &SETTINGS);
    let child = command.stderr(std::process::Stdio::piped()).spawn();
    let child = child.expect("starts");
    bench.wait_for_step("all", 100);
    // As systemd and Slurm do; the launcher passes its own on, so that ranks get two.
    let ranks = [0, 1].map(|rank| rank_process(child.id(), rank));
    for pid in ranks.into_iter().chain([child.id() as i32]) {
        send("TERM", pid);
    }
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(143), "{}", said(&output));
    assert!(!said(&output).contains("failed"), "{}", said(&output));
    let last = bench.records("all", "train").last().cloned();
    let last = last.and_then(|record| record["step"].as_u64());
    assert_eq!(Some(bench.newest_shards("all").0), last);
}

#[test]
fn a_run_that_stops_leaves_the_evaluation_to_the_one_that_goes_on() {
    let bench = Workbench::with_events(12_000);
    let settings = [
        &SETTINGS[..],
        &[
            "train.max_steps=60",
            "train.evaluate_every_steps=1",
            "train.early_stopping.patience=1000",
        ],
    ]
    .concat();
    let child = bench
        .launch_command(2, CONFIG, "run", &settings)
        .spawn()
        .expect("starts");
    let mut running = Running(child);
    bench.wait_for_step("run", 10);
    send("TERM", running.0.id() as i32);
    assert_eq!(running.0.wait().expect("ends").code(), Some(143));
    let valid = || -> Vec<u64> {
        let records = bench.records("run", "valid/click");
        records
            .iter()
            .filter_map(|record| record["step"].as_u64())
            .collect()
    };
    let (stopped_at, _) = bench.newest_shards("run");
    assert_eq!(valid(), (1..stopped_at).collect::<Vec<_>>());
    let mut again = bench.launch_command(2, CONFIG, "run", &settings);
    expect_success(&again.arg("--resume").output().expect("starts"));
    assert_eq!(valid(), (1..=60).collect::<Vec<_>>());
}

#[test]
fn a_run_ends_with_an_evaluation_whatever_ends_it() {
    let bench = Workbench::with_events(12_000);
    let settings = [
        "train.global_batch=1000",
        "train.epochs=1",
        "train.evaluate_every_steps=4",
        "train.log_every_steps=1",
    ];
    bench.launch(1, CONFIG, "run", &settings);
    let last = |kind: &str| bench.records("run", kind).last().expect("a record")["step"].clone();
    let step = last("train").as_u64().expect("a step");
    assert!(!step.is_multiple_of(4), "{step} tells nothing");
    assert_eq!(last("valid/click"), step);
}

#[test]
fn a_run_that_ended_early_says_so_and_goes_on_with_more_patience() {
    let bench = Workbench::with_events(12_000);
    let train = |patience: &str| {
        let settings = [
            "train.global_batch=500",
            "train.epochs=60",
            "train.evaluate_every_steps=10",
            patience,
        ];
        let mut command = command();
        command
            .arg("train")
            .args(bench.experiment(CONFIG, "run", &settings));
        command
    };
    let first = train("train.early_stopping={ patience = 0 }").output();
    let first = first.expect("starts");
    expect_success(&first);
    assert!(
        said(&first).contains("it ended early, after 1 evaluations"),
        "{}",
        said(&first)
    );
    let (ended, _) = bench.newest_shards("run");
    let mut again = train("train.early_stopping={ patience = 1 }");
    expect_success(&again.arg("--resume").output().expect("starts"));
    assert!(bench.newest_shards("run").0 > ended);
}

#[test]
fn a_run_resumes_at_another_world_size_on_the_same_curve() {
    let bench = Workbench::with_events(12_000);
    let half = [&SETTINGS[..], &["train.max_steps=60"]].concat();
    let whole = [&SETTINGS[..], &["train.max_steps=90"]].concat();
    bench.launch(3, CONFIG, "run", &half);
    let mut again = bench.launch_command(1, CONFIG, "run", &whole);
    expect_success(&again.arg("--resume").output().expect("starts"));
    bench.launch(1, CONFIG, "whole", &whole);
    let curve = |run: &str| -> Vec<f64> {
        let records = bench.records(run, "train");
        records
            .iter()
            .map(|record| record["loss"].as_f64().expect("a loss"))
            .collect()
    };
    let (resumed, expected) = (curve("run"), curve("whole"));
    assert_eq!((resumed.len(), expected.len()), (90, 90));
    for (one, other) in resumed.iter().zip(&expected) {
        assert!((one - other).abs() < 1e-4, "{one} and {other}");
    }
}

#[test]
fn a_finished_run_resumes_to_nothing_and_another_experiment_is_refused() {
    let bench = Workbench::with_events(12_000);
    let settings = [&SETTINGS[..], &["train.max_steps=20"]].concat();
    bench.launch(1, CONFIG, "run", &settings);
    let (_, before) = bench.newest_shards("run");
    // As a crash before best.json leaves it.
    let best = bench.path("run/checkpoints/best.json");
    let told = std::fs::read_to_string(&best).expect("read");
    std::fs::write(&best, r#"{"step":1,"loss":9.0}"#).expect("written");
    let resume = |settings: &[&str]| {
        let mut command = command();
        command
            .arg("train")
            .args(bench.experiment(CONFIG, "run", settings))
            .arg("--resume");
        command.output().expect("starts")
    };
    expect_success(&resume(&settings));
    assert!(
        bench.newest_shards("run").1 == before,
        "nothing was trained"
    );
    assert_eq!(std::fs::read_to_string(&best).expect("read"), told);

    let other = [&settings[..], &["seed=8"]].concat();
    let output = resume(&other);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("seed"), "{}", said(&output));
}

#[test]
fn a_second_run_into_the_same_folder_is_refused() {
    let bench = Workbench::with_events(12_000);
    let settings = [&SETTINGS[..], &["train.max_steps=5"]].concat();
    bench.launch(1, CONFIG, "run", &settings);
    let output = bench
        .launch_command(1, CONFIG, "run", &settings)
        .output()
        .expect("starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("--resume"), "{}", said(&output));
    let mut again = bench.launch_command(1, CONFIG, "run", &settings);
    expect_success(&again.arg("--overwrite").output().expect("starts"));
}
