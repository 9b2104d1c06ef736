//! Waiting for other ranks: MPI has to be asked again and again, at first at once, later now and then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::comm::Observer;

/// How long a rank spins, and then lets others run, before it sleeps. Data move only while both sides ask.
const SPIN: Duration = Duration::from_micros(20);
const YIELD: Duration = Duration::from_micros(200);

/// A rank that did not look for so long was stopped, or had no core.
const ABSENCE: Duration = Duration::from_millis(100);

/// How long a rank waits before it tells for whom.
const WATCH: Duration = Duration::from_millis(100);

/// Naps grow with the time that nothing happened, by this factor, between these bounds.
const NAP_SHARE: u32 = 8;
const NAP_MIN: Duration = Duration::from_micros(50);
const NAP_MAX: Duration = Duration::from_millis(2);

/// One wait of a rank.
pub(super) struct Wait {
    began: Instant,
    /// When something happened last.
    moved: Instant,
    /// When this rank was about last.
    looked: Instant,
    spins: bool,
    reported: Vec<usize>,
    /// When the others were asked whether they wait too.
    pub(super) asked: Option<Instant>,
}

impl Wait {
    /// `spins` where every rank has a core of its own: else it would keep the awaited rank from running.
    pub(super) fn new(spins: bool) -> Self {
        let now = Instant::now();
        Self {
            began: now,
            moved: now,
            looked: now,
            spins,
            reported: Vec::new(),
            asked: None,
        }
    }

    pub(super) fn waited(&self) -> Duration {
        self.began.elapsed()
    }

    /// How long nothing has happened, as far as this rank was about.
    pub(super) fn idle(&self) -> Duration {
        if self.looked.elapsed() > ABSENCE {
            return Duration::ZERO;
        }
        self.moved.elapsed()
    }

    /// Rests before MPI is asked again. `moved` says whether something happened since the last time.
    pub(super) fn rest(&mut self, moved: bool) {
        let now = Instant::now();
        // A rank that was stopped itself finds that nothing happened, and must not blame the others for it.
        if moved || now - self.looked > ABSENCE {
            self.moved = now;
            self.asked = None;
        }
        self.looked = now;
        self.sleep(moved, now - self.moved);
    }

    fn sleep(&self, moved: bool, idle: Duration) {
        if moved {
            return;
        }
        if self.spins && idle < SPIN {
            std::hint::spin_loop();
        } else if idle < YIELD {
            std::thread::yield_now();
        } else {
            std::thread::sleep((idle / NAP_SHARE).clamp(NAP_MIN, NAP_MAX));
        }
    }

    /// Once this rank has waited for a while, tells the observer for whom where they are others than before. Returns
    /// why the job is being ended, if it is.
    pub(super) fn tell(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_this_rank_was_stopped_does_not_count() {
        let mut wait = Wait::new(false);
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(20) {
            wait.rest(false);
        }
        assert!(wait.idle() >= Duration::from_millis(20));
        std::thread::sleep(2 * ABSENCE);
        assert_eq!(wait.idle(), Duration::ZERO);
        wait.rest(false);
        assert!(wait.idle() < ABSENCE);
        assert!(wait.waited() >= 2 * ABSENCE);
    }
}
