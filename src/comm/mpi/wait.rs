//! Waiting for other ranks: MPI has to be asked again and again, at first at once, later now and then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::comm::Observer;

/// How long a rank spins, and then lets others run, before it sleeps. Data move only while both sides ask.
const SPIN: Duration = Duration::from_micros(20);
const YIELD: Duration = Duration::from_micros(200);

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
    spins: bool,
    reported: Vec<usize>,
}

impl Wait {
    /// `spins` where every rank has a core of its own: else it would keep the awaited rank from running.
    pub(super) fn new(spins: bool) -> Self {
        let now = Instant::now();
        Self {
            began: now,
            moved: now,
            spins,
            reported: Vec::new(),
        }
    }

    pub(super) fn waited(&self) -> Duration {
        self.began.elapsed()
    }

    /// How long nothing has happened.
    pub(super) fn idle(&self) -> Duration {
        self.moved.elapsed()
    }

    /// Rests before MPI is asked again. `moved` says whether something happened since the last time.
    pub(super) fn rest(&mut self, moved: bool) {
        if moved {
            self.moved = Instant::now();
            return;
        }
        let idle = self.moved.elapsed();
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
