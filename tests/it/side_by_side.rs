//! `scripts/bench`, with sides that only print: what it writes, and what it says where something is missing.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// Ours prints windows of 20, 40 and 30, the peers of 10 and 12: a ratio of 2.5.
const TWO_PEERS: &str = r#"
[[comparison]]
name = "training"
unit = "samples/s"
better = "more"
need = 2.0
field = "windows"
ours = { command = ["{python}", "-c", "print('{\"windows\": [20, 40, 30]}')"] }

[[comparison.peers]]
name = "Slow, eager"
command = ["{python}", "-c", "print('{\"windows\": [9, 10, 11], \"version\": \"1.2\"}')"]

[[comparison.peers]]
name = "Slow, compiled"
command = ["{input_python}", "-c", "print('{\"windows\": [12]}')"]

[[comparison]]
name = "memory"
unit = "MiB"
better = "less"
need = 300
field = "peak_mib"
also = ["state_mib"]
above = ["state_mib", "its parameters"]
ours = { command = ["{python}", "-c", "print('{\"peak_mib\": 1500, \"state_mib\": 1270}')"] }
peers = []
"#;

const DOCUMENT: &str =
    "before\n<!-- scripts/bench begin -->\nold\n<!-- scripts/bench end -->\nafter\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder with comparisons and the document that they are written to.
fn folder(comparisons: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["benches", "docs"] {
        fs::create_dir(folder.path().join(name)).expect("a folder");
    }
    fs::write(folder.path().join("benches/comparisons.toml"), comparisons).expect("a file");
    fs::write(folder.path().join("docs/benchmarks.md"), DOCUMENT).expect("a file");
    folder
}

fn bench(folder: &TempDir, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new("python3");
    command
        .arg(root().join("benches/peers/compare.py"))
        .args(arguments)
        .current_dir(folder.path())
        .env("STREAMREC_PEERS_PYTHON", "python3")
        .env("STREAMREC_INPUT_PYTHON", "python3")
        .env_remove("THREADS")
        .env_remove("STREAMREC_SCRATCH")
        .envs(variables.iter().copied());
    command.output().expect("Python 3 starts")
}

/// Whether `python3` reads TOML, as from 3.11 on; says so where not.
fn has_python() -> bool {
    let status = Command::new("python3")
        .args(["-c", "import tomllib"])
        .output();
    let found = status.is_ok_and(|output| output.status.success());
    if !found {
        println!("skipped: scripts/bench needs Python 3.11 as python3");
    }
    found
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn document(folder: &TempDir) -> String {
    fs::read_to_string(folder.path().join("docs/benchmarks.md")).expect("the document")
}

#[test]
fn a_ratio_is_that_of_medians_to_the_best_peer_and_goes_between_the_markers() {
    if !has_python() {
        return;
    }
    let folder = folder(TWO_PEERS);
    let output = bench(&folder, &["--rounds", "2"], &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let written = document(&folder);
    for expected in [
        "before\n<!-- scripts/bench begin -->\n`scripts/bench --rounds 2`, commit ",
        "2 threads; Slow 1.2.",
        "| training | samples/s | 30 | Slow, compiled | 12 | **2.50** | 2 |",
        "| memory | MiB | 1,500 | its parameters | 1,270 | **+230** | +300 at most |",
        "- training, samples/s: StreamRec 30 (20 to 40); Slow, eager 10 (9 to 11); Slow, compiled 12 (12 to 12).",
        "<!-- scripts/bench end -->\nafter\n",
    ] {
        assert!(written.contains(expected), "no `{expected}` in {written}");
    }
    assert!(!written.contains("old"));
    let plot = fs::read_to_string(folder.path().join("docs/benchmarks.svg")).expect("a plot");
    assert!(plot.contains("2.50 (Slow, compiled)"), "{plot}");
}

#[test]
fn an_interpreter_that_is_not_there_is_named_before_anything_runs() {
    if !has_python() {
        return;
    }
    let folder = folder(TWO_PEERS);
    let absent = [("STREAMREC_INPUT_PYTHON", "/nowhere/python")];
    let output = bench(&folder, &[], &absent);
    assert!(!output.status.success() && output.stdout.is_empty());
    let said = text(&output.stderr);
    for words in [
        "/nowhere/python (STREAMREC_INPUT_PYTHON)",
        "benches/peers/README.md",
        "--skip-missing",
    ] {
        assert!(said.contains(words), "no `{words}` in {said}");
    }
    assert!(!said.contains("Traceback"), "{said}");
    // Of comparisons that do without it nothing is asked.
    assert!(
        bench(&folder, &["--only", "memory"], &absent)
            .status
            .success()
    );
}

#[test]
fn a_table_with_a_gap_is_printed_and_not_written() {
    if !has_python() {
        return;
    }
    let folder = folder(TWO_PEERS);
    let absent = [("STREAMREC_INPUT_PYTHON", "/nowhere/python")];
    let output = bench(&folder, &["--skip-missing", "--rounds", "1"], &absent);
    let (table, said) = (text(&output.stdout), text(&output.stderr));
    assert!(table.contains("| Slow, eager | 10 | **3.00** |"), "{table}");
    assert!(table.contains("Slow, compiled left out"), "{table}");
    assert!(!output.status.success());
    assert!(said.contains("training: Slow, compiled"), "{said}");
    assert_eq!(document(&folder), DOCUMENT);
}

#[test]
fn a_side_that_fails_is_told_and_not_written() {
    if !has_python() {
        return;
    }
    let failing = TWO_PEERS.replace("[20, 40, 30]}')", "[20]}'); exit(3)");
    let folder = folder(&failing);
    let output = bench(&folder, &["--rounds", "1"], &[]);
    let said = text(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("ended with 3, left out"), "{said}");
    assert!(said.contains("training: StreamRec"), "{said}");
    assert_eq!(document(&folder), DOCUMENT);
}

#[test]
fn what_cannot_be_made_for_both_sides_is_told() {
    if !has_python() {
        return;
    }
    let setup = r#"setup = ["{python}", "-c", "exit(4)"]"#;
    let comparisons = TWO_PEERS.replacen(
        "field = \"windows\"",
        &format!("field = \"windows\"\n{setup}"),
        1,
    );
    let folder = folder(&comparisons);
    let output = bench(&folder, &["--rounds", "1"], &[]);
    let said = text(&output.stderr);
    assert!(!output.status.success());
    assert!(
        said.contains("training: left out") && said.contains("ended with 4"),
        "{said}"
    );
    assert!(!said.contains("Traceback"), "{said}");
    assert_eq!(document(&folder), DOCUMENT);
}

#[test]
fn settings_that_mean_nothing_are_refused_with_what_is_expected() {
    if !has_python() {
        return;
    }
    let folder = folder(TWO_PEERS);
    let refused = |arguments: &[&str], variables: &[(&str, &str)], words: &str| {
        let output = bench(&folder, arguments, variables);
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{said}");
        assert!(!said.contains("Traceback"), "{said}");
    };
    refused(&["--rounds", "0"], &[], "expected a number from 1, got `0`");
    refused(
        &["--only", "nothing"],
        &[],
        "no comparison has such a name; --list names all",
    );
    refused(&["--results", "nowhere/file"], &[], "nowhere is no folder");
    refused(
        &[],
        &[("THREADS", "two")],
        "THREADS: expected a number from 1, got `two`",
    );
    refused(
        &[],
        &[("STREAMREC_SCRATCH", "/nowhere")],
        "STREAMREC_SCRATCH: expected a folder",
    );
    assert_eq!(document(&folder), DOCUMENT);
    let listed = text(&bench(&folder, &["--list"], &[]).stdout);
    assert_eq!(listed, "training\nmemory\n");
}

/// The benchmarks and scripts that the comparisons name are there, and so are the words that they are filled in with.
#[test]
fn the_comparisons_name_what_is_there() {
    let path = root().join("benches/comparisons.toml");
    let text = fs::read_to_string(path).expect("the comparisons");
    let all: toml::Table = text.parse().expect("TOML");
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml"))
        .expect("the manifest")
        .parse()
        .expect("TOML");
    let benches = manifest["bench"].as_array().expect("benchmarks");
    let is_bench = |name: &str| {
        benches
            .iter()
            .any(|bench| bench["name"].as_str() == Some(name))
    };
    for comparison in all["comparison"].as_array().expect("comparisons") {
        let name = comparison["name"].as_str().expect("a name");
        assert!(
            comparison["need"].is_integer() || comparison["need"].is_float(),
            "{name}"
        );
        let peers = comparison["peers"].as_array().expect("peers");
        for side in peers.iter().chain([&comparison["ours"]]) {
            for word in side["command"].as_array().expect("a command") {
                let word = word.as_str().expect("text");
                if let Some(bench) = word.strip_prefix("{bench:") {
                    assert!(is_bench(bench.trim_end_matches('}')), "{name}: {word}");
                }
                if word.ends_with(".py") {
                    assert!(root().join(word).exists(), "{name}: {word}");
                }
            }
        }
    }
}
