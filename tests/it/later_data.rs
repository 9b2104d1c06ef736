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

#[test]
fn later_data_is_scored_with_the_runs_own_counts_and_unseen_ids() {
    let bench = Workbench::new();
    std::fs::write(bench.path("schema.toml"), SCHEMA).expect("written");
    std::fs::write(bench.path("experiment.toml"), EXPERIMENT).expect("written");
    std::fs::write(bench.path("first.csv"), visits(0, 4000, 50)).expect("written");
    // Later, half of the users are new.
    std::fs::write(bench.path("later.csv"), visits(4000, 1000, 100)).expect("written");
    import(&bench, "first.csv", "data", &[]);
    let dataset = format!("data.dataset={}", bench.path("data"));
    let output = format!("output={}", bench.path("run"));
    let experiment = bench.path("experiment.toml");
    expect_success(&streamrec(&[
        "train",
        &experiment,
        "--set",
        &dataset,
        "--set",
        &output,
    ]));

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
