//! Waiting for other ranks, and telling for whom.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::comm::Observer;

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
    pub(super) asked: Option<Instant>,
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
    pub(super) fn idle(&self) -> Duration {
        if self.looked.elapsed() > ABSENCE {
            return Duration::ZERO;
        }
        self.moved.elapsed()
    }

    /// Notes whether something happened since the last time; returns how long nothing has.
    pub(super) fn look(&mut self, moved: bool) -> Duration {
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
