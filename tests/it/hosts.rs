//! Launchers of two hosts run one job over MPI. The hosts are addresses of this one, and network namespaces where they
//! may be made.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::workbench::{Running, Workbench, expect_success, rank_process, said, send, wait};

const CONFIG: &str = "synthetic_dlrm.toml";

/// Both hosts have one name and one /dev/shm, which Open MPI's shared memory would take for one host.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
    ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
    ("OMPI_MCA_btl", "tcp,self"),
];
const LOOPBACK: [(&str, &str); 2] = [
    ("OMPI_MCA_btl_tcp_if_include", "lo"),
    ("OMPI_MCA_oob_tcp_if_include", "lo"),
];

const SETTINGS: [&str; 6] = [
    "train.global_batch=64",
    "train.epochs=2",
    "train.max_steps=300",
    "train.threads=1",
    "train.log_every_steps=1",
    "checkpoint.every_steps=20",
];

/// The launcher of host `node`, before it is started.
fn launcher(bench: &Workbench, mut command: Command, node: usize, endpoint: &str) -> Command {
    let node = node.to_string();
    command
        .args([
            "launch",
            "--nproc",
            "1",
            "--nnodes",
            "2",
            "--node-rank",
            &node,
        ])
        .args(["--rdzv-endpoint", endpoint, "--join-timeout", "60"])
        .args(bench.experiment(CONFIG, "run", &SETTINGS))
        .envs(ENVIRONMENT)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_streamrec"))
}

/// Host 0 is 127.0.0.2, host 1 is 127.0.0.3.
fn loopback(bench: &Workbench, node: usize, port: u16) -> Child {
    let mut command = launcher(bench, program(), node, &format!("127.0.0.2:{port}"));
    if node == 1 {
        command.args(["--node-address", "127.0.0.3"]);
    }
    command.envs(LOOPBACK).spawn().expect("starts")
}

fn assert_model_of_one_host(bench: &Workbench, output: &Output) {
    expect_success(output);
    bench.launch(2, CONFIG, "one_host", &SETTINGS);
    assert!(bench.newest_tensors("run") == bench.newest_tensors("one_host"));
}

#[test]
fn two_hosts_train_the_model_of_one() {
    let bench = Workbench::with_events(20_000);
    let other = loopback(&bench, 1, 29_531);
    let output = loopback(&bench, 0, 29_531).wait_with_output();
    assert_model_of_one_host(&bench, &output.expect("ends"));
    expect_success(&other.wait_with_output().expect("ends"));
}

#[test]
fn a_host_that_was_lost_comes_back_and_the_model_is_the_same() {
    let bench = Workbench::with_events(20_000);
    let mut lost = Running(loopback(&bench, 1, 29_532));
    let head = loopback(&bench, 0, 29_532);
    bench.wait_for_step("run", 60);
    lost.0.kill().expect("killed");
    let other = loopback(&bench, 1, 29_532);
    let output = head.wait_with_output().expect("ends");
    let text = said(&output);
    for part in [
        "the launchers of nodes [1] are gone",
        "rank 0: step ",
        "rank 1: step ",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_model_of_one_host(&bench, &output);
    expect_success(&other.wait_with_output().expect("ends"));
}

#[test]
fn a_job_whose_first_host_was_lost_is_started_again_and_the_others_join() {
    let bench = Workbench::with_events(20_000);
    let other = loopback(&bench, 1, 29_538);
    let mut lost = Running(loopback(&bench, 0, 29_538));
    bench.wait_for_step("run", 60);
    lost.0.kill().expect("killed");
    let mut command = launcher(&bench, program(), 0, "127.0.0.2:29538");
    let again = command.arg("--resume").envs(LOOPBACK).output();
    assert_model_of_one_host(&bench, &again.expect("starts"));
    expect_success(&other.wait_with_output().expect("ends"));
}

#[test]
fn a_rank_of_another_host_that_hangs_is_named_and_the_job_goes_on() {
    let bench = Workbench::with_events(20_000);
    let other = Running(loopback(&bench, 1, 29_533));
    let head = loopback(&bench, 0, 29_533);
    bench.wait_for_step("run", 60);
    let began = Instant::now();
    send("STOP", rank_process(other.0.id(), 1));
    let output = head.wait_with_output().expect("ends");
    let text = said(&output);
    assert!(began.elapsed() < Duration::from_secs(60), "{text}");
    assert!(text.contains("rank 1 has stopped"), "{text}");
    assert_model_of_one_host(&bench, &output);
}

#[test]
fn a_signal_to_any_launcher_saves_and_stops_the_job() {
    let bench = Workbench::with_events(20_000);
    let other = loopback(&bench, 1, 29_534);
    let head = loopback(&bench, 0, 29_534);
    bench.wait_for_step("run", 30);
    send("TERM", other.id() as i32);
    assert_stopped(&bench, [head, other]);
}

#[test]
fn a_signal_to_all_launchers_at_once_does_no_other() {
    let bench = Workbench::with_events(20_000);
    let other = loopback(&bench, 1, 29_539);
    let head = loopback(&bench, 0, 29_539);
    bench.wait_for_step("run", 30);
    for launcher in [&head, &other] {
        send("TERM", launcher.id() as i32);
    }
    assert_stopped(&bench, [head, other]);
}

fn assert_stopped(bench: &Workbench, launchers: [Child; 2]) {
    for launcher in launchers {
        let output = launcher.wait_with_output().expect("ends");
        assert_eq!(output.status.code(), Some(143), "{}", said(&output));
        assert!(
            !said(&output).contains("did not leave"),
            "{}",
            said(&output)
        );
    }
    assert!(bench.newest_shards("run").0 >= 30);
}

/// Two network namespaces with a cable between them; gone when it drops.
struct Cable {
    names: [String; 2],
}

impl Cable {
    /// `None` where this process may not make any.
    fn lay() -> Option<Self> {
        let names = ["a", "b"].map(|side| format!("streamrec-{}-{side}", std::process::id()));
        let cable = Self { names };
        let [a, b] = &cable.names;
        let commands = [
            format!("netns add {a}"),
            format!("netns add {b}"),
            format!("-n {a} link add cable type veth peer name cable netns {b}"),
            format!("-n {a} address add 10.77.31.1/24 dev cable"),
            format!("-n {b} address add 10.77.31.2/24 dev cable"),
            format!("-n {a} link set lo up"),
            format!("-n {b} link set lo up"),
            format!("-n {a} link set cable up"),
            format!("-n {b} link set cable up"),
        ];
        commands.iter().all(|command| ip(command)).then_some(cable)
    }

    fn inside(&self, node: usize) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.names[node]])
            .arg(env!("CARGO_BIN_EXE_streamrec"));
        command
    }

    fn set(&self, state: &str) {
        assert!(ip(&format!("-n {} link set cable {state}", self.names[1])));
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.names {
            ip(&format!("netns delete {name}"));
        }
    }
}

fn ip(arguments: &str) -> bool {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    output.is_ok_and(|output| output.status.success())
}

#[test]
fn a_cut_cable_is_told_and_mended_and_the_model_is_the_same() {
    let Some(cable) = Cable::lay() else {
        println!("skipped: this process may not make network namespaces, or has no `ip`");
        return;
    };
    let bench = Workbench::with_events(20_000);
    let start = |node| {
        let mut command = launcher(&bench, cable.inside(node), node, "10.77.31.1:29535");
        command.env("OMPI_MCA_btl_tcp_if_include", "cable");
        command.env("OMPI_MCA_oob_tcp_if_include", "cable");
        command.spawn().expect("starts")
    };
    let mut other = Running(start(1));
    let head = start(0);
    bench.wait_for_step("run", 60);
    cable.set("down");
    std::thread::sleep(Duration::from_secs(10));
    cable.set("up");
    let output = head.wait_with_output().expect("ends");
    let text = said(&output);
    assert!(
        text.contains("the launchers of nodes [1] are gone") || text.contains("rank 1 "),
        "{text}"
    );
    assert_model_of_one_host(&bench, &output);
    wait(Duration::from_secs(30), || {
        matches!(other.0.try_wait(), Ok(Some(_)))
    });
}

#[test]
fn hosts_that_do_not_fit_are_told_what_is_wrong() {
    let bench = Workbench::with_events(2_000);
    let run = |options: &[&str]| {
        let mut command = program();
        command
            .args(["launch", "--nproc", "1", "--nnodes", "2"])
            .args(options)
            .args(bench.experiment(CONFIG, "run", &SETTINGS));
        command.envs(ENVIRONMENT).output().expect("starts")
    };
    let cases: [(&[&str], i32, &str); 5] = [
        (&[], 2, "--rdzv-endpoint"),
        (
            &["--node-rank", "2", "--rdzv-endpoint", "127.0.0.2:29536"],
            2,
            "--node-rank 2",
        ),
        (
            &["--rdzv-endpoint", "192.0.2.77:29536"],
            1,
            "cannot listen at 192.0.2.77:29536",
        ),
        (
            &["--rdzv-endpoint", "127.0.0.2:29536", "--join-timeout", "1"],
            1,
            "nodes [1] did not join",
        ),
        (
            &[
                "--node-rank",
                "1",
                "--rdzv-endpoint",
                "127.0.0.2:29537",
                "--join-timeout",
                "1",
            ],
            1,
            "node 1 cannot reach node 0 at 127.0.0.2:29537",
        ),
    ];
    for (options, code, expected) in cases {
        let output = run(options);
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        assert!(
            said(&output).contains(expected),
            "{expected} in {}",
            said(&output)
        );
    }
}
