//! From two trained models to a verdict, and a server that asks for it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::serving::{artifact, serve};
use crate::workbench::{Workbench, config, expect_success, said, server_program, streamrec};

const GATE: &str = r#"
format_version = 1
name = "test"
unit = "user_id"
resamples = 200
min_rows = 100
min_units = 10
[[criteria]]
kind = "absolute"
metric = "auc"
label = "click"
min = 0.3
[[criteria]]
kind = "change"
metric = "log_loss"
against = "champion"
max_worsening = 0.5
[[criteria]]
kind = "segments"
input = "device"
metric = "log_loss"
max = 2.0
min_rows = 100
names = ["phone", "tablet", "desktop", "tv"]
[[criteria]]
kind = "latency"
quantile = 0.9
max_ms = 5000.0
rows = 20
requests = 20
[[criteria]]
kind = "behaviour"
min_pass_rate = 0.5
"#;

const BEHAVIOUR: &str = r#"
format_version = 1
name = "test"
[[tests]]
name = "scores are no certainties"
capability = "sanity"
minimum_functionality = { cases = [{ row = { device = "tv" }, min = 0.0001, max = 0.9999 }] }
[[tests]]
name = "the same device again"
capability = "robustness"
invariance = { perturb = { input = "item_duration_s", scale = 1.0 }, slate = 10 }
"#;

fn refused(artifact: &str) -> String {
    let mut command = Command::new(server_program());
    command
        .args([artifact, "--listen", "127.0.0.1:0", "--require-verdict"])
        .stdin(Stdio::null());
    let output = command.output().expect("the server starts");
    assert!(!output.status.success(), "{}", said(&output));
    said(&output)
}

fn verdict(artifact: &str) -> Value {
    let text = fs::read_to_string(Path::new(artifact).join("verdict.json")).expect("a verdict");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn a_server_that_requires_a_verdict_serves_only_what_the_gate_passed() {
    let bench = Workbench::with_events(12_000);
    let challenger = artifact(&bench, "synthetic_wide_deep.toml", "run");
    let (gate, tests) = (bench.path("gate.toml"), bench.path("behaviour.toml"));
    fs::write(&gate, GATE).expect("written");
    fs::write(&tests, BEHAVIOUR).expect("written");
    assert!(refused(&challenger).contains("has no verdict.json"));

    let data = bench.path("data");
    let judge = |gate: &str, champion: bool| {
        let mut arguments = vec![
            "validate",
            "gate",
            gate,
            &challenger,
            "--data",
            &data,
            "--behaviour",
            &tests,
        ];
        if champion {
            arguments.extend(["--champion", &challenger]);
        }
        streamrec(&arguments)
    };
    // Without a champion there is nothing to compare with.
    let output = judge(&gate, false);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(
        said(&output).contains("evidence is missing"),
        "{}",
        said(&output)
    );
    assert!(refused(&challenger).contains("fail, not pass"));

    let strict = bench.path("strict.toml");
    fs::write(
        &strict,
        GATE.replace("min_rows = 100\nmin_units", "min_rows = 1000000\nmin_units"),
    )
    .expect("written");
    let output = judge(&strict, true);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert_eq!(verdict(&challenger)["outcome"], "hold");

    let output = judge(&gate, true);
    expect_success(&output);
    let found = verdict(&challenger);
    assert_eq!(found["outcome"], "pass");
    assert!(found["compared_with"]["champion"]["xxh3_128"].is_string());
    assert_eq!(found["files"].as_object().expect("files").len(), 5);

    let served = Command::new(server_program())
        .args([&challenger, "--listen", "127.0.0.1:0", "--require-verdict"])
        .stdout(Stdio::piped())
        .spawn()
        .map(crate::workbench::Running);
    let mut line = String::new();
    let mut server = served.expect("starts");
    let stdout = server.0.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a line");
    assert!(line.starts_with("listening on"), "{line}");

    let card = Path::new(&challenger).join("MODEL_CARD.md");
    let text = fs::read_to_string(&card).expect("a card");
    fs::write(&card, text + "\nBetter than all others.\n").expect("written");
    assert!(refused(&challenger).contains("MODEL_CARD.md"));
}

#[test]
fn a_server_behaves_as_its_artifact_and_drift_sees_no_change_in_the_training_data() {
    let bench = Workbench::with_events(12_000);
    let artifact = artifact(&bench, "synthetic_wide_deep.toml", "run");
    let tests = bench.path("behaviour.toml");
    // A server takes no row that lacks what it requires, so the sample's rows are asked for alone.
    let (head, rest) = BEHAVIOUR.split_once("[[tests]]").expect("tests");
    let (_, invariance) = rest.split_once("[[tests]]").expect("two tests");
    fs::write(&tests, format!("{head}[[tests]]{invariance}")).expect("written");
    let (_server, address) = serve(&artifact);
    let run = |extra: &[&str], report: &str| {
        let mut arguments = vec![
            "validate",
            "behaviour",
            &tests,
            &artifact,
            "--rows",
            "50",
            "--json",
            report,
        ];
        arguments.extend(extra);
        expect_success(&streamrec(&arguments));
        fs::read_to_string(report).expect("a report")
    };
    let data = bench.path("data");
    let own = run(&["--data", &data], &bench.path("own.json"));
    let served = run(
        &["--data", &data, "--server", &address],
        &bench.path("served.json"),
    );
    let counts = |text: &str| {
        let report: Value = serde_json::from_str(text).expect("JSON");
        report["tests"]
            .as_array()
            .expect("tests")
            .iter()
            .map(|test| test["passed"].as_u64())
            .collect::<Vec<_>>()
    };
    assert_eq!(counts(&own), counts(&served));
    let output = streamrec(&["validate", "drift", &artifact, &data, "--split", "train"]);
    expect_success(&output);
    assert!(said(&output).contains("pass:"), "{}", said(&output));
}

/// The gate and the behavioural tests as they stand in `configs/`, on a model that was trained as its configuration says.
#[test]
fn the_projects_gate_passes_a_trained_model_and_fails_one_that_was_not() {
    let bench = Workbench::new();
    let data = bench.path("data");
    let size = [
        "--impressions",
        "150000",
        "--users",
        "4000",
        "--items",
        "500",
    ];
    expect_success(&streamrec(
        &[&["data", "generate", "--out", &data][..], &size].concat(),
    ));
    let (gate, tests) = ["gates/v1/release.toml", "behaviour/synthetic.toml"]
        .map(|name| config(name).to_str().expect("UTF-8").to_owned())
        .into();
    let exported = |run: &str, settings: &[&str]| {
        bench.launch(2, "synthetic_dcn_v2.toml", run, settings);
        let (run, out) = (bench.path(run), bench.path(&format!("{run}-artifact")));
        expect_success(&streamrec(&["evaluate", &run]));
        expect_success(&streamrec(&["export", &run, "--out", &out]));
        out
    };
    let trained = exported("trained", &[]);
    let begun = exported("begun", &["train.max_steps=2"]);
    let judge = |challenger: &str| {
        let gate = [
            "validate",
            "gate",
            &gate,
            challenger,
            "--champion",
            &trained,
            "--reference",
            &trained,
        ];
        streamrec(&[&gate[..], &["--data", &data, "--behaviour", &tests]].concat())
    };
    let output = judge(&trained);
    println!("{}", said(&output));
    expect_success(&output);
    assert_eq!(verdict(&trained)["outcome"], "pass");
    let behaviour = streamrec(&["validate", "behaviour", &tests, &trained, "--data", &data]);
    expect_success(&behaviour);
    assert!(
        said(&behaviour).contains("2 of 2 tests passed"),
        "{}",
        said(&behaviour)
    );

    let output = judge(&begun);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    for criterion in ["at least 0.6", "champion", "reference"] {
        let failed = |line: &str| line.starts_with("fail") && line.contains(criterion);
        assert!(
            said(&output).lines().any(failed),
            "{criterion}: {}",
            said(&output)
        );
    }
}
