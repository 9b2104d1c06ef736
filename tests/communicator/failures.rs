//! Mistakes and absences are errors on every rank, in time; never a hang, never garbage.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use streamrec::comm::{CommError, Communicator, InProcessBootstrap, Observer, ReduceOp, Settings};

use crate::{Medium, on_all_ranks, on_all_ranks_with};

fn impatient(timeout_ms: u64) -> Settings {
    Settings {
        timeout: Duration::from_millis(timeout_ms),
        ..Settings::default()
    }
}

#[test]
fn a_rank_that_does_not_call_is_named_on_all_others() {
    let errors = on_all_ranks_with(4, &impatient(300), |comm| {
        if comm.rank() == 2 {
            // Alive, but busy with something else for longer than the others wait.
            std::thread::sleep(Duration::from_millis(900));
        }
        comm.barrier().wait().unwrap_err()
    });
    // Rank 2 too, when it comes at last.
    for error in errors {
        match error {
            CommError::Timeout {
                collective: "barrier",
                missing,
                waited,
                ..
            } => {
                assert_eq!(missing, [2]);
                assert!(waited >= Duration::from_millis(300));
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_rank_that_leaves_ends_the_wait_at_once() {
    let mut ranks = Medium::current().connect_threads(3, &impatient(60_000));
    drop(ranks.pop());
    let start = Instant::now();
    let events: Vec<_> = ranks.iter().map(|comm| comm.barrier()).collect();
    for event in events {
        assert!(matches!(event.wait(), Err(CommError::Lost { ranks, .. }) if ranks == [2]));
    }
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn another_collective_is_an_error_that_names_both_on_all_ranks() {
    let messages = on_all_ranks(3, |comm| {
        let buffer = comm.allocate(8).unwrap();
        let error = if comm.rank() == 1 {
            comm.barrier().wait().unwrap_err()
        } else {
            comm.all_reduce(buffer, ReduceOp::Sum).wait().unwrap_err()
        };
        assert!(matches!(
            error,
            CommError::Mismatch {
                rank: 0,
                other_rank: 1,
                ..
            }
        ));
        error.to_string()
    });
    for message in messages {
        assert!(
            message.contains("rank 0 called all_reduce(sum, buffer 1 of 8 f32)"),
            "{message}"
        );
        assert!(message.contains("rank 1 called barrier()"), "{message}");
    }
}

/// What rank 0 calls, against what the others call.
#[test]
fn another_length_operation_root_or_buffer_is_an_error_on_all_ranks() {
    type Call = fn(&dyn Communicator, bool) -> Result<(), CommError>;
    let calls: [(&str, Call); 4] = [
        ("allocate(7 f32)", |comm, odd| {
            comm.allocate(if odd { 7 } else { 9 }).map(drop)
        }),
        ("all_reduce(max", |comm, odd| {
            let op = if odd { ReduceOp::Max } else { ReduceOp::Sum };
            comm.all_reduce(comm.allocate(8).unwrap(), op)
                .wait()
                .map(drop)
        }),
        ("broadcast(root 1", |comm, odd| {
            comm.broadcast(comm.allocate(8).unwrap(), usize::from(odd))
                .wait()
                .map(drop)
        }),
        ("buffer 2", |comm, odd| {
            let buffers = (comm.allocate(9000).unwrap(), comm.allocate(9000).unwrap());
            let buffer = if odd { buffers.1 } else { buffers.0 };
            comm.all_gather(buffer).wait().map(drop)
        }),
    ];
    for (named, call) in calls {
        for error in on_all_ranks(3, |comm| call(comm, comm.rank() == 0).unwrap_err()) {
            assert!(matches!(error, CommError::Mismatch { .. }), "{error}");
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}

#[test]
fn a_poisoned_communicator_fails_at_once_with_the_cause() {
    on_all_ranks(2, |comm| {
        let buffer = comm.allocate(10_000).unwrap();
        let wrong = if comm.rank() == 0 {
            comm.barrier().wait().err()
        } else {
            comm.all_gather_bytes(vec![1]).wait().err()
        };
        assert!(matches!(wrong, Some(CommError::Mismatch { .. })));
        let start = Instant::now();
        let error = comm.all_reduce(buffer, ReduceOp::Sum).wait().unwrap_err();
        match error {
            CommError::Poisoned { cause } => {
                assert!(matches!(*cause, CommError::Mismatch { .. }));
            }
            other => panic!("{other}"),
        }
        assert!(comm.split(0, 0).is_err());
        assert!(start.elapsed() < Duration::from_secs(1));
    });
}

#[test]
fn a_mistake_on_one_rank_does_not_hang_the_others() {
    on_all_ranks(3, |comm| {
        let group = comm.split(0, 0).unwrap();
        // Rank 1 passes a buffer of the group to the world.
        let (ours, theirs) = (comm.allocate(8).unwrap(), group.allocate(8).unwrap());
        let buffer = if comm.rank() == 1 { theirs } else { ours };
        match comm.all_reduce(buffer, ReduceOp::Sum).wait().unwrap_err() {
            CommError::Argument { problem, .. } if comm.rank() == 1 => {
                assert!(problem.contains("another communicator"));
            }
            CommError::PeerFailed {
                collective: "all_reduce",
                rank: 1,
                ..
            } if comm.rank() != 1 => {}
            other => panic!("rank {}: {other}", comm.rank()),
        }
    });
}

#[test]
fn groups_report_the_ranks_of_the_world() {
    on_all_ranks_with(4, &impatient(300), |comm| {
        let group = comm.split(comm.rank() / 2, 0).unwrap();
        match comm.rank() {
            3 => std::thread::sleep(Duration::from_millis(900)),
            2 => match group.barrier().wait().unwrap_err() {
                CommError::Timeout { missing, .. } => assert_eq!(missing, [3]),
                other => panic!("{other}"),
            },
            _ => group.barrier().wait().unwrap(),
        }
    });
}

#[test]
fn a_rank_that_never_connects_is_named() {
    let medium = Medium::current();
    let refusal = |rank, size| {
        let bootstrap = InProcessBootstrap::default();
        let connected = medium.connect(rank, size, &bootstrap, impatient(200));
        connected.err().unwrap()
    };
    match refusal(0, 3) {
        CommError::Timeout {
            collective: "connect",
            missing,
            ..
        } => assert_eq!(missing, [1, 2]),
        other => panic!("{other}"),
    }
    match refusal(1, 2) {
        CommError::Timeout {
            collective: "connect",
            missing,
            ..
        } => assert_eq!(missing, [0]),
        other => panic!("{other}"),
    }
}

#[test]
fn impossible_worlds_are_refused() {
    let bootstrap = InProcessBootstrap::default();
    for (rank, size) in [(2, 2), (0, 0), (0, 5000)] {
        let connected = Medium::current().connect(rank, size, &bootstrap, impatient(200));
        let error = connected.err().unwrap();
        assert!(matches!(error, CommError::Connect { .. }), "{error}");
    }
}

#[derive(Default)]
struct Journal(Mutex<Vec<String>>);

impl Observer for Journal {
    fn enter(&self, collective: &'static str, sequence: u64) {
        self.0
            .lock()
            .unwrap()
            .push(format!("enter {collective} {sequence}"));
    }

    fn leave(&self) {
        self.0.lock().unwrap().push("leave".to_owned());
    }

    fn waiting_for(&self, ranks: &[usize]) {
        self.0.lock().unwrap().push(format!("wait {ranks:?}"));
    }
}

#[test]
fn the_observer_hears_what_a_rank_waits_for() {
    let bootstrap = &InProcessBootstrap::default();
    let (medium, journal) = (Medium::current(), Arc::new(Journal::default()));
    let observed = Settings {
        observer: Arc::clone(&journal) as Arc<dyn Observer>,
        ..Settings::default()
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let comm = medium
                .connect(1, 2, bootstrap, Settings::default())
                .unwrap();
            std::thread::sleep(Duration::from_millis(400));
            comm.barrier().wait().unwrap();
        });
        let comm = medium.connect(0, 2, bootstrap, observed).unwrap();
        journal.0.lock().unwrap().clear();
        comm.barrier().wait().unwrap();
    });
    assert_eq!(
        *journal.0.lock().unwrap(),
        ["enter barrier 2", "wait [1]", "leave"]
    );
}

/// Waits until `comm` knows that these have ended, and no others.
fn await_end(comm: &dyn Communicator, expected: &[usize]) {
    let start = Instant::now();
    loop {
        let ended = comm.ended().wait().unwrap();
        if ended == expected {
            return;
        }
        assert!(
            ended.iter().all(|rank| expected.contains(rank)),
            "{ended:?}"
        );
        assert!(start.elapsed() < Duration::from_secs(5), "{ended:?}");
    }
}

#[test]
fn a_rank_that_left_is_known_without_waiting_for_anybody() {
    let mut ranks = Medium::current().connect_threads(3, &impatient(60_000));
    await_end(ranks[0].as_ref(), &[]);
    drop(ranks.pop());
    await_end(ranks[0].as_ref(), &[2]);
    drop(ranks.pop());
    await_end(ranks[0].as_ref(), &[1, 2]);
}

crate::also_over_tcp! {
    a_rank_that_does_not_call_is_named_on_all_others,
    a_rank_that_leaves_ends_the_wait_at_once,
    another_collective_is_an_error_that_names_both_on_all_ranks,
    another_length_operation_root_or_buffer_is_an_error_on_all_ranks,
    a_poisoned_communicator_fails_at_once_with_the_cause,
    a_mistake_on_one_rank_does_not_hang_the_others,
    groups_report_the_ranks_of_the_world,
    a_rank_that_never_connects_is_named,
    impossible_worlds_are_refused,
    the_observer_hears_what_a_rank_waits_for,
    a_rank_that_left_is_known_without_waiting_for_anybody,
}

/// Those of the above that hold wherever the ranks are, for a rank that `mpirun` started.
#[cfg(feature = "mpi")]
pub fn all() {
    a_rank_that_does_not_call_is_named_on_all_others();
    another_collective_is_an_error_that_names_both_on_all_ranks();
    another_length_operation_root_or_buffer_is_an_error_on_all_ranks();
    a_poisoned_communicator_fails_at_once_with_the_cause();
    a_mistake_on_one_rank_does_not_hang_the_others();
    groups_report_the_ranks_of_the_world();
}
