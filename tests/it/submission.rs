//! `launch --print`: others read what is written for them.

use std::path::Path;
use std::process::Command;

use crate::workbench::{Workbench, config, expect_success, said, streamrec};

fn print(scheduler: &str, options: &[&str]) -> std::process::Output {
    let mut arguments = vec![
        "launch".to_owned(),
        "--print".to_owned(),
        scheduler.to_owned(),
    ];
    arguments.extend(options.iter().map(|option| (*option).to_owned()));
    arguments.push(config("synthetic_dlrm.toml").display().to_string());
    streamrec(&arguments)
}

const POD: [&str; 4] = [
    "--image",
    "registry.example/streamrec:1",
    "--volume-claim",
    "training",
];

#[test]
fn manifests_are_those_of_kubeflow_trainer() {
    let Some(python) = std::env::var_os("STREAMREC_TEST_PYTHON") else {
        println!("skipped: STREAMREC_TEST_PYTHON is not set; scripts/test sets it");
        return;
    };
    let bench = Workbench::new();
    for (hosts, ranks, mpi) in [("1", "2", None), ("3", "4", None), ("3", "4", Some("mpi"))] {
        let mut options = vec!["--nnodes", hosts, "--nproc", ranks, "--cores", "2"];
        options.extend(mpi.iter().flat_map(|mpi| ["--backend", mpi]));
        options.extend([
            "--memory",
            "24GiB",
            "--minutes",
            "90",
            "--set",
            "output=it's \"a\" run: #1",
        ]);
        options.extend(POD);
        let output = print("kubernetes", &options);
        expect_success(&output);
        let file = bench.path("job.yaml");
        std::fs::write(&file, &output.stdout).expect("written");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracles/read_manifests.py");
        let mut command = Command::new(&python);
        let read = command.arg(script).args([&file, hosts, ranks]);
        let read = read.args(mpi).output();
        expect_success(&read.expect("Python starts"));
    }
}

#[test]
fn a_printed_command_is_one_that_starts() {
    let bench = Workbench::with_events(2_000);
    let mut arguments = vec![
        "launch".to_owned(),
        "--print".to_owned(),
        "slurm".to_owned(),
    ];
    arguments.extend(["--nproc".to_owned(), "2".to_owned()]);
    arguments.extend(bench.experiment("synthetic_dlrm.toml", "a run", &["train.max_steps=3"]));
    let output = streamrec(&arguments);
    expect_success(&output);
    // With `srun` a shell function, the script runs here.
    let script = String::from_utf8(output.stdout).expect("Unicode");
    let text = format!("srun() {{ shift; \"$@\"; }}\nSLURM_CPUS_PER_TASK=2\n{script}");
    let programs = Path::new(env!("CARGO_BIN_EXE_streamrec"))
        .parent()
        .expect("a folder");
    let path = format!(
        "{}:{}",
        programs.display(),
        std::env::var("PATH").expect("a path")
    );
    for _ in ["begins", "goes on"] {
        let mut shell = Command::new("bash");
        let output = shell.args(["-c", &text]).env("PATH", &path).output();
        expect_success(&output.expect("starts"));
    }
    assert_eq!(bench.newest_shards("a run").0, 3);
}

#[test]
fn what_cannot_be_printed_says_what_is_missing() {
    let cases: [(&str, &[&str], &str); 7] = [
        ("kubernetes", &[], "--image"),
        (
            "mpirun",
            &["--nnodes", "2", "--host-names", "a"],
            "expected 2 host names",
        ),
        ("slurm", &["--overwrite"], "remove its own run"),
        ("slurm", &["--nnodes", "0"], "--nnodes"),
        (
            "slurm",
            &["--nproc", "3", "--set", "parallel.tp=2"],
            "`parallel.tp` = 2",
        ),
        ("slurm", &["--memory", "lots"], "--memory lots"),
        (
            "kubernetes",
            &["--nnodes", "2", "--backend", "shared_memory"],
            "--nnodes is 2",
        ),
    ];
    for (scheduler, options, expected) in cases {
        let output = print(scheduler, options);
        assert_eq!(output.status.code(), Some(2), "{options:?}");
        assert!(
            said(&output).contains(expected),
            "{expected} in {}",
            said(&output)
        );
        assert!(output.stdout.is_empty());
    }
}
