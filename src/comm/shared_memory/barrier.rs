//! Waiting for all ranks: first spinning, then sleeping, never for ever.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::control::Control;
use super::liveness::Liveness;
use crate::comm::Observer;
use crate::comm::failure::Failure;

/// How long a rank spins before it sleeps: about what a sleep and a wake-up cost, so that
/// spinning at most doubles the cost of waiting, and hardly takes a core from a computing rank.
const SPIN: Duration = Duration::from_micros(20);

/// How long a rank sleeps before it asks who is missing, and why.
const WATCH: Duration = Duration::from_millis(100);

/// One rank's side of the barriers of a control page.
pub(super) struct Barrier {
    control: Arc<Control>,
    rank: usize,
    /// The number of barriers that this rank has come to.
    phase: u64,
    spin: Duration,
    timeout: Duration,
    observer: Arc<dyn Observer>,
    liveness: Liveness,
    /// The world's number of each rank of the group.
    world: Arc<[usize]>,
}

/// Why a barrier ended without all ranks. Ranks are those of the group.
#[derive(Debug)]
pub(super) enum Interruption {
    /// Another rank recorded a failure.
    Failed(Failure),
    /// These ranks are gone.
    Lost(Vec<usize>),
    /// These ranks did not come in time.
    TimedOut {
        missing: Vec<usize>,
        waited: Duration,
    },
    /// Whoever started the ranks ends them, while these have not come.
    CalledOff { missing: Vec<usize>, reason: String },
}

impl Barrier {
    pub(super) fn new(
        control: Arc<Control>,
        rank: usize,
        world: Arc<[usize]>,
        timeout: Duration,
        observer: Arc<dyn Observer>,
    ) -> Self {
        // With more ranks than cores, spinning would only keep the awaited rank from running.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spin = if control.size() <= cores {
            SPIN
        } else {
            Duration::ZERO
        };
        let liveness = Liveness::new(control.size());
        Self {
            control,
            rank,
            phase: 0,
            spin,
            timeout,
            observer,
            liveness,
            world,
        }
    }

    /// Comes to the next barrier, and waits until all ranks have. What a rank wrote before it
    /// came, all ranks see afterwards.
    pub(super) fn wait(&mut self) -> Result<(), Interruption> {
        self.phase += 1;
        self.control.arrive(self.rank, self.phase);
        if self.spin() { Ok(()) } else { self.sleep() }
    }

    fn spin(&self) -> bool {
        if self.spin.is_zero() {
            return self.control.is_complete(self.phase);
        }
        let start = Instant::now();
        loop {
            for _ in 0..32 {
                if self.control.is_complete(self.phase) {
                    return true;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() >= self.spin {
                return false;
            }
        }
    }

    fn sleep(&mut self) -> Result<(), Interruption> {
        let start = Instant::now();
        let mut reported = Vec::new();
        loop {
            // Read first: whatever happens after this makes the sleep end at once.
            let rings = self.control.rings();
            if self.control.is_complete(self.phase) {
                return Ok(());
            }
            if let Some(failure) = self.control.failure() {
                return Err(Interruption::Failed(failure));
            }
            let waited = start.elapsed();
            let is_watching = waited >= WATCH;
            let lost = self.lost(is_watching);
            if !lost.is_empty() {
                return Err(Interruption::Lost(lost));
            }
            let missing = self.missing();
            if is_watching && let Some(reason) = self.observer.called_off() {
                return Err(Interruption::CalledOff { missing, reason });
            }
            if is_watching && missing != reported {
                let ranks: Vec<usize> = missing.iter().map(|rank| self.world[*rank]).collect();
                self.observer.waiting_for(&ranks);
                reported.clone_from(&missing);
            }
            if waited >= self.timeout && !missing.is_empty() {
                return Err(Interruption::TimedOut { missing, waited });
            }
            let left = self.timeout.saturating_sub(waited);
            self.control.sleep(rings, left.min(WATCH));
        }
    }

    /// The other ranks that have ended or left.
    pub(super) fn ended(&mut self) -> Vec<usize> {
        let others = (0..self.control.size()).filter(|&rank| rank != self.rank);
        let others: Vec<usize> = others.collect();
        let (control, liveness) = (&self.control, &mut self.liveness);
        let is_gone = |&rank: &usize| control.has_left(rank) || has_ended(control, liveness, rank);
        others.into_iter().filter(is_gone).collect()
    }

    fn missing(&self) -> Vec<usize> {
        let ranks = 0..self.control.size();
        ranks
            .filter(|rank| !self.control.has_arrived(*rank, self.phase))
            .collect()
    }

    /// The missing ranks that will never come.
    fn lost(&mut self, ask_processes: bool) -> Vec<usize> {
        let (control, liveness) = (&self.control, &mut self.liveness);
        let mut is_gone = |rank: &usize| {
            control.has_left(*rank) || (ask_processes && has_ended(control, liveness, *rank))
        };
        let missing = (0..control.size()).filter(|rank| !control.has_arrived(*rank, self.phase));
        let gone: Vec<usize> = missing.filter(&mut is_gone).collect();
        // A rank may arrive and then leave: whether it has arrived is asked last.
        gone.into_iter()
            .filter(|rank| !control.has_arrived(*rank, self.phase))
            .collect()
    }
}

fn has_ended(control: &Control, liveness: &mut Liveness, rank: usize) -> bool {
    match control.process(rank) {
        // It has not even joined.
        (0, _) => false,
        (pid, _) => liveness.has_ended(rank, pid),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::comm::Silent;

    fn barrier(control: &Arc<Control>, rank: usize, timeout_ms: u64) -> Barrier {
        let world = (10..10 + control.size()).collect();
        let timeout = Duration::from_millis(timeout_ms);
        Barrier::new(Arc::clone(control), rank, world, timeout, Arc::new(Silent))
    }

    #[test]
    fn nobody_passes_before_all_have_come() {
        const ROUNDS: usize = 2000;
        let control = Arc::new(Control::create(3).unwrap().0);
        let counts: [AtomicUsize; 3] = Default::default();
        std::thread::scope(|scope| {
            for rank in 0..3 {
                let (mut barrier, counts) = (barrier(&control, rank, 60_000), &counts);
                scope.spawn(move || {
                    for round in 1..=ROUNDS {
                        counts[rank].store(round, Ordering::Relaxed);
                        barrier.wait().unwrap();
                        for count in counts {
                            let count = count.load(Ordering::Relaxed);
                            assert!(count == round || count == round + 1);
                        }
                    }
                });
            }
        });
    }

    #[derive(Default)]
    struct Waits(Mutex<Vec<Vec<usize>>>);

    impl Observer for Waits {
        fn enter(&self, _collective: &'static str, _sequence: u64) {}
        fn leave(&self) {}
        fn waiting_for(&self, ranks: &[usize]) {
            self.0.lock().unwrap().push(ranks.to_vec());
        }
    }

    #[test]
    fn a_timeout_names_the_missing_and_the_observer_hears_of_them() {
        let control = Arc::new(Control::create(3).unwrap().0);
        control.arrive(1, 1);
        let observer = Arc::new(Waits::default());
        let mut barrier = barrier(&control, 0, 150);
        barrier.observer = Arc::clone(&observer) as Arc<dyn Observer>;
        match barrier.wait() {
            Err(Interruption::TimedOut { missing, waited }) => {
                assert_eq!(missing, [2]);
                assert!(waited >= Duration::from_millis(150));
            }
            other => panic!("expected a timeout, got {other:?}"),
        }
        assert_eq!(*observer.0.lock().unwrap(), [[12]]);
    }

    struct Ends;

    impl Observer for Ends {
        fn enter(&self, _collective: &'static str, _sequence: u64) {}
        fn leave(&self) {}
        fn waiting_for(&self, _ranks: &[usize]) {}
        fn called_off(&self) -> Option<String> {
            Some("rank 1 is stuck".to_owned())
        }
    }

    #[test]
    fn a_job_that_ends_ends_the_wait() {
        let control = Arc::new(Control::create(2).unwrap().0);
        let mut waiting = barrier(&control, 0, 60_000);
        waiting.observer = Arc::new(Ends);
        let result = waiting.wait();
        assert!(
            matches!(&result, Err(Interruption::CalledOff { missing, reason })
                if *missing == [1] && reason == "rank 1 is stuck"),
            "{result:?}"
        );
    }

    #[test]
    fn a_rank_that_leaves_ends_the_wait() {
        let control = Arc::new(Control::create(2).unwrap().0);
        let mut waiting = barrier(&control, 0, 60_000);
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || waiting.wait());
            control.leave(1);
            let result = thread.join().unwrap();
            assert!(matches!(result, Err(Interruption::Lost(ranks)) if ranks == [1]));
        });
    }
}
