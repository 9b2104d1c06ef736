//! How busy requests keep the machine, by which the log's writer chooses its moments.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Requests under way on so many cores.
#[derive(Debug)]
pub(super) struct Load {
    under_way: AtomicUsize,
    cores: usize,
}

impl Load {
    /// None yet, on the cores that this process may use.
    pub(super) fn of_this_machine() -> Self {
        Self {
            under_way: AtomicUsize::new(0),
            cores: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        }
    }

    /// Whether a core is likely to be idle: a request keeps up to two at work, one that reads or answers and one that
    /// scores.
    pub(super) fn is_calm(&self) -> bool {
        2 * self.under_way.load(Ordering::Relaxed) < self.cores
    }
}

/// A request under way, until it is dropped.
#[derive(Debug)]
#[must_use = "a request is under way as long as this is kept"]
pub struct UnderWay(Arc<Load>);

impl UnderWay {
    pub(super) fn begin(load: &Arc<Load>) -> Self {
        load.under_way.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(load))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_requests_leave_one_of_five_cores_idle_and_none_of_four() {
        for (cores, calm) in [
            (1, [true, false, false]),
            (4, [true, true, false]),
            (5, [true; 3]),
        ] {
            let load = Arc::new(Load {
                under_way: AtomicUsize::new(0),
                cores,
            });
            let none = load.is_calm();
            let first = UnderWay::begin(&load);
            let one = load.is_calm();
            let second = UnderWay::begin(&load);
            assert_eq!([none, one, load.is_calm()], calm, "{cores} cores");
            drop((first, second));
            assert!(load.is_calm());
        }
    }
}
