//! Waiting for other ranks, and telling for whom.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::message::Message;
use super::{Engine, Transport};
use crate::comm::{CommError, Observer};

/// A rank that did not look for so long was stopped, or had no core.
const ABSENCE: Duration = Duration::from_millis(100);

/// How long a rank waits before it tells for whom.
const WATCH: Duration = Duration::from_millis(100);

/// One wait of a rank.
pub(super) struct Wait {
    began: Instant,
    /// When something happened last.
    moved: Instant,
    /// When this rank was about last.
    looked: Instant,
    reported: Vec<usize>,
    /// When the others were asked whether they wait too.
    asked: Option<Instant>,
}

impl Wait {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            moved: now,
            looked: now,
            reported: Vec::new(),
            asked: None,
        }
    }

    pub(super) fn waited(&self) -> Duration {
        self.began.elapsed()
    }

    /// How long nothing has happened, as far as this rank was about.
    fn idle(&self) -> Duration {
        if self.looked.elapsed() > ABSENCE {
            return Duration::ZERO;
        }
        self.moved.elapsed()
    }

    /// Notes whether something happened since the last time; returns how long nothing has.
    fn look(&mut self, moved: bool) -> Duration {
        let now = Instant::now();
        // A rank that was stopped itself finds that nothing happened, and must not blame the others for it.
        if moved || now - self.looked > ABSENCE {
            self.moved = now;
            self.asked = None;
        }
        self.looked = now;
        now - self.moved
    }

    /// Once this rank has waited for a while, tells the observer for whom where they are others than before. Returns
    /// why the job is being ended, if it is.
    fn tell(
        &mut self,
        observer: &Arc<dyn Observer>,
        missing: impl FnOnce() -> Vec<usize>,
    ) -> Option<String> {
        if self.idle() < WATCH {
            return None;
        }
        let missing = missing();
        if missing != self.reported {
            observer.waiting_for(&missing);
            self.reported = missing;
        }
        observer.called_off()
    }
}

impl<T: Transport> Engine<T> {
    /// Rests a little, unless the time is over. Who is missing may itself wait for another, in this collective or the
    /// one before; so a rank that loses patience first asks who does.
    pub(super) fn keep_waiting(
        &mut self,
        wait: &mut Wait,
        moved: bool,
        missing: impl Fn(&Self) -> Vec<usize>,
    ) -> Result<(), CommError> {
        let observer = Arc::clone(&self.settings.observer);
        let called_off = wait.tell(&observer, || self.of_world(&missing(self)));
        if let Some(reason) = called_off {
            return Err(CommError::CalledOff {
                collective: self.kind.name(),
                sequence: self.sequence,
                missing: self.of_world(&missing(self)),
                reason,
            });
        }
        let timeout = self.settings.timeout;
        let waited = wait.idle();
        if !moved && waited >= timeout {
            let answers = (timeout / 4).min(Duration::from_secs(1));
            match wait.asked {
                None => {
                    wait.asked = Some(Instant::now());
                    let mut asked = missing(self).into_iter();
                    asked
                        .try_for_each(|rank| self.say(rank, &Message::Ask))
                        .map_err(|refusal| self.refused(refusal))?;
                }
                Some(asked) if asked.elapsed() >= answers => {
                    return Err(CommError::Timeout {
                        collective: self.kind.name(),
                        sequence: self.sequence,
                        missing: self.of_world(&self.without_waiting(missing(self), asked)),
                        waited,
                    });
                }
                Some(_) => {}
            }
        }
        self.rest(wait, moved);
        Ok(())
    }

    pub(super) fn rest(&mut self, wait: &mut Wait, moved: bool) {
        let idle = wait.look(moved);
        if !moved {
            self.transport.pause(idle, self.spins);
        }
    }

    /// Those of the missing ranks that have not answered that they wait themselves; all, if all have.
    fn without_waiting(&self, missing: Vec<usize>, asked: Instant) -> Vec<usize> {
        let waits = |rank: &usize| self.peers[*rank].waits.is_some_and(|when| when >= asked);
        let silent: Vec<usize> = missing
            .iter()
            .copied()
            .filter(|rank| !waits(rank))
            .collect();
        if silent.is_empty() { missing } else { silent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_this_rank_was_stopped_does_not_count() {
        let mut wait = Wait::new();
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(20) {
            wait.look(false);
        }
        assert!(wait.idle() >= Duration::from_millis(20));
        std::thread::sleep(2 * ABSENCE);
        assert_eq!(wait.idle(), Duration::ZERO);
        wait.look(false);
        assert!(wait.idle() < ABSENCE);
        assert!(wait.waited() >= 2 * ABSENCE);
    }
}
