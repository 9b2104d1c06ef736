//! Ranks that `mpirun` starts train what ranks of one host train, and end when one of them fails.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::workbench::{Running, Workbench, expect_success, rank_process, said, send, wait};

const CONFIG: &str = "synthetic_dlrm.toml";

/// Open MPI asks before it runs as root, or more ranks than there are cores.
const PERMISSIONS: [(&str, &str); 4] = [
    ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
    ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
    ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
    ("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"),
];

fn mpirun(bench: &Workbench, ranks: usize, run: &str, settings: &[&str]) -> Command {
    let mut command = Command::new("mpirun");
    command
        .args(["-n", &ranks.to_string(), env!("CARGO_BIN_EXE_streamrec")])
        .arg("train")
        .args(bench.experiment(CONFIG, run, settings))
        .envs(PERMISSIONS)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn assert_same_model(ranks: usize, own: &[&str]) {
    let bench = Workbench::with_events(6_000);
    let common = [
        "train.global_batch=509",
        "train.epochs=1",
        "train.threads=1",
    ];
    let settings = [&common[..], own].concat();
    let output = mpirun(&bench, ranks, "mpi", &settings).output();
    let output = output.expect("mpirun is there");
    expect_success(&output);
    assert!(said(&output).contains("Open MPI") || said(&output).contains("MPICH"));
    bench.launch(ranks, CONFIG, "shared", &settings);
    assert!(bench.newest_tensors("mpi") == bench.newest_tensors("shared"));
    let losses = |run: &str| {
        let records = bench.records(run, "train");
        let loss = |record: &serde_json::Value| record["loss"].to_string();
        records.iter().map(loss).collect::<Vec<_>>()
    };
    assert_eq!(losses("mpi"), losses("shared"));
}

#[test]
fn training_over_mpi_equals_shared_memory_to_the_bit() {
    assert_same_model(2, &["parallel.first_bucket_bytes=4096"]);
    assert_same_model(4, &[]);
}

#[test]
fn shared_layers_over_mpi_equal_shared_memory_to_the_bit() {
    assert_same_model(4, &["parallel.tp=2"]);
}

#[test]
fn shared_tables_over_mpi_equal_shared_memory_to_the_bit() {
    let placement = [
        "parallel.embeddings.placement=row_wise",
        "parallel.embeddings.exchange=unique",
    ];
    assert_same_model(3, &placement);
}

#[test]
fn an_invariant_model_is_that_of_one_rank_over_mpi_too() {
    let bench = Workbench::with_events(6_000);
    let settings = [
        "train.global_batch=509",
        "train.epochs=1",
        "parallel.reduction=invariant",
    ];
    bench.launch(1, CONFIG, "alone", &settings);
    let output = mpirun(&bench, 4, "mpi", &settings).output();
    expect_success(&output.expect("mpirun is there"));
    assert!(bench.newest_tensors("mpi") == bench.newest_tensors("alone"));
}

const LONG: [&str; 6] = [
    "train.global_batch=64",
    "train.max_steps=100000",
    "train.epochs=10000",
    "train.log_every_steps=1",
    "train.early_stopping={patience=100000}",
    "parallel.timeout_s=2",
];

/// Lets something happen to a job of three ranks in the middle of training; returns what it says, and how long it
/// took to end.
fn job_that(happens: impl FnOnce(u32)) -> (Output, Duration) {
    let bench = Workbench::with_events(6_000);
    let child = mpirun(&bench, 3, "run", &LONG)
        .spawn()
        .expect("mpirun is there");
    let mut job = Running(child);
    bench.wait_for_step("run", 20);
    let began = Instant::now();
    happens(job.0.id());
    wait(Duration::from_secs(60), || {
        matches!(job.0.try_wait(), Ok(Some(_)))
    });
    let took = began.elapsed();
    let read = |stream: &mut dyn std::io::Read| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("read");
        bytes
    };
    let output = Output {
        status: job.0.wait().expect("ended"),
        stdout: read(job.0.stdout.as_mut().expect("piped")),
        stderr: read(job.0.stderr.as_mut().expect("piped")),
    };
    (output, took)
}

#[test]
fn a_killed_rank_ends_the_job_of_mpirun_in_seconds() {
    let (output, took) = job_that(|mpirun| send("KILL", rank_process(mpirun, 1)));
    let said = said(&output);
    assert!(!output.status.success());
    assert!(took < Duration::from_secs(20), "{took:?}\n{said}");
    assert!(
        said.contains("signal 9") || said.contains("KILLED BY SIGNAL: 9"),
        "{said}"
    );
}

#[test]
fn a_stopped_rank_of_mpirun_is_named_and_ends_the_job() {
    let (output, took) = job_that(|mpirun| send("STOP", rank_process(mpirun, 2)));
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(took < Duration::from_secs(30), "{took:?}\n{said}");
    assert!(said.contains("s for ranks [2]"), "{said}");
}

#[test]
fn ranks_of_mpirun_that_are_asked_to_stop_save_and_leave() {
    let (output, _) = job_that(|mpirun| send("TERM", rank_process(mpirun, 1)));
    let text = said(&output);
    assert_eq!(output.status.code(), Some(143), "{text}");
    assert!(text.contains("--resume"), "{text}");
    let (output, _) = job_that(|mpirun| send("USR1", mpirun as i32));
    let text = said(&output);
    assert_eq!(output.status.code(), Some(143), "{text}");
    assert!(text.contains("--resume"), "{text}");
}

#[test]
fn what_a_restart_cannot_mend_is_the_exit_code_of_mpirun() {
    let bench = Workbench::with_events(2_000);
    let refused = mpirun(&bench, 3, "run", &["parallel.tp=2"]).output();
    let output = refused.expect("mpirun is there");
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(
        said(&output).contains("`parallel.tp` = 2"),
        "{}",
        said(&output)
    );
}

fn launch(bench: &Workbench, run: &str, settings: &[&str]) -> Command {
    let mut command = bench.launch_command(2, CONFIG, run, settings);
    command.args(["--backend", "mpi"]).envs(PERMISSIONS);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

const SETTINGS: [&str; 5] = [
    "train.global_batch=64",
    "train.epochs=2",
    "train.max_steps=300",
    "train.log_every_steps=1",
    "checkpoint.every_steps=20",
];

#[test]
fn the_launcher_starts_mpirun_again_after_a_rank_was_killed() {
    let bench = Workbench::with_events(20_000);
    let child = launch(&bench, "run", &SETTINGS).spawn().expect("starts");
    bench.wait_for_step("run", 100);
    send("KILL", rank_process(child.id(), 1));
    let output = child.wait_with_output().expect("ends");
    expect_success(&output);
    assert!(
        said(&output).contains("starting mpirun again"),
        "{}",
        said(&output)
    );
    bench.launch(2, CONFIG, "uninterrupted", &SETTINGS);
    assert!(bench.newest_tensors("run") == bench.newest_tensors("uninterrupted"));
    let log = bench.path("run/logs/attempt-1/mpirun.log");
    assert!(std::fs::metadata(log).is_ok_and(|log| log.len() > 0));
}

#[test]
fn the_launcher_of_mpirun_passes_on_a_signal_and_exit_codes() {
    let bench = Workbench::with_events(20_000);
    let child = launch(&bench, "run", &LONG).spawn().expect("starts");
    bench.wait_for_step("run", 20);
    send("TERM", child.id() as i32);
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(143), "{}", said(&output));
    assert!(said(&output).contains("--resume"), "{}", said(&output));
    let refused = launch(&bench, "other", &["parallel.tp=3"]).output();
    let output = refused.expect("starts");
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}
