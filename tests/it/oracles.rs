//! Others read what we write: TensorBoard reads its event files, safetensors (NumPy) the shards and
//! the artifact. Needs the Python that `scripts/test` prepares.

use std::path::Path;
use std::process::Command;

use crate::serving::artifact;
use crate::workbench::{Workbench, expect_success};

#[test]
fn tensorboard_and_numpy_read_what_a_run_writes() {
    let Some(python) = std::env::var_os("STREAMREC_TEST_PYTHON") else {
        println!("skipped: STREAMREC_TEST_PYTHON is not set; scripts/test sets it");
        return;
    };
    let bench = Workbench::with_events(12_000);
    let artifact = artifact(&bench, "synthetic_wide_deep.toml", "run");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracles/read_run.py");
    let mut command = Command::new(python);
    let output = command
        .arg(script)
        .args([&bench.path("run"), &artifact])
        .output();
    expect_success(&output.expect("Python starts"));
}

#[test]
fn river_alarms_where_the_recorded_fixture_says() {
    let Some(python) = std::env::var_os("STREAMREC_TEST_PYTHON") else {
        println!("skipped: STREAMREC_TEST_PYTHON is not set; scripts/test sets it");
        return;
    };
    let oracles = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracles");
    let output = Command::new(python)
        .arg(oracles.join("concept.py"))
        .arg("--check")
        .arg(oracles.join("concept.json"))
        .output();
    expect_success(&output.expect("Python starts"));
}
