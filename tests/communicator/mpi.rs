//! The same claims over MPI: this test binary is started again by `mpirun`, and each process is a rank.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use streamrec::comm::{CommError, Communicator, Message, Mpi, MpiJob, ReduceOp, Settings};

use crate::{agreement, failures, on_all_ranks_with};

/// What a rank does; set for processes that `mpirun` started.
const VARIABLE: &str = "STREAMREC_TEST_MPI";

const PATIENCE: Duration = Duration::from_secs(60);

thread_local! {
    /// MPI and all ranks, in a process that `mpirun` started.
    static WORLD: RefCell<Option<(MpiJob, Mpi)>> = const { RefCell::new(None) };
}

/// In a rank that `mpirun` started, a communicator of the first `size` ranks, if this is one of them.
pub fn world(size: usize, settings: &Settings) -> Option<Option<Arc<dyn Communicator>>> {
    WORLD.with_borrow(|world| {
        let (job, all) = world.as_ref()?;
        assert!(size <= all.size(), "started with too few ranks");
        // Some fail a case earlier than others, and must not lose patience with them in the next.
        all.barrier().wait().unwrap();
        let fresh = Mpi::connect(job, settings.clone()).unwrap();
        let is_in = all.rank() < size;
        let group = fresh.split(usize::from(is_in), 0).unwrap();
        Some(is_in.then_some(group))
    })
}

fn mpirun(size: usize, scenario: &str) -> Command {
    let mut command = Command::new("mpirun");
    command
        .args(["--oversubscribe", "-n", &size.to_string()])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "mpi::one_rank", "--ignored", "--nocapture"])
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        // Every rank tries the same cases, and a rank cannot shrink one alone.
        .env("PROPTEST_RNG_SEED", "20")
        .env("PROPTEST_MAX_SHRINK_ITERS", "0")
        .env(VARIABLE, scenario);
    command
}

fn succeeds(size: usize, scenario: &str) {
    let output = mpirun(size, scenario).output().expect("mpirun is there");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{}\n{said}", output.status);
    let passed = said.matches("1 passed").count();
    assert_eq!(passed, size, "{said}");
}

#[test]
#[ignore = "the entry point of the processes that the other tests start"]
fn one_rank() {
    let scenario = std::env::var(VARIABLE).expect("started by another test");
    let job = MpiJob::begin().unwrap();
    let settings = Settings {
        timeout: PATIENCE,
        ..Settings::default()
    };
    let all = Mpi::connect(&job, settings).unwrap();
    WORLD.set(Some((job, all)));
    match scenario.as_str() {
        "agree" => agreement::all(),
        "fail" => failures::all(),
        "small pieces" => small_pieces(),
        "connect" => connects_again_at_once(),
        "leave" => a_rank_leaves(),
        "reduce for ever" => reduce_for_ever(),
        other => panic!("no scenario {other}"),
    }
    let (job, all) = WORLD.take().unwrap();
    drop(all);
    job.finish(PATIENCE).unwrap();
}

#[test]
fn collectives_over_mpi_give_what_their_definitions_say() {
    succeeds(5, "agree");
}

#[test]
fn mistakes_over_mpi_are_errors_on_every_rank() {
    succeeds(4, "fail");
}

#[test]
fn a_process_connects_again_at_once_and_loses_no_message() {
    succeeds(3, "connect");
}

/// Ranks that are ahead call again while others are still inside of the call before.
fn connects_again_at_once() {
    WORLD.with_borrow(|world| {
        let (job, all) = world.as_ref().unwrap();
        let settings = Settings {
            timeout: PATIENCE,
            ..Settings::default()
        };
        let again: Vec<Mpi> = (0..30)
            .map(|_| Mpi::connect(job, settings.clone()).unwrap())
            .collect();
        for (round, comm) in again.iter().enumerate() {
            let own = vec![round as u8, comm.rank() as u8];
            let said = comm.all_gather_bytes(own).wait().unwrap();
            let expected: Vec<_> = (0..3).map(|rank| vec![round as u8, rank]).collect();
            assert_eq!(said, expected);
        }
        all.barrier().wait().unwrap();
    });
}

#[test]
fn what_is_larger_than_a_piece_is_split() {
    succeeds(3, "small pieces");
}

fn small_pieces() {
    let settings = Settings {
        timeout: PATIENCE,
        piece_bytes: 1000,
        ..Settings::default()
    };
    on_all_ranks_with(3, &settings, |comm| {
        let rank = comm.rank();
        let message = |rank: usize| vec![rank as u8; 100_001 * rank];
        let all = comm.all_gather_bytes(message(rank)).wait().unwrap();
        assert!(all == [0, 1, 2].map(message));
        let own = (0..3).map(|_| message(rank).into()).collect();
        let all = comm.all_to_all_bytes(own).wait().unwrap();
        assert!(
            all.into_iter()
                .map(Message::into_bytes)
                .eq([0, 1, 2].map(message))
        );
        let mut buffer = comm.allocate(50_000).unwrap();
        for (index, value) in buffer.iter_mut().enumerate() {
            *value = (rank * index) as f32;
        }
        let buffer = comm.all_reduce(buffer, ReduceOp::Sum).wait().unwrap();
        let buffer = comm.broadcast(buffer, 2).wait().unwrap();
        let buffer = comm.all_gather(buffer).wait().unwrap();
        let sums = (0..50_000).map(|index| index as f32 + (2 * index) as f32);
        assert!(buffer.iter().copied().eq(sums));
    });
}

#[test]
fn a_rank_that_leaves_mpi_ends_the_wait_at_once() {
    succeeds(3, "leave");
}

fn a_rank_leaves() {
    let group = world(3, &Settings::default()).flatten().unwrap();
    if group.rank() == 2 {
        return drop(group);
    }
    let start = Instant::now();
    let error = group.barrier().wait().unwrap_err();
    assert!(matches!(error, CommError::Lost { ranks, .. } if ranks == [2]));
    assert!(start.elapsed() < Duration::from_secs(5));
}

/// A job whose ranks say lines, `>rank text`.
struct Job {
    mpirun: Child,
    lines: Receiver<(usize, String)>,
}

impl Job {
    fn start(size: usize, scenario: &str) -> Self {
        let mut mpirun = mpirun(size, scenario)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output: BufReader<ChildStdout> = BufReader::new(mpirun.stdout.take().unwrap());
        let (said, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let Some((rank, text)) = line
                    .split_once('>')
                    .and_then(|(_, line)| line.split_once(' '))
                else {
                    continue;
                };
                let _ = said.send((rank.parse().unwrap(), text.to_owned()));
            }
        });
        Self { mpirun, lines }
    }

    /// What each rank says next, by rank.
    fn all_say(&self, mut ranks: Vec<usize>) -> Vec<String> {
        let mut texts = vec![String::new(); ranks.len()];
        let order = ranks.clone();
        while !ranks.is_empty() {
            let (rank, text) = self.lines.recv_timeout(PATIENCE).unwrap();
            let Some(place) = order.iter().position(|other| *other == rank) else {
                panic!("rank {rank} says {text}");
            };
            texts[place] = text;
            ranks.retain(|other| *other != rank);
        }
        texts
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.mpirun.kill();
        let _ = self.mpirun.wait();
    }
}

/// Reduces until there is an error; says its process, then the error.
fn reduce_for_ever() {
    let settings = Settings {
        timeout: Duration::from_millis(500),
        ..Settings::default()
    };
    let size = WORLD.with_borrow(|world| world.as_ref().unwrap().1.size());
    let comm = world(size, &settings).flatten().unwrap();
    let say = |text: &dyn std::fmt::Display| {
        println!(">{} {text}", comm.rank());
        std::io::stdout().flush().unwrap();
    };
    let mut buffer = comm.allocate(1 << 20).unwrap();
    for round in 0.. {
        match comm.all_reduce(buffer, ReduceOp::Sum).wait() {
            Ok(reduced) => buffer = reduced,
            Err(error) => {
                say(&error);
                // As long as the test needs: the first to exit ends all.
                std::thread::sleep(PATIENCE);
                std::process::exit(1);
            }
        }
        if round == 3 {
            say(&std::process::id());
        }
    }
}

#[test]
fn a_stopped_rank_of_mpi_is_named_by_all_others() {
    let job = Job::start(3, "reduce for ever");
    let processes = job.all_say(vec![0, 1, 2]);
    let last = Pid::from_raw(processes[2].parse().unwrap()).unwrap();
    kill_process(last, Signal::STOP).unwrap();
    for error in job.all_say(vec![0, 1]) {
        assert!(error.contains("s for ranks [2]"), "{error}");
    }
    // When it goes on, it learns that it came too late.
    kill_process(last, Signal::CONT).unwrap();
    let error = job.all_say(vec![2]).remove(0);
    assert!(error.contains("s for ranks [2]"), "{error}");
}

#[test]
fn a_killed_rank_of_mpi_ends_the_job_in_seconds() {
    let mut job = Job::start(3, "reduce for ever");
    let processes = job.all_say(vec![0, 1, 2]);
    let start = Instant::now();
    let first = Pid::from_raw(processes[1].parse().unwrap()).unwrap();
    kill_process(first, Signal::KILL).unwrap();
    let status = job.mpirun.wait().unwrap();
    assert!(!status.success());
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "{:?}",
        start.elapsed()
    );
}
