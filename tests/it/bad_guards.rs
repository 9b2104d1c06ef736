//! Mistakes in what guards a model (suites, limits, gates, rules, monitoring folders): each is told by name, with exit
//! code 2. A guard that is wrong must never look like one that is content.

use std::fs;
use std::io::Read;
use std::process::Stdio;

use crate::serving::artifact;
use crate::workbench::{Workbench, command, expect_success, said, streamrec};

/// Runs a command that must be refused with exit code 2, and checks what it says.
fn refused(arguments: &[&str], parts: &[&str]) {
    let output = streamrec(arguments);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
    for part in parts {
        assert!(text.contains(part), "{arguments:?}: no {part:?} in: {text}");
    }
    assert_eq!(text.matches("error: ").count(), 1, "one message: {text}");
}

/// Writes a file of the bench and gives its path.
fn written(bench: &Workbench, name: &str, text: &str) -> String {
    let path = bench.path(name);
    fs::write(&path, text).expect("written");
    path
}

const SUITE: &str = r#"{"name": "s", "expectations": [
    {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "a"}},
    {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 1, "max_value": 2}}]}"#;

#[test]
fn a_suite_without_a_column_of_the_table_is_not_met_and_rows_count_all_the_same() {
    let bench = Workbench::with_events(400);
    let suite = written(&bench, "suite.json", SUITE);
    let table = written(&bench, "table.csv", "b,c\n1,2\n3,4\n");
    let output = streamrec(&["validate", "data", &suite, &table]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    for told in [
        "the table has no column `a`",
        "1 of 2 expectations met",
        "2 rows",
    ] {
        assert!(said(&output).contains(told), "{told}: {}", said(&output));
    }
    let packed = streamrec(&["validate", "data", &suite, &bench.path("data")]);
    assert_eq!(packed.status.code(), Some(3), "{}", said(&packed));
    assert!(said(&packed).contains("0 of 2"), "{}", said(&packed));
}

#[test]
fn files_of_validation_that_are_missing_or_wrong_are_named() {
    let bench = Workbench::new();
    let none = bench.path("none.toml");
    let suite = written(&bench, "suite.json", SUITE);
    let table = written(&bench, "table.csv", "a\n1\n");
    let ragged = written(&bench, "ragged.csv", "a,b\n1\n");
    let cut = written(&bench, "cut.parquet", "PAR1");
    refused(
        &["validate", "data", &none, &table],
        &["cannot read", "none.toml"],
    );
    refused(
        &["validate", "data", &suite, &bench.path("none.csv")],
        &["none.csv"],
    );
    refused(
        &["validate", "data", &suite, &ragged],
        &[
            "ragged.csv",
            "line 2: expected 2 fields as the first line has, got 1",
        ],
    );
    refused(
        &["validate", "data", &suite, &cut],
        &["cut.parquet", "Parquet"],
    );
    let nowhere = bench.path("none/failing.parquet");
    let arguments = [
        "validate",
        "data",
        &suite,
        &table,
        "--failing-rows",
        &nowhere,
    ];
    refused(
        &arguments,
        &["failing rows cannot be written", "--failing-rows"],
    );
    let out = bench.path("suite.toml");
    let suggest = ["validate", "suggest", &table, "--out", &out];
    refused(
        &[&suggest[..], &["--segment", "client"]].concat(),
        &["table.csv", "no column `client`; it has a"],
    );
    let other = written(&bench, "other.csv", "b\n1\n");
    refused(
        &[&suggest[..], &[other.as_str()]].concat(),
        &["other.csv", "its columns differ"],
    );
    let run = bench.path("run");
    refused(
        &["validate", "drift", &run, &table],
        &["cannot read the artifact", &run],
    );
    refused(
        &["validate", "gate", &none, &run, "--data", &run],
        &["cannot read", "none.toml"],
    );
    refused(&["validate", "behaviour", &none, &run], &["none.toml"]);
}

#[test]
fn limits_and_rules_that_fit_no_input_are_refused() {
    let bench = Workbench::with_events(4_000);
    let artifact = artifact(&bench, "synthetic_dlrm.toml", "run");
    let data = bench.path("data");
    let limits = |text: &str| {
        written(
            &bench,
            "limits.toml",
            &format!("format_version = 1\n{text}"),
        )
    };
    let drift = |limits: &str, parts: &[&str]| {
        refused(
            &["validate", "drift", &artifact, &data, "--limits", limits],
            parts,
        );
    };
    let unknown = limits("[inputs.platfrom]\npsi = { warn = 0.1, fail = 0.2 }\n");
    drift(
        &unknown,
        &["`platfrom` is no input", "did you mean `platform`?"],
    );
    let turned = limits(
        "[all]\npsi = { warn = 0.5, fail = 0.1 }\nunseen_rate = { warn = nan, fail = 1.0 }\n",
    );
    drift(
        &turned,
        &["all.psi: expected 0 <= warn <= fail", "all.unseen_rate"],
    );
    let score = limits("[inputs.\"score of click\"]\npsi = { warn = 0.1, fail = inf }\n");
    let output = streamrec(&[
        "validate", "drift", &artifact, &data, "--limits", &score, "--split", "train",
    ]);
    expect_success(&output);

    let rules = r#"
format_version = 1
[windows]
segments = ["platfrom"]
item = "itm"
[[rules]]
name = "one"
metric = "psi"
inputs = ["user_id", "device_id", "score of click", "score of clik"]
threshold = { above = 0.1 }
severity = "info"
owner = "ml"
runbook = "x"
[[rules]]
name = "two"
metric = "auc"
label = "like"
threshold = { below = 0.6 }
severity = "info"
owner = "ml"
runbook = "x"
"#;
    let rules = written(&bench, "rules.toml", rules);
    let live = bench.path("live");
    let run = [
        "monitor",
        "run",
        "--artifact",
        &artifact,
        "--once",
        "--dir",
        &live,
    ];
    let own = [&run[..], &["--rules", &rules]].concat();
    refused(
        &own,
        &[
            "windows.segments: `platfrom`",
            "windows.item: `itm`",
            "rule `one`: inputs: `device_id`",
            "rule `one`: inputs: `score of clik`",
            "rule `two`: label: the model has no label `like`; it has click",
        ],
    );
    let said = said(&streamrec(&own));
    assert!(
        !said.contains("`user_id`") && !said.contains("`score of click`"),
        "{said}"
    );
}

#[test]
fn a_monitoring_folder_that_is_not_there_is_told_and_not_made() {
    let bench = Workbench::with_events(4_000);
    let artifact = artifact(&bench, "synthetic_dlrm.toml", "run");
    let rules = crate::workbench::config("monitoring/default.toml");
    let rules = rules.to_str().expect("UTF-8");
    let none = bench.path("none");
    let told = ["no monitoring folder", "streamrec monitor compact"];
    let run = [
        "monitor",
        "run",
        "--artifact",
        &artifact,
        "--rules",
        rules,
        "--once",
    ];
    refused(&[&run[..], &["--dir", &none]].concat(), &told);
    let serve = ["monitor", "serve", "--artifact", &artifact, "--dir", &none];
    refused(&[&serve[..], &["--listen", "127.0.0.1:0"]].concat(), &told);
    refused(&["monitor", "incidents", "list", "--dir", &none], &told);
    refused(
        &[
            "monitor",
            "incidents",
            "ack",
            "x",
            "--by",
            "Ana",
            "--dir",
            &none,
        ],
        &told,
    );
    assert!(!std::path::Path::new(&none).exists());
    fs::create_dir(&none).expect("made");
    let output = streamrec(&[&run[..], &["--dir", &none]].concat());
    expect_success(&output);
    assert!(
        said(&output).contains("nothing to judge"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_reader_that_has_seen_enough_ends_a_command_without_a_word() {
    let bench = Workbench::with_events(400);
    let mut show = command();
    show.args(["data", "show", &bench.path("data")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut show = show.spawn().expect("starts");
    drop(show.stdout.take());
    let mut told = String::new();
    show.stderr
        .take()
        .expect("piped")
        .read_to_string(&mut told)
        .expect("read");
    assert_eq!(told, "");
    assert_eq!(show.wait().expect("ended").code(), Some(141));
}
