//! Data that came later: scored with the run's own vocabularies and counts, and trained on from an
//! earlier artifact.

use crate::serving::artifact;
use crate::workbench::{Workbench, expect_success, said, streamrec};

const SCHEMA: &str = r#"
name = "visits"
time = { from = "at", format = "ms" }
labels = [{ name = "click" }]
columns = [
  { name = "user", kind = "key", type = "text" },
  { name = "item", kind = "key", type = "integer" },
]
[source]
files = ["*.csv"]
[[trailing]]
keys = ["item"]
count = "item_views"
sums = { click = "item_clicks" }
"#;

const EXPERIMENT: &str = r#"
name = "visits"
seed = 3
[data]
labels = ["click"]
dataset = "data"
[[features]]
name = "user"
kind = "categorical"
column = "user"
encoding = "vocabulary"
min_count = 2
unseen_rows = 4
[[features]]
name = "item_rate"
kind = "dense"
rate = { positives = "item_clicks", count = "item_views", strength = 5.0 }
logit = true
[model]
kind = "wide_deep"
embedding_dim = 4
deep = [8]
[optimizer.dense]
kind = "adam"
learning_rate = 0.01
[optimizer.sparse]
kind = "row_wise_adagrad"
learning_rate = 0.1
[train]
global_batch = 100
epochs = 3
"#;

/// Rows of visits from `first` on; item k is clicked in k of 8 visits. `users` is how many there
/// are from then on.
fn visits(first: usize, count: usize, users: usize) -> String {
    let mut text = String::from("at,user,item,click\n");
    for row in first..first + count {
        let (user, item) = (row * 7919 % users, row % 8);
        let click = u8::from(row / 8 % 8 < item);
        text += &format!(
            "{},user-{user},{item},{click}\n",
            1_700_000_000_000 + row * 1000
        );
    }
    text
}

fn import(bench: &Workbench, csv: &str, out: &str, more: &[&str]) {
    let (schema, csv, out) = (bench.path("schema.toml"), bench.path(csv), bench.path(out));
    let arguments = [
        &[
            "data", "import", "--format", "csv", &csv, "--schema", &schema, "--out", &out,
        ][..],
        more,
    ];
    expect_success(&streamrec(&arguments.concat()));
}

fn evaluation(bench: &Workbench, data: &str) -> serde_json::Value {
    let arguments = [
        "evaluate",
        &bench.path("run"),
        "--data",
        &bench.path(data),
        "--json",
    ];
    let output = streamrec(&arguments);
    expect_success(&output);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    serde_json::from_str(&text).expect("JSON")
}

/// A run on the first 4000 visits.
fn trained() -> Workbench {
    trained_with(&[])
}

/// The same, its data imported with more arguments.
fn trained_with(import_arguments: &[&str]) -> Workbench {
    let bench = Workbench::new();
    std::fs::write(bench.path("schema.toml"), SCHEMA).expect("written");
    std::fs::write(bench.path("experiment.toml"), EXPERIMENT).expect("written");
    std::fs::write(bench.path("first.csv"), visits(0, 4000, 50)).expect("written");
    // Later, half of the users are new.
    std::fs::write(bench.path("later.csv"), visits(4000, 1000, 100)).expect("written");
    import(&bench, "first.csv", "data", import_arguments);
    expect_success(&streamrec(&train(&bench)));
    bench
}

fn train(bench: &Workbench) -> Vec<String> {
    let dataset = format!("data.dataset={}", bench.path("data"));
    let output = format!("output={}", bench.path("run"));
    let experiment = bench.path("experiment.toml");
    ["train", &experiment, "--set", &dataset, "--set", &output]
        .map(str::to_owned)
        .to_vec()
}

/// Runs a command that must be refused for one reason, which names all `parts`.
fn refused<A: AsRef<std::ffi::OsStr>>(arguments: &[A], parts: &[&str]) {
    let output = streamrec(arguments);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for part in parts {
        assert!(text.contains(part), "expected {part:?} in: {text}");
    }
}

fn version(folder: &str) -> String {
    streamrec::data::Dataset::open(folder)
        .expect("a dataset")
        .version()
}

#[test]
fn later_data_is_scored_with_the_runs_own_counts_and_unseen_ids() {
    let bench = trained();
    // Imported alone, its counts begin at zero, and the run's own are added; imported with the
    // history, they already go on.
    import(&bench, "later.csv", "later", &[]);
    let history = bench.path("data");
    import(
        &bench,
        "later.csv",
        "later-with-history",
        &["--history", &history, "--split", "test"],
    );
    let (alone, continued) = (
        evaluation(&bench, "later"),
        evaluation(&bench, "later-with-history"),
    );
    let (alone, continued) = (&alone["labels"]["click"], &continued["labels"]["click"]);
    assert_eq!(alone["rows"], 1000);
    assert_eq!(alone, continued, "both ways agree");
    assert!(alone["auc"].as_f64().expect("AUC") > 0.8, "{alone}");
}

#[test]
fn counts_may_come_by_a_chain_of_datasets_that_begins_at_the_runs_own() {
    let bench = trained();
    std::fs::write(bench.path("last.csv"), visits(5000, 500, 100)).expect("written");
    std::fs::write(bench.path("both.csv"), visits(4000, 1500, 100)).expect("written");
    let (data, later) = (bench.path("data"), bench.path("later"));
    import(&bench, "later.csv", "later", &["--history", &data]);
    import(&bench, "last.csv", "last", &["--history", &later]);
    let test = ["--history", &data, "--split", "time:0,0.333333"];
    import(&bench, "both.csv", "both", &test);
    let chained = evaluation(&bench, "last");
    let both = [
        "evaluate",
        &bench.path("run"),
        "--data",
        &bench.path("both"),
        "--split",
        "test",
        "--json",
    ];
    let both = streamrec(&both);
    expect_success(&both);
    let both: serde_json::Value = serde_json::from_slice(&both.stdout).expect("JSON");
    assert_eq!(chained["labels"]["click"]["rows"], 500);
    assert_eq!(chained["labels"], both["labels"], "as if imported at once");
}

#[test]
fn a_run_with_frozen_counts_scores_later_data_with_those_at_the_end_of_its_training() {
    let frozen = ["--held-out-counts", "frozen"];
    let bench = trained_with(&frozen);
    let history = bench.path("data");
    let with_history = ["--history", &history, "--split", "test"];
    import(&bench, "later.csv", "progressive", &[]);
    import(&bench, "later.csv", "continued", &with_history);
    import(
        &bench,
        "later.csv",
        "frozen",
        &[&frozen[..], &with_history].concat(),
    );
    let [first, second, third] = ["progressive", "continued", "frozen"].map(|data| {
        let found = evaluation(&bench, data);
        found["labels"]["click"].clone()
    });
    assert_eq!(first["rows"], 1000);
    assert_eq!(first, second, "whatever its own counts are");
    assert_eq!(first, third, "the counts are those of the run");
    // A run that counts on knows more of these rows.
    let counting = trained();
    import(&counting, "later.csv", "later", &[]);
    let counted = evaluation(&counting, "later");
    assert_ne!(counted["labels"]["click"]["log_loss"], first["log_loss"]);
}

#[test]
fn counts_never_come_from_the_future_or_from_other_data() {
    let bench = trained();
    // The same rows, in another split: added to the run's counts, each would hold its own label.
    import(&bench, "first.csv", "again", &["--split", "test"]);
    let evaluate = |data: &str| {
        ["evaluate", &bench.path("run"), "--data", &bench.path(data)].map(str::to_owned)
    };
    let last = 1_700_000_000_000_u64 + 3999 * 1000;
    refused(
        &evaluate("again"),
        &["own future", &last.to_string(), "again"],
    );
    // Counts that began at zero after the run's data know nothing of it.
    std::fs::write(bench.path("last.csv"), visits(5000, 500, 100)).expect("written");
    import(&bench, "later.csv", "later", &[]);
    let history = bench.path("later");
    import(&bench, "last.csv", "last", &["--history", &history]);
    let end = |data: &str| {
        let dataset = streamrec::data::Dataset::open(bench.path(data)).expect("a dataset");
        dataset.history.expect("kept").id
    };
    let ends = [end("later"), end("data")];
    refused(&evaluate("last"), &[&ends[0], &ends[1], "--history"]);
    // Nor do those that go on from them in turn.
    std::fs::write(bench.path("end.csv"), visits(5500, 500, 100)).expect("written");
    let history = bench.path("last");
    import(&bench, "end.csv", "end", &["--history", &history]);
    refused(&evaluate("end"), &[&ends[0], &ends[1], "--history"]);
}

#[test]
fn a_run_stays_with_the_data_it_was_trained_on() {
    let bench = trained();
    let (run, data) = (bench.path("run"), bench.path("data"));
    let was = version(&data);
    import(&bench, "later.csv", "data", &["--overwrite"]);
    let versions = [was.as_str(), &version(&data), "--data"];
    refused(&["evaluate", &run], &versions);
    let artifact = bench.path("artifact");
    refused(&["export", &run, "--out", &artifact], &versions);
    refused(
        &[train(&bench), vec!["--resume".into()]].concat(),
        &versions,
    );
}

#[test]
fn an_artifact_tells_only_of_the_data_of_its_run() {
    let bench = trained();
    import(&bench, "later.csv", "later", &["--split", "test"]);
    evaluation(&bench, "later");
    let artifact = bench.path("artifact");
    let export = [
        "export",
        &bench.path("run"),
        "--out",
        &artifact,
        "--overwrite",
    ];
    let metrics = || {
        expect_success(&streamrec(&export));
        let path = std::path::Path::new(&artifact).join("manifest.json");
        let text = std::fs::read(path).expect("a manifest");
        let manifest: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        manifest["metrics"].clone()
    };
    assert_eq!(metrics().get("test.click.auc"), None);
    expect_success(&streamrec(&["evaluate", &bench.path("run")]));
    assert!(metrics()["test.click.auc"].as_f64().is_some());
}

#[test]
fn a_warm_start_keeps_what_was_learnt_and_adds_new_ids() {
    let bench = Workbench::with_events(12_000);
    let artifact = artifact(&bench, "synthetic_dlrm.toml", "yesterday");
    // Another seed: other users and items beside those with the same ids.
    let (data, count) = (bench.path("tomorrow"), "16000");
    let arguments = ["data", "generate", "--out", &data, "--impressions", count];
    expect_success(&streamrec(&arguments));
    let dataset = format!("data.dataset={data}");
    let mut train = vec!["train".to_owned()];
    let settings = [
        "train.global_batch=512",
        "train.max_steps=1",
        "train.log_every_steps=1",
    ];
    train.extend(bench.experiment("synthetic_dlrm.toml", "warm", &settings));
    train.extend([
        "--set".into(),
        dataset.clone(),
        "--warm-start".into(),
        artifact,
    ]);
    let output = streamrec(&train);
    expect_success(&output);
    assert!(said(&output).contains("new_rows"), "{}", said(&output));

    let mut cold = vec!["train".to_owned()];
    cold.extend(bench.experiment("synthetic_dlrm.toml", "cold", &settings));
    cold.extend(["--set".into(), dataset]);
    expect_success(&streamrec(&cold));
    let first_loss = |run: &str| {
        bench.records(run, "train")[0]["loss"]
            .as_f64()
            .expect("a loss")
    };
    assert!(
        first_loss("warm") < first_loss("cold") - 0.01,
        "it begins where it ended"
    );
}
