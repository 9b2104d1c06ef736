//! Launchers of several hosts run one job: over TCP, whose ranks they start themselves, and over MPI, through mpirun. The
//! hosts are addresses of this one, and network namespaces where they may be made.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::cable::Cable;
use crate::workbench::{Running, Workbench, expect_success, rank_process, said, send, wait};

const CONFIG: &str = "synthetic_dlrm.toml";

/// Both hosts have one name and one /dev/shm, which Open MPI's shared memory would take for one host.
const MPI: [(&str, &str); 3] = [
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

/// What carries data between the hosts.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Tcp,
    Mpi,
}

/// Hosts of one job, by their numbers of ranks, and the port where they meet.
#[derive(Clone, Copy)]
struct Hosts<'a> {
    bench: &'a Workbench,
    way: Way,
    ranks: &'a [usize],
    port: u16,
}

impl<'a> Hosts<'a> {
    fn two(bench: &'a Workbench, way: Way, port: u16) -> Self {
        let ranks = &[1, 1];
        Self {
            bench,
            way,
            ranks,
            port,
        }
    }

    /// The launcher of host `node`, before it is started.
    fn launcher(&self, mut command: Command, node: usize, address: &str) -> Command {
        let (nodes, ranks) = (self.ranks.len().to_string(), self.ranks[node].to_string());
        command
            .args(["launch", "--nproc", &ranks, "--nnodes", &nodes, "--no-pin"])
            .args(["--node-rank", &node.to_string(), "--join-timeout", "60"])
            .args(["--rdzv-endpoint", &format!("{address}:{}", self.port)])
            .args(self.bench.experiment(CONFIG, "run", &SETTINGS))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if self.way == Way::Mpi {
            command.args(["--backend", "mpi"]).envs(MPI);
        }
        command
    }

    /// Host 0 is 127.0.0.2, host 1 is 127.0.0.3.
    fn loopback(&self, node: usize) -> Command {
        let mut command = self.launcher(program(), node, "127.0.0.2");
        if node > 0 {
            command.args(["--node-address", &format!("127.0.0.{}", 2 + node)]);
        }
        if self.way == Way::Mpi {
            command.envs(LOOPBACK);
        }
        command
    }

    fn start(&self, node: usize) -> Child {
        self.loopback(node).spawn().expect("starts")
    }

    fn assert_model_of_one_host(&self, output: &Output) {
        expect_success(output);
        let (bench, ranks) = (self.bench, self.ranks.iter().sum());
        bench.launch(ranks, CONFIG, "one_host", &SETTINGS);
        assert!(bench.newest_tensors("run") == bench.newest_tensors("one_host"));
    }

    fn log(&self, attempt: usize, rank: usize) -> String {
        let path = format!("run/logs/attempt-{attempt}/rank-{rank}.log");
        std::fs::read_to_string(self.bench.path(&path)).expect("a log")
    }

    /// What is said when host 1 is lost.
    fn loss(&self) -> &'static str {
        match self.way {
            Way::Tcp => "rank 1 is lost with its host: the launcher of node 1 is gone",
            Way::Mpi => "the launchers of nodes [1] are gone",
        }
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamrec"));
    command.env_remove("RANK").env_remove("WORLD_SIZE");
    command
}

fn hosts_train_the_model_of_one(hosts: Hosts<'_>) {
    let others: Vec<_> = (1..hosts.ranks.len())
        .map(|node| hosts.start(node))
        .collect();
    let output = hosts.start(0).wait_with_output();
    hosts.assert_model_of_one_host(&output.expect("ends"));
    for other in others {
        expect_success(&other.wait_with_output().expect("ends"));
    }
}

#[test]
fn two_hosts_train_the_model_of_one() {
    let bench = Workbench::with_events(20_000);
    let hosts = Hosts::two(&bench, Way::Tcp, 29_541);
    hosts_train_the_model_of_one(hosts);
    // What the other host's rank said is here, and nowhere else.
    let log = hosts.log(0, 1);
    assert!(
        log.contains("rank is ready rank=1 world=2"),
        "the rank's own words: {log}"
    );
}

#[test]
fn three_hosts_and_hosts_of_unlike_sizes_train_the_model_of_one() {
    for (ranks, port) in [(&[1, 1, 1][..], 29_542), (&[2, 1], 29_543)] {
        let bench = Workbench::with_events(20_000);
        let way = Way::Tcp;
        hosts_train_the_model_of_one(Hosts {
            bench: &bench,
            way,
            ranks,
            port,
        });
    }
}

#[test]
fn two_hosts_train_the_model_of_one_over_mpi() {
    let bench = Workbench::with_events(20_000);
    hosts_train_the_model_of_one(Hosts::two(&bench, Way::Mpi, 29_531));
}

fn a_lost_host_comes_back(way: Way, port: u16) {
    let bench = Workbench::with_events(20_000);
    let hosts = Hosts::two(&bench, way, port);
    let mut lost = Running(hosts.start(1));
    let head = hosts.start(0);
    bench.wait_for_step("run", 60);
    lost.0.kill().expect("killed");
    let other = hosts.start(1);
    let output = head.wait_with_output().expect("ends");
    let text = said(&output);
    for part in [hosts.loss(), "rank 0: step ", "rank 1: step "] {
        assert!(text.contains(part), "{part} in {text}");
    }
    hosts.assert_model_of_one_host(&output);
    expect_success(&other.wait_with_output().expect("ends"));
}

#[test]
fn a_host_that_was_lost_comes_back_and_the_model_is_the_same() {
    a_lost_host_comes_back(Way::Tcp, 29_544);
}

#[test]
fn a_host_that_was_lost_comes_back_and_the_model_is_the_same_over_mpi() {
    a_lost_host_comes_back(Way::Mpi, 29_532);
}

fn a_lost_first_host_starts_again(way: Way, port: u16) {
    let bench = Workbench::with_events(20_000);
    let hosts = Hosts::two(&bench, way, port);
    let other = hosts.start(1);
    let mut lost = Running(hosts.start(0));
    bench.wait_for_step("run", 60);
    lost.0.kill().expect("killed");
    // Until it has ended, its port is taken.
    lost.0.wait().expect("ends");
    let again = hosts.loopback(0).arg("--resume").output();
    hosts.assert_model_of_one_host(&again.expect("starts"));
    expect_success(&other.wait_with_output().expect("ends"));
}

#[test]
fn a_job_whose_first_host_was_lost_is_started_again_and_the_others_join() {
    a_lost_first_host_starts_again(Way::Tcp, 29_545);
}

#[test]
fn a_job_whose_first_host_was_lost_is_started_again_and_the_others_join_over_mpi() {
    a_lost_first_host_starts_again(Way::Mpi, 29_538);
}

fn a_rank_elsewhere_is_named(way: Way, port: u16, signal: &str, named: &str) {
    let bench = Workbench::with_events(20_000);
    let hosts = Hosts::two(&bench, way, port);
    let other = Running(hosts.start(1));
    let head = hosts.start(0);
    bench.wait_for_step("run", 60);
    let began = Instant::now();
    send(signal, rank_process(other.0.id(), 1));
    let output = head.wait_with_output().expect("ends");
    let text = said(&output);
    assert!(began.elapsed() < Duration::from_secs(60), "{text}");
    assert!(text.contains(named), "{text}");
    hosts.assert_model_of_one_host(&output);
}

#[test]
fn a_rank_of_another_host_that_hangs_is_named_and_the_job_goes_on() {
    a_rank_elsewhere_is_named(Way::Tcp, 29_546, "STOP", "rank 1 has stopped");
}

#[test]
fn a_rank_of_another_host_that_is_killed_is_named_and_the_job_goes_on() {
    a_rank_elsewhere_is_named(Way::Tcp, 29_547, "KILL", "rank 1 was killed by SIGKILL");
}

#[test]
fn a_rank_of_another_host_that_hangs_is_named_and_the_job_goes_on_over_mpi() {
    a_rank_elsewhere_is_named(Way::Mpi, 29_533, "STOP", "rank 1 has stopped");
}

/// Sends SIGTERM to these launchers of two.
fn a_signal_saves_and_stops(way: Way, port: u16, told: &[usize]) {
    let bench = Workbench::with_events(20_000);
    let hosts = Hosts::two(&bench, way, port);
    let other = hosts.start(1);
    let launchers = [hosts.start(0), other];
    bench.wait_for_step("run", 30);
    for node in told {
        send("TERM", launchers[*node].id() as i32);
    }
    for launcher in launchers {
        let output = launcher.wait_with_output().expect("ends");
        let text = said(&output);
        assert_eq!(output.status.code(), Some(143), "{text}");
        assert!(!text.contains("did not leave"), "{text}");
        assert!(!text.contains("failed instead of leaving"), "{text}");
    }
    assert!(bench.newest_shards("run").0 >= 30);
}

#[test]
fn a_signal_to_any_launcher_saves_and_stops_the_job() {
    a_signal_saves_and_stops(Way::Tcp, 29_548, &[1]);
    a_signal_saves_and_stops(Way::Tcp, 29_549, &[0]);
}

#[test]
fn a_signal_to_all_launchers_at_once_does_no_other() {
    a_signal_saves_and_stops(Way::Tcp, 29_550, &[0, 1]);
    a_signal_saves_and_stops(Way::Tcp, 29_551, &[1, 0]);
}

#[test]
fn a_signal_to_any_launcher_saves_and_stops_the_job_over_mpi() {
    a_signal_saves_and_stops(Way::Mpi, 29_534, &[1]);
}

#[test]
fn a_signal_to_all_launchers_at_once_does_no_other_over_mpi() {
    a_signal_saves_and_stops(Way::Mpi, 29_539, &[0, 1]);
}

fn a_cut_cable_is_mended(way: Way, port: u16) {
    let Some(cable) = Cable::lay() else {
        return;
    };
    let bench = Workbench::with_events(20_000);
    let hosts = Hosts::two(&bench, way, port);
    let start = |node| {
        let mut command = hosts.launcher(cable.inside(node), node, Cable::FIRST);
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
        text.contains(hosts.loss()) || way == Way::Mpi && text.contains("rank 1 "),
        "{text}"
    );
    hosts.assert_model_of_one_host(&output);
    wait(Duration::from_secs(30), || {
        matches!(other.0.try_wait(), Ok(Some(_)))
    });
}

#[test]
fn a_cut_cable_is_told_and_mended_and_the_model_is_the_same() {
    a_cut_cable_is_mended(Way::Tcp, 29_552);
}

#[test]
fn a_cut_cable_is_told_and_mended_and_the_model_is_the_same_over_mpi() {
    a_cut_cable_is_mended(Way::Mpi, 29_535);
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
        command.output().expect("starts")
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

#[test]
fn shared_memory_over_several_hosts_is_refused_and_all_are_told() {
    let bench = Workbench::with_events(2_000);
    let hosts = Hosts::two(&bench, Way::Tcp, 29_540);
    let other = hosts.start(1);
    let mut head = hosts.loopback(0);
    let head = head.args(["--backend", "shared_memory"]).output();
    let head = head.expect("starts");
    let text = said(&head);
    assert_eq!(head.status.code(), Some(2), "{text}");
    for part in ["\"shared_memory\"", "--nnodes is 2", "\"tcp\""] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let other = other.wait_with_output().expect("ends");
    assert_eq!(other.status.code(), Some(2), "{}", said(&other));
}
