//! `--profile` tells where the time of a step goes.

use serde_json::Value;

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
