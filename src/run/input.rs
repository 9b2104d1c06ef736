//! What the steps of a run are fed: batches, and how long each was waited for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::data::{Batch, BatchReader, Error};

/// The input of a run, on one rank.
pub(super) struct Input {
    reader: BatchReader,
}

/// A batch that came.
pub(super) struct Arrived {
    pub(super) batch: Arc<Batch>,
    /// Time that the thread which takes steps did nothing but wait for it.
    pub(super) waited: Duration,
}

impl Input {
    pub(super) fn new(reader: BatchReader) -> Self {
        Self { reader }
    }

    /// Samples of an epoch, over all ranks.
    pub(super) fn rows(&self) -> u64 {
        self.reader.rows()
    }

    /// Samples of the global batch at `step` of an epoch, without padding.
    pub(super) fn rows_of_step(&self, step: u64, global_batch: usize) -> u64 {
        let left = self.rows().saturating_sub(step * global_batch as u64);
        left.min(global_batch as u64)
    }

    pub(super) fn steps_per_epoch(&self) -> u64 {
        self.reader.steps_per_epoch()
    }

    /// Begins at `step` of `epoch`.
    pub(super) fn start(&mut self, epoch: u64, step: u64) -> Result<(), Error> {
        self.reader.start(epoch, step)
    }

    /// The next batch; none after the last of the epoch.
    pub(super) fn next(&mut self) -> Result<Option<Arrived>, Error> {
        let _span = tracing::trace_span!("read").entered();
        let (batch, waited) = waited_for(|| self.reader.next());
        Ok(batch?.map(|batch| Arrived {
            batch: Arc::new(batch),
            waited,
        }))
    }

    /// Gives the memory of a batch back, unless it is still in use elsewhere.
    pub(super) fn recycle(&mut self, batch: Arc<Batch>) {
        if let Ok(batch) = Arc::try_unwrap(batch) {
            self.reader.recycle(batch);
        }
    }
}

/// What `source` gives, and how long that took.
fn waited_for<T>(source: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let got = source();
    (got, began.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_that_is_held_back_is_waited_for_as_long() {
        let held_back = Duration::from_millis(20);
        let (got, waited) = waited_for(|| {
            std::thread::sleep(held_back);
            7
        });
        assert_eq!(got, 7);
        assert!(waited >= held_back, "{waited:?}");
    }
}
