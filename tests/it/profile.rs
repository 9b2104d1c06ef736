//! A run tells where the time of its steps goes.

use serde_json::Value;
use streamrec::checkpoint::{Checkpoint, CheckpointFolder};

use crate::workbench::{Workbench, expect_success, said};

#[test]
fn a_profile_names_operations_and_what_communication_was_hidden() {
    let bench = Workbench::with_events(12_000);
    let settings = [
        "train.global_batch=64",
        "train.max_steps=70",
        "parallel.embeddings.placement=row_wise",
    ];
    let mut command = bench.launch_command(2, "synthetic_dlrm.toml", "run", &settings);
    let output = command.arg("--profile").output().expect("starts");
    expect_success(&output);
    let text = said(&output);
    let expected = [
        "50 steps",
        "forward ",
        "backward ",
        "update tables",
        "wait for an exchange",
        "% hidden",
    ];
    for part in expected {
        assert!(text.contains(part), "{part} in {text}");
    }
    for rank in 0..2 {
        let path = bench.path(&format!("run/profile/rank-{rank}.json"));
        let trace = std::fs::read(path).expect("a trace");
        let trace: Value = serde_json::from_slice(&trace).expect("JSON");
        let events = trace["traceEvents"].as_array().expect("events");
        let count = |name: &str| events.iter().filter(|event| event["name"] == name).count();
        // Once a step; the first may still have ids under way from before.
        assert_eq!(count("update tables"), 50);
        assert_eq!(count("fetch vectors"), 50);
        assert!(events.iter().all(|event| event["pid"] == rank));
        assert!(events.iter().any(|event| event["cat"] == "collective"));
    }
}

#[test]
fn a_run_tells_how_long_its_steps_waited_for_input() {
    let bench = Workbench::with_events(20_000);
    // Epochs of one batch, which nobody can make ahead: each step waits until all of it is read.
    let settings = [
        "train.global_batch=20000",
        "train.epochs=4",
        "train.log_every_steps=1",
    ];
    let output = bench.launch(1, "synthetic_dlrm.toml", "run", &settings);
    let records = bench.records("run", "train");
    let field = |record: &Value, name: &str| record[name].as_f64().expect("a number");
    let waited_ms: Vec<f64> = records
        .iter()
        .map(|record| field(record, "input_waited_ms"))
        .collect();
    assert_eq!(waited_ms.len(), 4);
    // Nobody reads and encodes over ten thousand rows in a twentieth of a millisecond.
    assert!(waited_ms.iter().all(|ms| *ms > 0.05), "{waited_ms:?}");
    let sum_s = waited_ms.iter().sum::<f64>() / 1e3;
    let elapsed_s = field(&records[3], "elapsed_s");
    assert!(sum_s < elapsed_s, "waited {sum_s} s of {elapsed_s} s");

    let folder = CheckpointFolder::new(bench.path("run/checkpoints").into());
    let checkpoint = Checkpoint::open(&folder, 4).expect("opened");
    let state: Value = checkpoint.state().expect("a state");
    let told_s = field(&state, "input_waited_seconds");
    assert!((told_s - sum_s).abs() < 1e-6, "{told_s} s, {sum_s} s");
    assert!(told_s < field(&state, "seconds"), "{state}");
    let text = said(&output);
    let summary = format!("{sum_s:.1} s of it waited for input");
    assert!(text.contains(&summary), "{summary} in {text}");

    let board = std::fs::read_dir(bench.path("run/tensorboard")).expect("a folder");
    let events = std::fs::read(board.flatten().next().expect("a file").path()).expect("events");
    let tag = b"train/input_waited_ms";
    assert!(events.windows(tag.len()).any(|bytes| bytes == tag));
}
