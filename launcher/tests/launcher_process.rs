//! What others see of the launcher's own process: its streams, its reaction to signals, and that its ranks die with
//! it. The launcher is `examples/launch.rs`.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("examples")
        .join(name);
    assert!(
        path.exists(),
        "{} is missing: `cargo test -p streamrec-launcher` builds it",
        path.display()
    );
    path
}

fn launcher(logs: &Path, nproc: usize) -> Command {
    let mut command = Command::new(example("launch"));
    command
        .arg(logs)
        .arg(nproc.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(
    text: &str,
    nproc: usize,
    logs: &Path,
    set_up: impl FnOnce(&mut Command) -> &mut Command,
) -> Output {
    set_up(launcher(logs, nproc).args(["/bin/sh", "-c", text]))
        .output()
        .unwrap()
}

/// Starts ranks that would step for minutes, and returns their process ids once all run.
fn running_ranks(command: &mut Command, nproc: usize) -> (Child, Vec<String>) {
    let mut launcher = command.arg(example("rank")).arg("100000").spawn().unwrap();
    let lines = BufReader::new(launcher.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let pids: Vec<_> = lines
        .filter_map(|line| {
            line.split_once("is process ")
                .map(|(_, pid)| pid.to_owned())
        })
        .take(nproc)
        .collect();
    assert_eq!(pids.len(), nproc);
    (launcher, pids)
}

fn signal(process: &Child, signal: Signal) {
    kill_process(Pid::from_child(process), signal).unwrap();
}

/// Whether a process runs; zombies do not count.
fn is_alive(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !status.is_empty() && !status.contains(") Z ")
}

fn assert_all_gone(pids: &[String], within: Duration) {
    let started = Instant::now();
    while pids.iter().any(|pid| is_alive(pid)) {
        assert!(
            started.elapsed() < within,
            "some of {pids:?} live on after {within:?}"
        );
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn lines_are_prefixed_on_their_stream_and_raw_in_the_log() {
    let logs = tempfile::tempdir().unwrap();
    let output = run(
        "printf 'out\\nhalf'; printf 'err\\n' >&2",
        2,
        logs.path(),
        |command| command,
    );
    let sorted = |bytes: &[u8]| {
        let mut lines: Vec<_> = String::from_utf8_lossy(bytes)
            .lines()
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    assert_eq!(
        sorted(&output.stdout),
        [
            "[rank 0] half",
            "[rank 0] out",
            "[rank 1] half",
            "[rank 1] out"
        ]
    );
    assert_eq!(sorted(&output.stderr), ["[rank 0] err", "[rank 1] err"]);
    let log = fs::read_to_string(logs.path().join("attempt-0/rank-1.log")).unwrap();
    assert!(
        log.contains("out\nhalf") && log.contains("err\n") && !log.contains("[rank"),
        "{log:?}"
    );
}

#[test]
fn direct_output_of_rank_0_passes_through_byte_by_byte_and_is_still_logged() {
    let logs = tempfile::tempdir().unwrap();
    let text = "test $RANK = 0 && printf '10%%\\r20%%\\r'; exit 0";
    let output = run(text, 2, logs.path(), |command| command.env("DIRECT", "1"));
    assert_eq!(output.stdout, b"10%\r20%\r");
    assert_eq!(
        fs::read(logs.path().join("attempt-0/rank-0.log")).unwrap(),
        b"10%\r20%\r"
    );
}

#[test]
fn a_failure_is_one_message_and_the_exit_code_of_the_cause() {
    let logs = tempfile::tempdir().unwrap();
    let output = run(
        "test $RANK = 0 || exit 5; sleep 600",
        2,
        logs.path(),
        |command| command,
    );
    assert_eq!(output.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&output.stderr).contains("rank 1 exited with code 5"));
}

#[test]
fn sigterm_is_passed_on_and_the_ranks_save_and_leave() {
    let logs = tempfile::tempdir().unwrap();
    let (mut launcher, pids) = running_ranks(&mut launcher(logs.path(), 2), 2);
    signal(&launcher, Signal::TERM);
    assert_eq!(launcher.wait().unwrap().code(), Some(143));
    assert_all_gone(&pids, Duration::ZERO);
    let all: String = (0..2)
        .map(|rank| {
            fs::read_to_string(logs.path().join(format!("attempt-0/rank-{rank}.log"))).unwrap()
        })
        .collect();
    assert!(all.contains("saved and left"), "{all}");
}

#[test]
fn a_second_signal_kills_at_once() {
    let logs = tempfile::tempdir().unwrap();
    let text = "trap '' INT TERM; echo ready; sleep 600 & wait; wait";
    let mut launcher = launcher(logs.path(), 1)
        .args(["/bin/sh", "-c", text])
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(launcher.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    let started = Instant::now();
    signal(&launcher, Signal::INT);
    sleep(Duration::from_millis(300));
    signal(&launcher, Signal::INT);
    assert_eq!(launcher.wait().unwrap().code(), Some(130));
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "the grace of 3 s was waited for"
    );
}

#[test]
fn ranks_do_not_outlive_a_killed_launcher() {
    // Once by the kernel's death signal alone, once by the lost control connection alone.
    for without in ["UNWATCHED", "UNBOUND"] {
        let logs = tempfile::tempdir().unwrap();
        let mut command = launcher(logs.path(), 2);
        command.env(without, "1");
        let (mut launcher, pids) = running_ranks(&mut command, 2);
        assert!(pids.iter().all(|pid| is_alive(pid)));
        signal(&launcher, Signal::KILL);
        assert_eq!(launcher.wait().unwrap().signal(), Some(9));
        assert_all_gone(&pids, Duration::from_secs(2));
    }
}

/// The launcher of host `node` of two, which are addresses of this one and meet at `port`.
fn host(logs: &Path, port: u16, node: usize, nproc: usize) -> Command {
    let mut command = launcher(logs, nproc);
    let hosts = format!("2 {node} 127.0.0.2:{port} 127.0.0.{}", node + 2);
    command.env("HOSTS", hosts).env("RESTARTS", "1");
    command
}

/// Waits for a line in a rank's log, and returns what follows it there.
fn wait_for(logs: &Path, attempt: u32, rank: usize, start: &str) -> String {
    let path = logs.join(format!("attempt-{attempt}/rank-{rank}.log"));
    let started = Instant::now();
    loop {
        let log = fs::read_to_string(&path).unwrap_or_default();
        let found = log.lines().find_map(|line| line.split_once(start));
        if let Some((_, rest)) = found {
            return rest.to_owned();
        }
        let waited = started.elapsed();
        assert!(
            waited < Duration::from_secs(20),
            "no {start:?} in {path:?}: {log}"
        );
        sleep(Duration::from_millis(10));
    }
}

/// A launcher that is killed when it drops.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    /// Its code and what it said, once it has ended by itself.
    fn end(mut self) -> Output {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut errors = self.0.stderr.take().unwrap();
        errors.read_to_end(&mut stderr).unwrap();
        let mut said = self.0.stdout.take().unwrap();
        said.read_to_end(&mut stdout).unwrap();
        let status = self.0.wait().unwrap();
        Output {
            status,
            stdout,
            stderr,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two hosts whose launchers run `rank` for minutes: both launchers, and the process of rank 1.
fn two_hosts(logs: &Path, port: u16) -> ([Running; 2], String) {
    let start = |node| {
        let mut command = host(logs, port, node, 1);
        Running::start(command.arg(example("rank")).arg("100000"))
    };
    let launchers = [start(0), start(1)];
    let pid = wait_for(logs, 0, 1, "is process ");
    wait_for(logs, 0, 0, "is process ");
    (launchers, pid)
}

#[test]
fn a_launcher_that_was_killed_takes_its_ranks_along_and_the_job_goes_on_when_it_is_back() {
    let logs = tempfile::tempdir().unwrap();
    let port = streamrec_launcher::free_port().unwrap();
    let ([head, lost], pid) = two_hosts(logs.path(), port);
    drop(lost);
    assert_all_gone(&[pid], Duration::from_secs(2));
    let again = Running::start(host(logs.path(), port, 1, 1).arg("unused"));
    wait_for(logs.path(), 1, 1, "is process ");
    wait_for(logs.path(), 1, 0, "is process ");
    // The second loss is one too many.
    drop(again);
    let output = head.end();
    let text = String::from_utf8_lossy(&output.stderr);
    for part in [
        "after 1 restarts of 1",
        "rank 1 is lost with its host: the launcher of node 1 is gone",
        "rank 1: step ",
        "lost with its host (the cause)",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(output.status.code(), Some(1), "{text}");
}

#[test]
fn a_launcher_that_sleeps_is_lost_and_joins_again_when_it_wakes() {
    let logs = tempfile::tempdir().unwrap();
    let port = streamrec_launcher::free_port().unwrap();
    let ([head, lost], pid) = two_hosts(logs.path(), port);
    signal(&lost.0, Signal::STOP);
    // Its rank gives up by itself: nobody hears its reports any more.
    assert_all_gone(&[pid], Duration::from_secs(12));
    signal(&lost.0, Signal::CONT);
    let pid = wait_for(logs.path(), 1, 1, "is process ");
    signal(&head.0, Signal::TERM);
    let head = head.end();
    let text = String::from_utf8_lossy(&head.stderr);
    assert_eq!(head.status.code(), Some(143), "{text}");
    assert_eq!(lost.end().status.code(), Some(143));
    assert!(!is_alive(&pid));
}

#[test]
fn ranks_of_all_hosts_end_with_the_first_launcher_and_the_others_wait_for_it() {
    let logs = tempfile::tempdir().unwrap();
    let port = streamrec_launcher::free_port().unwrap();
    let ([head, other], pid) = two_hosts(logs.path(), port);
    drop(head);
    assert_all_gone(&[pid], Duration::from_secs(10));
    let again = host(logs.path(), port, 0, 2)
        .args([&example("rank"), Path::new("5")])
        .output()
        .unwrap();
    assert!(again.status.success(), "{again:?}");
    assert_eq!(other.end().status.code(), Some(0));
    wait_for(logs.path(), 0, 2, "rank 2 finished");
}
