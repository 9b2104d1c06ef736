//! Ranks that meet over TCP train what ranks of one host train over its memory. Whoever starts them says so by torchrun's
//! variables, as on several hosts; the hosts are this one, or network namespaces where they may be made.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use streamrec_launcher::free_port;

use crate::cable::Cable;
use crate::workbench::{Running, Workbench, command, expect_success, said, send};

const CONFIG: &str = "synthetic_dlrm.toml";

const SETTINGS: [&str; 3] = [
    "train.global_batch=509",
    "train.epochs=1",
    "train.threads=1",
];

fn assert_same_model(ranks: usize, own: &[&str]) {
    let bench = Workbench::with_events(6_000);
    let settings = [&SETTINGS[..], own].concat();
    let tcp = [&settings[..], &["parallel.backend=tcp"]].concat();
    bench.launch(ranks, CONFIG, "tcp", &tcp);
    bench.launch(ranks, CONFIG, "shared", &settings);
    assert!(bench.newest_tensors("tcp") == bench.newest_tensors("shared"));
    let losses = |run: &str| {
        let records = bench.records(run, "train");
        let loss = |record: &serde_json::Value| record["loss"].to_string();
        records.iter().map(loss).collect::<Vec<_>>()
    };
    assert_eq!(losses("tcp"), losses("shared"));
}

#[test]
fn training_over_tcp_equals_shared_memory_to_the_bit() {
    assert_same_model(2, &["parallel.first_bucket_bytes=4096"]);
    assert_same_model(4, &[]);
}

#[test]
fn shared_layers_over_tcp_equal_shared_memory_to_the_bit() {
    assert_same_model(4, &["parallel.tp=2"]);
}

#[test]
fn shared_tables_over_tcp_equal_shared_memory_to_the_bit() {
    let placement = [
        "parallel.embeddings.placement=row_wise",
        "parallel.embeddings.exchange=unique",
    ];
    assert_same_model(3, &placement);
}

/// One of two ranks, each alone on its host, as torchrun starts it.
fn rank(mut command: Command, rank: usize, (address, port): (&str, u16)) -> Command {
    let rank = rank.to_string();
    command
        .envs([("RANK", &*rank), ("GROUP_RANK", &rank)])
        .envs([("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1")])
        .envs([("WORLD_SIZE", "2"), ("MASTER_ADDR", address)])
        .env("MASTER_PORT", port.to_string())
        .arg("train")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn on_this_host(bench: &Workbench, number: usize, port: u16, settings: &[&str]) -> Child {
    let mut command = rank(command(), number, ("127.0.0.2", port));
    command.args(bench.experiment(CONFIG, "run", settings));
    command.spawn().expect("starts")
}

fn assert_model_of_one_host(bench: &Workbench, ranks: [Child; 2], settings: &[&str]) {
    for rank in ranks {
        let output = rank.wait_with_output().expect("ends");
        expect_success(&output);
        assert!(said(&output).contains("TCP"), "{}", said(&output));
    }
    bench.launch(2, CONFIG, "one_host", settings);
    assert!(bench.newest_tensors("run") == bench.newest_tensors("one_host"));
}

#[test]
fn ranks_that_somebody_starts_on_two_hosts_train_the_model_of_one() {
    let bench = Workbench::with_events(6_000);
    let port = free_port().expect("a port");
    let ranks = [0, 1].map(|rank| on_this_host(&bench, rank, port, &SETTINGS));
    assert_model_of_one_host(&bench, ranks, &SETTINGS);
}

#[test]
fn ranks_of_two_hosts_that_are_told_to_share_memory_are_refused() {
    let bench = Workbench::with_events(2_000);
    let port = free_port().expect("a port");
    let settings = [&SETTINGS[..], &["parallel.backend=shared_memory"]].concat();
    let output = on_this_host(&bench, 1, port, &settings).wait_with_output();
    let output = output.expect("ends");
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("\"tcp\""), "{}", said(&output));
}

const LONG: [&str; 5] = [
    "train.global_batch=64",
    "train.max_steps=100000",
    "train.epochs=10000",
    "train.log_every_steps=1",
    "train.early_stopping={patience=100000}",
];

/// Waits for the end of a rank that must fail in time, and returns what it said; `evidence` tells why it may not have.
fn fails(mut rank: Running, patience: Duration, evidence: impl Fn() -> String) -> String {
    let began = Instant::now();
    while !matches!(rank.0.try_wait(), Ok(Some(_))) {
        assert!(began.elapsed() < patience, "goes on\n{}", evidence());
        std::thread::sleep(Duration::from_millis(5));
    }
    let read = |stream: &mut dyn std::io::Read| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("read");
        bytes
    };
    let output = Output {
        status: rank.0.wait().expect("ended"),
        stdout: read(rank.0.stdout.as_mut().expect("piped")),
        stderr: read(rank.0.stderr.as_mut().expect("piped")),
    };
    assert!(!output.status.success(), "{}", said(&output));
    said(&output)
}

#[test]
fn a_rank_of_another_host_that_is_killed_is_named_at_once() {
    let bench = Workbench::with_events(6_000);
    let port = free_port().expect("a port");
    let [stays, killed] = [0, 1].map(|rank| Running(on_this_host(&bench, rank, port, &LONG)));
    bench.wait_for_step("run", 20);
    let began = Instant::now();
    send("KILL", killed.0.id() as i32);
    let text = fails(stays, Duration::from_secs(30), String::new);
    assert!(text.contains("ranks [1] have ended"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(10), "{text}");
}

#[test]
fn a_rank_of_another_host_that_hangs_is_named_after_the_timeout() {
    let bench = Workbench::with_events(6_000);
    let port = free_port().expect("a port");
    let settings = [&LONG[..], &["parallel.timeout_s=2"]].concat();
    let [stays, hangs] = [0, 1].map(|rank| Running(on_this_host(&bench, rank, port, &settings)));
    bench.wait_for_step("run", 20);
    send("STOP", hangs.0.id() as i32);
    let text = fails(stays, Duration::from_secs(30), String::new);
    assert!(text.contains("s for ranks [1], which never"), "{text}");
}

fn on_hosts(bench: &Workbench, cable: &Cable, settings: &[&str]) -> [Child; 2] {
    let port = free_port().expect("a port");
    [0, 1].map(|node| {
        let mut command = rank(cable.inside(node), node, (Cable::FIRST, port));
        command.args(bench.experiment(CONFIG, "run", settings));
        command.spawn().expect("starts")
    })
}

#[test]
fn ranks_of_two_hosts_with_a_cable_train_the_model_of_one() {
    let Some(cable) = Cable::lay() else {
        return;
    };
    let bench = Workbench::with_events(6_000);
    let ranks = on_hosts(&bench, &cable, &SETTINGS);
    assert_model_of_one_host(&bench, ranks, &SETTINGS);
}

/// No packet tells that the cable is cut.
#[test]
fn a_host_that_vanishes_is_named_by_both_sides_long_before_the_timeout() {
    let Some(cable) = Cable::lay() else {
        return;
    };
    let bench = Workbench::with_events(6_000);
    let ranks = on_hosts(&bench, &cable, &LONG).map(Running);
    bench.wait_for_step("run", 20);
    let began = Instant::now();
    cable.set("down");
    // The time-out is 300 s.
    for (rank, other) in ranks.into_iter().zip([1, 0]) {
        let text = fails(rank, Duration::from_secs(60), || cable.sockets());
        assert!(
            text.contains(&format!("ranks [{other}] have ended")),
            "{text}"
        );
    }
    assert!(
        began.elapsed() > Duration::from_secs(20),
        "a short cut is survived"
    );
}
