//! Ranks as real processes: this test binary starts itself again, once a rank.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use streamrec::comm::{
    Bootstrap, BootstrapError, Communicator, Message, ReduceOp, Settings, all_reduce_f64,
};

use crate::Medium;

/// Which rank a child is, and what it does: `rank size medium scenario folder`.
const VARIABLE: &str = "STREAMREC_TEST_RANK";

/// A store whose values are files of a folder.
struct Folder(PathBuf);

impl Bootstrap for Folder {
    fn put(&self, key: &str, value: &str) -> Result<(), BootstrapError> {
        let path = self.0.join(key.replace('/', "-"));
        let written = std::fs::write(path.with_extension("part"), value)
            .and_then(|()| std::fs::rename(path.with_extension("part"), path));
        written.map_err(|error| BootstrapError::Store {
            key: key.into(),
            source: Arc::new(error),
        })
    }

    fn get(&self, key: &str, timeout: Duration) -> Result<String, BootstrapError> {
        let start = Instant::now();
        while start.elapsed() < timeout {
            if let Ok(value) = std::fs::read_to_string(self.0.join(key.replace('/', "-"))) {
                return Ok(value);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(BootstrapError::Timeout {
            key: key.into(),
            waited: timeout,
        })
    }
}

/// A rank in a process of its own; killed when dropped.
struct Rank {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Rank {
    fn start(rank: usize, size: usize, scenario: &str, folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::one_rank", "--ignored", "--nocapture"])
            .env(
                VARIABLE,
                format!(
                    "{rank} {size} {:?} {scenario} {}",
                    Medium::current(),
                    folder.display()
                ),
            )
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// The rest of the next line that starts with `>`: others are of the test harness.
    fn says(&mut self) -> String {
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            if let Some((_, text)) = line.split_once('>') {
                return text.trim().to_owned();
            }
            line.clear();
        }
        panic!("the rank ended without another word");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start_all(size: usize, scenario: &str, folder: &Path) -> Vec<Rank> {
    (0..size)
        .map(|rank| Rank::start(rank, size, scenario, folder))
        .collect()
}

#[test]
#[ignore = "the entry point of the processes that the other tests start"]
fn one_rank() {
    let role = std::env::var(VARIABLE).expect("started by another test");
    let [rank, size, medium, scenario, folder] = role.split(' ').collect::<Vec<_>>()[..] else {
        panic!("malformed role: {role}");
    };
    let settings = Settings {
        timeout: Duration::from_millis(if scenario == "stop" { 500 } else { 30_000 }),
        ..Settings::default()
    };
    let (rank, size) = (rank.parse().unwrap(), size.parse().unwrap());
    let medium = match medium {
        "Tcp" => Medium::Tcp,
        _ => Medium::SharedMemory,
    };
    let comm = medium.connect(rank, size, &Folder(folder.into()), settings);
    let comm = comm.unwrap();
    match scenario {
        "agree" => agree(comm.as_ref()),
        _ => reduce_for_ever(comm.as_ref()),
    }
}

fn say(text: impl std::fmt::Display) {
    println!(">{text}");
    std::io::stdout().flush().unwrap();
}

/// All collectives once; says a digest of all results.
fn agree(comm: &dyn Communicator) {
    let (rank, size) = (comm.rank(), comm.size());
    let mut buffer = comm.allocate(1_000_003).unwrap();
    for (index, value) in buffer.iter_mut().enumerate() {
        *value = ((index * 31 + rank * 7) % 1009) as f32 / 1009.0;
    }
    let buffer = comm.all_reduce(buffer, ReduceOp::Sum).wait().unwrap();
    for (index, value) in buffer.iter().enumerate().step_by(997) {
        let terms = (0..size).map(|rank| ((index * 31 + rank * 7) % 1009) as f32 / 1009.0);
        assert_eq!(
            value.to_bits(),
            terms.reduce(|a, b| a + b).unwrap().to_bits()
        );
    }
    for round in 0..3 {
        let parts = (0..size).map(|to| {
            // Every other one changes hands, and grows from round to round.
            let mut part = match to % 2 {
                0 => comm.message(),
                _ => Message::default(),
            };
            part.extend_from_slice(&vec![(rank * size + to) as u8; (100_000 << round) * to]);
            part
        });
        let parts = comm.all_to_all_bytes(parts.collect()).wait().unwrap();
        for (from, part) in parts.iter().enumerate() {
            let expected = vec![(from * size + rank) as u8; (100_000 << round) * rank];
            assert!(**part == expected, "from rank {from}");
        }
    }
    let group = comm.split(rank % 2, 0).unwrap();
    let mut ranks = [rank as f64];
    all_reduce_f64(&*group, &mut ranks).unwrap();
    assert_eq!(ranks[0], (rank % 2..size).step_by(2).sum::<usize>() as f64);
    let digest = xxhash_rust::xxh3::xxh3_64(bytemuck::cast_slice(&buffer));
    say(format_args!("digest {digest}"));
}

/// Reduces until there is an error; says that it began, then the error.
fn reduce_for_ever(comm: &dyn Communicator) {
    let mut buffer = comm.allocate(1 << 20).unwrap();
    for round in 0.. {
        match comm.all_reduce(buffer, ReduceOp::Sum).wait() {
            Ok(reduced) => buffer = reduced,
            Err(error) => return say(error),
        }
        if round == 3 {
            say("running");
        }
    }
}

#[test]
fn processes_agree_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let mut ranks = start_all(4, "agree", folder.path());
    let digests: Vec<_> = ranks.iter_mut().map(Rank::says).collect();
    assert!(digests[0].starts_with("digest "), "{digests:?}");
    assert!(
        digests.iter().all(|digest| *digest == digests[0]),
        "{digests:?}"
    );
    for rank in &mut ranks {
        assert!(rank.child.wait().unwrap().success());
    }
}

#[test]
fn a_killed_rank_is_reported_by_all_others_long_before_the_timeout() {
    let folder = tempfile::tempdir().unwrap();
    let mut ranks = start_all(3, "kill", folder.path());
    for rank in &mut ranks {
        assert_eq!(rank.says(), "running");
    }
    let start = Instant::now();
    ranks[1].signal(Signal::KILL);
    for rank in [0, 2] {
        let error = ranks[rank].says();
        assert!(
            error.contains("ranks [1] have ended"),
            "rank {rank}: {error}"
        );
        assert!(ranks[rank].child.wait().unwrap().success());
    }
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_stopped_rank_is_reported_by_all_others_after_the_timeout() {
    let folder = tempfile::tempdir().unwrap();
    let mut ranks = start_all(3, "stop", folder.path());
    for rank in &mut ranks {
        assert_eq!(rank.says(), "running");
    }
    ranks[2].signal(Signal::STOP);
    // Over TCP, a rank that has lost patience asks who else waits, and gives them a little time.
    let told = match Medium::current() {
        Medium::SharedMemory => "waited 0.5 s for ranks [2]",
        Medium::Tcp => "s for ranks [2], which never arrived",
    };
    for rank in [0, 1] {
        let error = ranks[rank].says();
        assert!(error.contains(told), "rank {rank}: {error}");
    }
    // When it goes on, it learns that it came too late.
    ranks[2].signal(Signal::CONT);
    let error = ranks[2].says();
    assert!(error.contains(told), "{error}");
}

crate::also_over_tcp! {
    processes_agree_bit_for_bit,
    a_killed_rank_is_reported_by_all_others_long_before_the_timeout,
    a_stopped_rank_is_reported_by_all_others_after_the_timeout,
}
