//! The report of a run, written by the program and read in a real browser.

use std::fs;

use crate::browser::Browser;
use crate::workbench::{Workbench, expect_success, said, streamrec};

const GATE: &str = r#"
format_version = 1
name = "test <gate>"
unit = "user_id"
resamples = 100
min_rows = 100
min_units = 10
[[criteria]]
kind = "absolute"
metric = "auc"
label = "click"
min = 0.3
[[criteria]]
kind = "segments"
input = "platform"
metric = "log_loss"
max = 2.0
min_rows = 100
names = ["ios", "android", "web"]
"#;

/// A run that was trained, evaluated, exported and judged.
fn judged() -> (Workbench, String) {
    let bench = Workbench::with_events(12_000);
    let settings = [
        "train.global_batch=128",
        "train.log_every_steps=2",
        "train.evaluate_every_steps=20",
        "train.max_steps=60",
    ];
    bench.launch(1, "synthetic_wide_deep.toml", "run", &settings);
    let (run, artifact) = (bench.path("run"), bench.path("artifact"));
    expect_success(&streamrec(&["evaluate", &run]));
    expect_success(&streamrec(&["export", &run, "--out", &artifact]));
    let (gate, data) = (bench.path("gate.toml"), bench.path("data"));
    fs::write(&gate, GATE).unwrap();
    let judge = ["validate", "gate", &gate, &artifact, "--data", &data];
    expect_success(&streamrec(&judge));
    (bench, artifact)
}

#[test]
fn a_real_browser_reads_a_report_from_the_disk_and_asks_for_nothing() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let (bench, artifact) = judged();
    let (run, page) = (bench.path("run"), bench.path("report of a run.html"));
    let arguments = [
        "report",
        &run,
        "--artifact",
        &artifact,
        "--segment",
        "platform=ios,android,web,tv",
        "--out",
        &page,
    ];
    let output = streamrec(&arguments);
    expect_success(&output);
    assert!(said(&output).contains(&page), "{}", said(&output));
    browser.holds("report.py", &page, 7);
}

#[test]
fn a_report_without_an_artifact_says_what_is_missing() {
    let bench = Workbench::with_events(12_000);
    let settings = ["train.global_batch=512", "train.max_steps=4"];
    bench.launch(1, "synthetic_dlrm.toml", "run", &settings);
    let run = bench.path("run");
    expect_success(&streamrec(&["report", &run]));
    let page = fs::read_to_string(format!("{run}/report.html")).unwrap();
    for told in [
        "Not in this report",
        "--artifact",
        "streamrec evaluate",
        "Loss: ",
    ] {
        assert!(page.contains(told), "{told}");
    }
    let wrong = streamrec(&["report", &run, "--segment", "platform"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", said(&wrong));
}
