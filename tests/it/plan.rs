//! `streamrec plan` says where tables would lie, and an experiment can do what it says.

use std::fs;

use crate::workbench::{Workbench, config, expect_success, said, streamrec};

fn plan(bench: &Workbench, arguments: &[&str]) -> std::process::Output {
    let experiment = bench.experiment("synthetic_dlrm.toml", "run", &[]);
    let mut all = vec!["plan"];
    all.extend(experiment.iter().map(String::as_str));
    all.extend(arguments);
    streamrec(&all)
}

#[test]
fn a_plan_can_be_pasted_and_trained() {
    let bench = Workbench::with_events(6_000);
    let output = plan(
        &bench,
        &[
            "--world",
            "2",
            "--gpu-memory",
            "80GiB",
            "--set",
            "parallel.embeddings.tables.user_id={placement=\"row_wise\"}",
            "--set",
            "parallel.embeddings.tables.item_id={placement=\"table_wise\",rank=1}",
        ],
    );
    expect_success(&output);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    for expected in [
        "2 ranks (dp 2 x tp 1)",
        "row-wise",
        "on rank 1",
        "step: about",
    ] {
        assert!(text.contains(expected), "expected `{expected}` in:\n{text}");
    }
    let (_, pasted) = text
        .split_once("put this into the experiment:")
        .expect("TOML");
    let path = bench.path("planned.toml");
    let whole = fs::read_to_string(config("synthetic_dlrm.toml")).expect("read") + pasted;
    fs::write(&path, whole).expect("written");
    let (data, run) = (bench.path("data"), bench.path("run"));
    let (data, run) = (format!("data.dataset={data}"), format!("output={run}"));
    let output = streamrec(&[
        "launch",
        "--nproc",
        "2",
        "--no-pin",
        &path,
        "--set",
        &data,
        "--set",
        &run,
        "--set",
        "train.max_steps=3",
    ]);
    expect_success(&output);
    assert!(said(&output).contains("2 ranks share the embedding tables"));
}

#[test]
fn a_model_of_small_tables_is_replicated_and_needs_nothing_pasted() {
    let bench = Workbench::with_events(3_000);
    let output = plan(&bench, &["--world", "4"]);
    expect_success(&output);
    let text = said(&output);
    assert!(text.contains("Every table is replicated"), "{text}");
    assert!(text.contains("products"), "{text}");
}

#[test]
fn what_cannot_be_planned_is_refused_with_the_numbers() {
    let bench = Workbench::with_events(3_000);
    for (arguments, expected) in [
        (&["--world", "0"][..], "at least 1"),
        (&["--world", "2", "--memory", "20KiB"], "fits nowhere"),
        (&["--world", "2", "--memory", "much"], "such as 80GiB"),
        (
            &["--world", "3", "--set", "parallel.tp=2"],
            "a multiple of `parallel.tp` = 2",
        ),
    ] {
        let output = plan(&bench, arguments);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(expected), "expected `{expected}` in:\n{text}");
    }
}
