//! What a monitoring folder keeps, and for how long. What the rules still need is a claim of `live_incidents`.

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::monitoring::{monitor, time_of, with_log};
use crate::workbench::{said, streamrec};

#[test]
fn rows_go_once_they_are_judged_or_when_told_and_receipts_after_them() {
    let bench = with_log(5, 4);
    let (log, out) = (bench.path("log"), bench.path("out"));
    monitor(&["compact", "--log", &log, "--out", &out]);
    let begin = time_of(&out, "request 0");
    let labels = bench.path("labels.csv");
    let text = format!(
        "request_id,row,label,label_time_ms\nrequest 0,0,1,{soon}\nnobody,0,1,{soon}\n",
        soon = begin + 1000
    );
    fs::write(&labels, text).unwrap();
    monitor(&["labels", "--labels", &labels, "--out", &out]);
    let in_days = |days: i64| {
        let moment = Timestamp::from_millisecond(begin + days * 86_400_000);
        moment.unwrap().to_string()
    };
    let prune = |days: i64, more: &[&str]| {
        let now = in_days(days);
        let command = ["prune", "--dir", &out, "--now", &now];
        monitor(&[&command, more].concat())
    };
    let counts = |report: &Value| {
        [
            "predicted_hours",
            "labelled_hours",
            "unjoined_files",
            "receipts",
            "unjudged_hours",
        ]
        .map(|name| report[name].as_u64().unwrap())
    };
    let files = |folder: &str| fs::read_dir(Path::new(&out).join(folder)).unwrap().count();
    let receipts = files("compacted") as u64;
    // A run over midnight of an hour has two.
    let hours = files("predictions") as u64;

    let young = prune(29, &["--rows", "30d", "--windows", "30d", "--unjudged"]);
    assert_eq!(counts(&young), [0; 5]);
    assert_eq!(young["bytes"], json!(0));
    let unjudged = prune(31, &["--rows", "30d", "--windows", "30d"]);
    assert_eq!(
        counts(&unjudged),
        [0, 0, 1, 0, hours],
        "only what found no prediction"
    );
    let rows = prune(31, &["--rows", "30d", "--windows", "400d", "--unjudged"]);
    assert_eq!(counts(&rows), [hours, 1, 0, 0, 0]);
    assert!(rows["bytes"].as_u64() > Some(1000));
    assert_eq!(
        (files("predictions"), files("labelled"), files("unjoined")),
        (0, 0, 0)
    );
    // The segments are still in the log: while receipts say that they were taken, they do not come back.
    let again = monitor(&["compact", "--log", &log, "--out", &out]);
    assert_eq!(
        (&again["segments"], &again["segments_known"]),
        (&json!(0), &json!(receipts))
    );
    let windows = prune(401, &["--windows", "400d"]);
    assert_eq!(counts(&windows), [0, 0, 0, receipts, 0]);
    assert_eq!(files("compacted"), 0);
}

#[test]
fn ages_that_are_missing_or_wrong_are_refused() {
    for (arguments, expected) in [
        (&["--dir", "."][..], "--rows <AGE>|--windows <AGE>"),
        (&["--dir", ".", "--rows", "soon"], "36h"),
        (
            &["--dir", ".", "--windows", "1d", "--unjudged"],
            "--rows <AGE>",
        ),
        (
            &["--dir", "no such folder", "--rows", "30d"],
            "no monitoring folder",
        ),
    ] {
        let output = streamrec(&[&["monitor", "prune"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(said(&output).contains(expected), "{}", said(&output));
    }
}
