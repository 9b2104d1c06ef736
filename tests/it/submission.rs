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

/// Runs what is printed for Slurm, with its programs as shell functions, twice.
fn starts_and_goes_on(hosts: &str, ranks: &str, functions: &str) {
    let bench = Workbench::with_events(2_000);
    let options = [
        "launch", "--print", "slurm", "--nnodes", hosts, "--nproc", ranks,
    ];
    let mut arguments = options.map(str::to_owned).to_vec();
    arguments.extend(bench.experiment("synthetic_dlrm.toml", "a run", &["train.max_steps=3"]));
    let output = streamrec(&arguments);
    expect_success(&output);
    let script = String::from_utf8(output.stdout).expect("Unicode");
    let text = format!("{functions}\nSLURM_CPUS_PER_TASK=2\nSLURM_JOB_NODELIST=n\n{script}");
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
    let logs = bench.path("a run/logs/attempt-0");
    assert_eq!(std::fs::read_dir(logs).expect("logs").count(), 2);
}

#[test]
fn a_printed_script_is_one_that_starts() {
    starts_and_goes_on("1", "2", "srun() { shift; \"$@\"; }");
}

#[test]
fn a_printed_script_for_several_hosts_starts_a_launcher_on_each() {
    let functions = "scontrol() { echo 127.0.0.2; echo 127.0.0.3; }\n\
                     srun() { shift 2; SLURM_NODEID=1 \"$@\" & SLURM_NODEID=0 \"$@\" && wait $!; }";
    starts_and_goes_on("2", "1", functions);
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
