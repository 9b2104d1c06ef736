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
    let output = plan(&bench, &["--world", "4", "--gpu", "h100"]);
    expect_success(&output);
    let text = said(&output);
    assert!(text.contains("Every table is replicated"), "{text}");
    // Ranks of this machine are measured.
    let output = plan(&bench, &["--world", "4"]);
    expect_success(&output);
    let text = said(&output);
    for expected in ["products", "between ranks: all-reduce", "layers", "user_id"] {
        assert!(text.contains(expected), "expected `{expected}` in:\n{text}");
    }
}

#[test]
fn tables_that_are_left_to_the_planner_stay_where_it_put_them() {
    let bench = Workbench::with_events(6_000);
    let auto = [
        "parallel.embeddings.placement=auto",
        "parallel.embeddings.tables.item_id={placement=\"column_wise\"}",
        "train.global_batch=512",
    ];
    let train = |ranks: usize, steps: &str, more: &[&str]| {
        let settings = [&auto[..], &[steps]].concat();
        let mut command = bench.launch_command(ranks, "synthetic_dlrm.toml", "run", &settings);
        let output = command.args(more).output().expect("the program starts");
        expect_success(&output);
        said(&output)
    };
    let text = train(2, "train.max_steps=3", &[]);
    assert!(
        text.contains("the planner chose where tables lie"),
        "{text}"
    );
    let path = bench.path("run/placements.toml");
    let chosen = fs::read_to_string(&path).expect("the choice");
    let table: toml::Table = chosen.parse().expect("TOML");
    assert_eq!(table["world"].as_integer(), Some(2));
    let item = &table["tables"]["item_id"]["placement"];
    assert_eq!(item.as_str(), Some("column_wise"), "what is named stays");
    let user = &table["tables"]["user_id"]["placement"];
    assert_ne!(user.as_str(), Some("auto"));

    // As if another measurement had chosen otherwise: the run keeps to it.
    let mut other = table.clone();
    let mut row_wise = toml::Table::new();
    row_wise.insert("placement".into(), "row_wise".into());
    other["tables"]["user_id"] = row_wise.into();
    fs::write(&path, other.to_string()).expect("written");
    let text = train(2, "train.max_steps=5", &["--resume"]);
    assert!(!text.contains("the planner chose"), "{text}");
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("user_id"))
        .collect();
    assert!(lines.iter().any(|line| line.contains("row-wise")), "{text}");
    // Another number of ranks is another job.
    let text = train(3, "train.max_steps=7", &["--resume"]);
    assert!(
        text.contains("the planner chose where tables lie"),
        "{text}"
    );
    let chosen = fs::read_to_string(&path).expect("the choice");
    assert!(chosen.contains("world = 3"), "{chosen}");
}

#[test]
fn a_cluster_is_planned_before_there_is_data() {
    let plan = |more: &[&str]| {
        let (experiment, tables) = (
            config("mlperf_dlrm_dcn_v2.toml"),
            config("tables/mlperf_dlrm_dcn_v2.toml"),
        );
        let paths = [experiment, tables].map(|path| path.display().to_string());
        let arguments = [
            "plan", &paths[0], "--tables", &paths[1], "--world", "8", "--gpu", "h100",
        ];
        streamrec(&[&arguments[..], more].concat())
    };
    let output = plan(&[]);
    expect_success(&output);
    let text = said(&output);
    for expected in [
        "8 ranks (dp 8 x tp 1), global batch 65536",
        "40000000 x 128",
        "row-wise",
        "hidden",
        "samples/s",
    ] {
        assert!(text.contains(expected), "expected `{expected}` in:\n{text}");
    }
    let refused = plan(&["--gpu-memory", "1GiB"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("fits nowhere"));
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
