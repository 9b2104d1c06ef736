//! Claims about experiment files.

use super::*;

const EXPERIMENT: &str = r#"
name = "tiny"

[data]
dataset = "data/tiny"
labels = ["click"]

[[features]]
name = "user"
kind = "categorical"
column = "user_id"
encoding = "hash"
rows = 100

[model]
kind = "dlrm"
embedding_dim = 4
bottom = []
top = [8]

[optimizer.dense]
kind = "adam"
learning_rate = 0.001

[optimizer.sparse]
kind = "row_wise_adagrad"
learning_rate = 0.05

[train]
global_batch = 64
"#;

fn refusal(text: &str, overrides: &[&str]) -> String {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let error = Experiment::parse(text, &overrides).expect_err("refused");
    error.to_string()
}

#[test]
fn a_resolved_experiment_reads_back() {
    let experiment = Experiment::parse(EXPERIMENT, &[]).expect("valid");
    assert_eq!(experiment.output, Path::new("runs/tiny"));
    let text = experiment.to_toml().expect("TOML");
    let again = Experiment::parse(&text, &[]).expect("valid");
    assert_eq!(again.to_toml().expect("TOML"), text);
}

#[test]
fn all_errors_are_told_at_once() {
    let broken = EXPERIMENT
        .replace("[train]\nglobal_batch = 64", "[train]\nglobal_batchh = 64")
        .replace("labels = [\"click\"]", "labels = []")
        .replace("name = \"tiny\"", "name = \"ti/ny\"\nspeed = 9");
    let message = refusal(&broken, &["oops", "checkpoint.keep=0"]);
    for part in [
        "global_batchh",
        "`speed`: unknown section",
        "--set oops",
        "data.labels",
        "`name`",
        "checkpoint.keep",
    ] {
        assert!(message.contains(part), "{part} in {message}");
    }
    let message = refusal(
        EXPERIMENT,
        &[
            "checkpoint.keep=0",
            "train.global_batch=0",
            "data.labels=[]",
            "name='a b'",
        ],
    );
    for part in [
        "4 things",
        "checkpoint.keep",
        "train.global_batch",
        "data.labels",
        "`name`",
    ] {
        assert!(message.contains(part), "{part} in {message}");
    }
}

#[test]
fn an_unknown_field_names_the_known_ones() {
    let message = refusal(EXPERIMENT, &["data.labl=1"]);
    assert!(message.contains("unknown field `labl`"), "{message}");
    assert!(message.contains("`labels`"), "{message}");
}

#[test]
fn a_missing_section_is_named() {
    let without = EXPERIMENT.replace("[model]", "[modell]");
    let message = refusal(&without, &[]);
    assert!(message.contains("`model`: missing"), "{message}");
    assert!(message.contains("`modell`: unknown section"), "{message}");
}

#[test]
fn a_syntax_error_says_where() {
    let message = refusal("name = \n", &[]);
    assert!(
        message.contains("not valid TOML") && message.contains("line 1"),
        "{message}"
    );
}

#[test]
fn a_time_that_no_clock_counts_is_refused() {
    for seconds in ["1e20", "0", "nan"] {
        let message = refusal(EXPERIMENT, &[&format!("parallel.timeout_s={seconds}")]);
        assert!(message.contains("parallel.timeout_s"), "{message}");
    }
}

#[test]
fn an_unknown_backend_names_the_known_ones() {
    let message = refusal(EXPERIMENT, &["parallel.backend=\"gloo\""]);
    for part in ["parallel", "gloo", "auto", "shared_memory", "tcp", "mpi"] {
        assert!(message.contains(part), "{message}");
    }
}
