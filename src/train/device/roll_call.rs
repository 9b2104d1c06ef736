use std::sync::Arc;
use std::time::{Duration, Instant};

use bytemuck::{Pod, Zeroable};

use crate::comm::{CommError, Communicator, Event};

/// Between two questions which ranks have ended.
const PAUSE: Duration = Duration::from_millis(10);
/// How long devices may go on after a rank has ended that came to both calls of a step.
const GRACE: Duration = Duration::from_secs(3);

/// What ranks tell one another on the host while their devices work: where they are, whether they were asked to stop, how
/// many ids come. And how a rank learns that another is gone, which its device would wait for for ever.
///
/// ```text
/// arrive   step, stop, ids of this batch and the next ─► every rank      before a step's work is asked for
/// leave                                               ─► every rank      when all of it was asked for
/// ```
///
/// Each rank does both in each step, and for each batch that devices predict together, so that a rank that ends meanwhile is
/// missed by one of the two. One that ends after both, while the devices of others still wait for its own, is found by asking whether processes live: those that ended
/// well end so when the others' devices are about to be done, and are given a moment.
pub(super) struct RollCall {
    comm: Arc<dyn Communicator>,
    arriving: Option<Arriving>,
    leaving: Option<Event<()>>,
    left: bool,
    /// Which ranks have ended, and since when it is known that some have.
    asked: Option<Event<Vec<usize>>>,
    gone_since: Option<Instant>,
    answered: Instant,
    grace: Duration,
    told: Option<Told>,
    /// The last step that each rank reported.
    steps: Vec<u64>,
}

/// What all ranks are about to tell.
struct Arriving {
    event: Event<Vec<Vec<u8>>>,
    /// That the ranks left the work before. One that ended meanwhile is missed by this, and by all that follows it only
    /// because of this.
    left_before: Option<Event<()>>,
    /// Before predictions, which say nothing of the next step.
    predicts: bool,
}

/// What one rank tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Report {
    pub(super) step: u64,
    /// The most ids of this batch and the next.
    pub(super) ids: u64,
    /// Not 0: it was asked to stop.
    pub(super) stop: u32,
    /// Not 0: it knows the next batch.
    pub(super) ahead: u32,
}

/// What all ranks told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    ids: usize,
    stop: bool,
    /// All of them knew the next batch.
    ahead: bool,
}

impl RollCall {
    /// Of the ranks of `comm`, which nobody else uses.
    pub(super) fn new(comm: Arc<dyn Communicator>) -> Self {
        Self {
            steps: vec![0; comm.size()],
            comm,
            arriving: None,
            leaving: None,
            left: true,
            asked: None,
            gone_since: None,
            answered: Instant::now(),
            grace: GRACE,
            told: None,
        }
    }

    pub(super) fn ranks(&self) -> usize {
        self.comm.size()
    }

    pub(super) fn steps(&self) -> &[u64] {
        &self.steps
    }

    /// Comes to a step. Returns the most ids of its batch on any rank, which every rank learns at the same time.
    pub(super) fn arrive(&mut self, report: Report) -> Result<usize, CommError> {
        let before = self.told.filter(|told| told.ahead);
        self.tell(report, false);
        match before {
            // All knew in the step before what comes: nobody needs to wait.
            Some(told) => Ok(told.ids),
            None => Ok(self.hear()?.ids),
        }
    }

    /// Comes to predictions for a batch of so many ids, after `step`. Returns the most ids on any rank; waits for all.
    pub(super) fn arrive_to_predict(&mut self, step: u64, ids: usize) -> Result<usize, CommError> {
        let report = Report {
            step,
            ids: ids as u64,
            stop: 0,
            ahead: 0,
        };
        self.tell(report, true);
        Ok(self.hear()?.ids)
    }

    fn tell(&mut self, report: Report, predicts: bool) {
        let message = bytemuck::bytes_of(&report).to_vec();
        let (left_before, event) = (self.leaving.take(), self.comm.all_gather_bytes(message));
        self.arriving = Some(Arriving {
            event,
            left_before,
            predicts,
        });
        self.left = false;
        (self.asked, self.gone_since) = (None, None);
    }

    /// Has asked for all the work of a step. Once a step.
    pub(super) fn leave(&mut self) {
        if !std::mem::replace(&mut self.left, true) {
            self.leaving = Some(self.comm.barrier());
        }
    }

    /// Whether any rank was asked to stop in this step.
    pub(super) fn stops(&mut self) -> Result<bool, CommError> {
        Ok(self.hear()?.stop)
    }

    /// Tells of a rank that is gone, without waiting.
    pub(super) fn look(&mut self) -> Result<(), CommError> {
        // Asked first: then what was sent before it is there too, and tells which rank is gone.
        let leaving = self.leaving.take_if(|event| event.is_ready());
        let arriving = self.arriving.as_ref();
        if arriving.is_some_and(|arriving| arriving.event.is_ready()) {
            self.hear()?;
        }
        leaving.map_or(Ok(()), Event::wait)?;
        match self.left && self.arriving.is_none() && self.leaving.is_none() {
            true => self.ask(),
            false => Ok(()),
        }
    }

    /// Asks which ranks have ended, where nothing else would tell.
    fn ask(&mut self) -> Result<(), CommError> {
        if self.asked.is_none() && self.answered.elapsed() >= PAUSE {
            self.asked = Some(self.comm.ended());
        }
        let Some(asked) = self.asked.take_if(|event| event.is_ready()) else {
            return Ok(());
        };
        self.answered = Instant::now();
        let ranks = asked.wait()?;
        if ranks.is_empty() {
            return Ok(());
        }
        let since = self.gone_since.get_or_insert_with(Instant::now);
        if since.elapsed() < self.grace {
            return Ok(());
        }
        Err(self.lost(ranks))
    }

    /// After a failure: which ranks are missing, once that is known.
    pub(super) fn missing(&mut self) -> Option<CommError> {
        self.leave();
        let arrived = self.hear().err();
        let left = || self.leaving.take().and_then(|event| event.wait().err());
        if let Some(missing) = arrived.or_else(left) {
            return Some(missing);
        }
        let ranks = self.comm.ended().wait().ok()?;
        (!ranks.is_empty()).then(|| self.lost(ranks))
    }

    fn lost(&self, ranks: Vec<usize>) -> CommError {
        CommError::Lost {
            collective: "the work of the devices",
            sequence: self.steps.iter().copied().max().unwrap_or(0),
            ranks,
        }
    }

    fn hear(&mut self) -> Result<Told, CommError> {
        if let Some(arriving) = self.arriving.take() {
            let reports = arriving.event.wait().map_err(|error| {
                let earlier = arriving.left_before.and_then(|event| event.wait().err());
                earlier.unwrap_or(error)
            })?;
            let mut told = Told {
                ids: 0,
                stop: false,
                ahead: true,
            };
            for (rank, report) in reports.iter().enumerate() {
                let report: Report =
                    bytemuck::try_pod_read_unaligned(report).map_err(|_| CommError::Corrupt {
                        collective: "roll call",
                        rank,
                        problem: format!(
                            "expected {} bytes, got {}",
                            size_of::<Report>(),
                            report.len()
                        ),
                    })?;
                self.steps[rank] = report.step;
                told.ids = told.ids.max(report.ids as usize);
                told.stop |= report.stop != 0;
                told.ahead &= report.ahead != 0;
            }
            if arriving.predicts {
                return Ok(told);
            }
            self.told = Some(told);
        }
        // Nobody hears before it has arrived.
        self.told.ok_or(CommError::Abandoned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::{Settings, SharedMemory};

    fn report(step: u64, ids: u64, ahead: u32) -> Report {
        Report {
            step,
            ids,
            stop: 0,
            ahead,
        }
    }

    #[test]
    fn ranks_learn_of_ids_and_of_a_stop_in_the_same_step() {
        let ranks = SharedMemory::connect_threads(2, &Settings::default()).unwrap();
        std::thread::scope(|scope| {
            for comm in ranks {
                scope.spawn(move || {
                    let rank = comm.rank() as u64;
                    let mut calls = RollCall::new(Arc::new(comm));
                    // Nothing is known before the first step: all wait.
                    assert_eq!(calls.arrive(report(1, 10 + rank, 1)).unwrap(), 11);
                    assert!(!calls.stops().unwrap());
                    calls.leave();
                    // Predictions between steps have a roll call of their own.
                    assert_eq!(calls.arrive_to_predict(1, 50 + rank as usize).unwrap(), 51);
                    calls.leave();
                    // What the step before told is of this batch already.
                    let stop = u32::from(rank == 1);
                    let second = Report {
                        stop,
                        ..report(2, 30, 1 - rank as u32)
                    };
                    assert_eq!(calls.arrive(second).unwrap(), 11);
                    assert!(calls.stops().unwrap());
                    calls.leave();
                    // One rank did not know the next batch: all wait.
                    assert_eq!(calls.arrive(report(3, 40 + rank, 0)).unwrap(), 41);
                    assert_eq!(calls.steps(), [3, 3]);
                });
            }
        });
    }

    /// It arrives and never leaves: that is known before the next arrival fails, and is what is told.
    #[test]
    fn a_rank_that_ends_between_two_steps_is_named_in_the_second() {
        let mut ranks = SharedMemory::connect_threads(2, &Settings::default()).unwrap();
        let (gone, stays) = (ranks.pop().unwrap(), ranks.pop().unwrap());
        std::thread::scope(|scope| {
            let ends = scope.spawn(move || {
                let mut calls = RollCall::new(Arc::new(gone));
                calls.arrive(report(1, 1, 0)).unwrap();
            });
            let mut calls = RollCall::new(Arc::new(stays));
            calls.arrive(report(1, 1, 0)).unwrap();
            ends.join().unwrap();
            calls.leave();
            let missing = calls.arrive(report(2, 1, 0)).unwrap_err();
            assert!(
                matches!(missing, CommError::Lost { ref ranks, .. } if *ranks == [1]),
                "{missing}"
            );
        });
    }

    #[test]
    fn a_rank_that_ends_in_a_step_is_missed() {
        let mut ranks = SharedMemory::connect_threads(2, &Settings::default()).unwrap();
        let (gone, stays) = (ranks.pop().unwrap(), ranks.pop().unwrap());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut calls = RollCall::new(Arc::new(gone));
                calls.arrive(report(1, 1, 1)).unwrap();
            });
            let mut calls = RollCall::new(Arc::new(stays));
            calls.arrive(report(1, 1, 1)).unwrap();
            let missing = calls.missing().unwrap();
            assert!(
                matches!(missing, CommError::Lost { ref ranks, .. } if *ranks == [1]),
                "{missing}"
            );
            assert_eq!(calls.steps(), [1, 1]);
        });
    }

    /// Nothing that the ranks tell one another is missing: the device of the one that stays would wait for ever.
    #[test]
    fn a_rank_that_ends_after_both_calls_is_missed_too() {
        let mut ranks = SharedMemory::connect_threads(2, &Settings::default()).unwrap();
        let (gone, stays) = (ranks.pop().unwrap(), ranks.pop().unwrap());
        let both = |comm: SharedMemory| {
            let mut calls = RollCall::new(Arc::new(comm));
            calls.grace = Duration::from_millis(50);
            calls.arrive(report(7, 1, 1)).unwrap();
            calls.leave();
            calls
        };
        std::thread::scope(|scope| {
            let ends = scope.spawn(move || both(gone).leaving.take().map(Event::wait));
            let mut calls = both(stays);
            ends.join().unwrap().expect("it left").unwrap();
            let began = Instant::now();
            let missing = loop {
                if let Err(error) = calls.look() {
                    break error;
                }
                assert!(
                    began.elapsed() < Duration::from_secs(20),
                    "nobody is missed"
                );
            };
            assert!(began.elapsed() >= calls.grace, "it may have ended well");
            let expected =
                "the work of the devices (number 7) can never complete: ranks [1] have ended";
            assert!(missing.to_string().starts_with(expected), "{missing}");
        });
    }
}
