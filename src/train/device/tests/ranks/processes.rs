//! Ranks in processes of their own, which can be killed.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};

use streamrec_launcher::{RankEnvironment, Store, free_port};

use super::*;
use crate::comm::{Route, Tcp};

/// What a child process is: `rank ranks tp port is_tcp last_step predictions`.
const VARIABLE: &str = "STREAMREC_TEST_DEVICE_RANK";

/// A rank in a process of its own; killed when dropped.
struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where ranks meet, and over what.
#[derive(Clone, Copy)]
struct Meeting {
    port: u16,
    is_tcp: bool,
}

impl Meeting {
    fn new(is_tcp: bool) -> Self {
        let port = free_port().unwrap();
        Self { port, is_tcp }
    }
}

impl Process {
    fn start(place: [usize; 3], meeting: Meeting, last_step: u64) -> Self {
        Self::start_to_predict(place, meeting, [last_step, 0])
    }

    fn start_to_predict(
        [rank, ranks, tp]: [usize; 3],
        Meeting { port, is_tcp }: Meeting,
        [last_step, predictions]: [u64; 2],
    ) -> Self {
        let module = module_path!().split_once("::").unwrap().1;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                &format!("{module}::one_process"),
                "--ignored",
                "--nocapture",
            ])
            .env(
                VARIABLE,
                format!(
                    "{rank} {ranks} {tp} {port} {} {last_step} {predictions}",
                    u8::from(is_tcp)
                ),
            )
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// What it says next.
    fn says(&mut self) -> String {
        let mut said = self.lines.by_ref().map(Result::unwrap);
        let own = said.find_map(|line| Some(line.split_once('>')?.1.to_owned()));
        own.expect("the process says more")
    }
}

/// What processes train, in groups of `tp` that share layers.
fn case(tp: usize) -> Case {
    match tp {
        1 => Case::new(DLRM, ADAM, Precision::Bf16, 1),
        _ => super::super::tensor_parallel::shared(ADAM, Precision::Bf16),
    }
}

/// A child: trains its part, says each loss, predicts, and waits for ever after its last step.
#[test]
#[ignore = "started by the tests of processes"]
fn one_process() {
    let Ok(variable) = std::env::var(VARIABLE) else {
        return;
    };
    let mut numbers = variable.split(' ').map(|number| number.parse().unwrap());
    let mut number = || -> u64 { numbers.next().unwrap() };
    let [rank, ranks, tp] = [(); 3].map(|()| number() as usize);
    let (port, is_tcp) = (number() as u16, number() == 1);
    let (last_step, predictions) = (number(), number());
    let environment = RankEnvironment {
        rank,
        world_size: ranks,
        master_port: port,
        ..RankEnvironment::single()
    };
    let store = Store::join(&environment, LONG).unwrap();
    let settings = Settings::default();
    let comm: Arc<dyn Communicator> = if is_tcp {
        Arc::new(Tcp::connect(rank, ranks, &store, Route::LOOPBACK, settings).unwrap())
    } else {
        Arc::new(SharedMemory::connect(rank, ranks, &store, settings).unwrap())
    };
    store.barrier("connected", LONG).unwrap();
    let case = case(tp);
    let mut trainer = case.on_tested_device_of(&comm);
    for step in 1..=last_step {
        let parts = [step, step + 1].map(|step| case.part(&case.batch(step), comm.as_ref()));
        match trainer.step(&parts[0], Some(&parts[1]), step, false) {
            Ok(outcome) => println!("\n>{}", outcome.loss),
            Err(error) => {
                let cause = error.comm().map(ToString::to_string);
                println!("\n>{error}: {}", cause.unwrap_or_default());
                return;
            }
        }
    }
    for _ in 0..predictions {
        let part = case.part(&case.batch(last_step), comm.as_ref());
        let mut probabilities = Vec::new();
        match trainer.predict(&part, &mut probabilities) {
            Ok(()) => println!("\n>predicted {}", probabilities.len()),
            Err(error) => {
                let cause = error.comm().map(ToString::to_string);
                println!("\n>{error}: {}", cause.unwrap_or_default());
                return;
            }
        }
    }
    println!("\n>done");
    std::thread::sleep(LONG);
}

#[test]
fn processes_with_devices_equal_one_cpu() {
    for (ranks, tp, is_tcp) in [(2, 1, false), (4, 1, false), (4, 2, false), (4, 2, true)] {
        let whole = case(tp).whole();
        let curve = whole.train(&mut whole.on_cpu(), 1..=6, undisturbed);
        let meeting = Meeting::new(is_tcp);
        let start = |rank| Process::start([rank, ranks, tp], meeting, 6);
        let mut processes: Vec<Process> = (0..ranks).map(start).collect();
        for expected in &curve {
            let said = processes.iter_mut().map(Process::says);
            let losses: Vec<f64> = said.map(|loss| loss.parse().unwrap()).collect();
            assert!(losses.iter().all(|loss| *loss == losses[0]), "{losses:?}");
            let error = (losses[0] - expected.loss).abs();
            assert!(error < 0.02, "{losses:?} {expected:?}");
        }
    }
}

/// Rank 0 waits for the second predictions of a shared layer when rank 1, which never comes to them, is killed.
#[test]
fn a_process_that_is_killed_in_an_evaluation_ends_the_others_in_words() {
    let meeting = Meeting::new(false);
    let start = |[rank, predictions]: [u64; 2]| {
        Process::start_to_predict([rank as usize, 2, 2], meeting, [2, predictions])
    };
    let [mut stays, mut killed] = [[0, 9], [1, 1]].map(start);
    for _ in 0..3 {
        assert_eq!(stays.says(), killed.says());
    }
    assert_eq!(killed.says(), "done");
    let began = Instant::now();
    killed.child.kill().unwrap();
    let said = stays.says();
    assert!(
        said.contains("cannot be completed in the evaluation after step 2 on the devices"),
        "{said}"
    );
    assert!(said.contains("ranks [1] have ended"), "{said}");
    assert!(
        began.elapsed() < LONG / 2,
        "the time-out was not waited for"
    );
}

/// Rank 0 waits in a collective of step 4 when rank 1, which never comes to it, is killed.
fn a_killed_process_ends_the_others(meeting: Meeting) {
    let [mut stays, mut killed] =
        [[0, 9], [1, 3]].map(|[rank, last]| Process::start([rank, 2, 1], meeting, last as u64));
    for _ in 0..3 {
        assert_eq!(stays.says(), killed.says());
    }
    assert_eq!(killed.says(), "done");
    let began = Instant::now();
    killed.child.kill().unwrap();
    let said = stays.says();
    assert!(
        said.contains("cannot be completed in step 4 on the devices"),
        "{said}"
    );
    assert!(said.contains("ranks [1] have ended"), "{said}");
    assert!(
        began.elapsed() < LONG / 2,
        "the time-out was not waited for"
    );
}

#[test]
fn a_process_that_is_killed_ends_the_others_in_words() {
    a_killed_process_ends_the_others(Meeting::new(false));
}

#[test]
fn a_process_that_is_killed_ends_the_others_in_words_over_tcp() {
    a_killed_process_ends_the_others(Meeting::new(true));
}
