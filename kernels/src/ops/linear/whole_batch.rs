//! The gradient of the weights as a sum over the whole batch, or over either half of it.

use std::ops::Range;

use super::parts::Parts;

/// Weights from which on the gradient is such a sum, where parts of it are summed in the same order: pieces need memory
/// and a pass over it.
const WEIGHTS: usize = 1 << 14;
/// Half a batch is a multiple of so many samples: blocks of products are whole.
const HALF_ROWS: usize = 256;

/// How the gradient is cut into tasks. Each sum is taken in an order that threads do not change: that of the batch where one
/// side of the weights is much longer, which threads share; else that of either half, of which two threads take one each,
/// since a part of the weights would need all of `x` or all of `dz`.
pub(super) struct WholeBatch {
    batch: usize,
    /// Samples of the first half; the whole batch where it is not cut.
    half: usize,
    parts: Parts,
}

impl WholeBatch {
    /// Of weights `[outputs, inputs]`; none where pieces cost less.
    pub(super) fn new(shape: [usize; 2], batch: usize, threads: usize) -> Option<Self> {
        let [outputs, inputs] = shape;
        if outputs * inputs < WEIGHTS {
            return None;
        }
        let half = batch.div_ceil(2).next_multiple_of(HALF_ROWS);
        let is_long = inputs > 2 * outputs || outputs > 2 * inputs;
        Some(match half >= batch || is_long {
            true => Self {
                batch,
                half: batch,
                parts: Parts::new(shape, threads),
            },
            false => Self {
                batch,
                half,
                parts: Parts::new(shape, threads.div_ceil(2)),
            },
        })
    }

    /// Whether the halves of the batch have sums of their own.
    pub(super) fn halves(&self) -> bool {
        self.half < self.batch
    }

    pub(super) fn tasks(&self) -> usize {
        match self.halves() {
            true => 2 * self.parts.count,
            false => self.parts.count,
        }
    }

    /// The half to which a task belongs, its samples, and the outputs and inputs that it computes.
    pub(super) fn task(&self, task: usize) -> (usize, Range<usize>, [Range<usize>; 2]) {
        let (half, part) = (task / self.parts.count, task % self.parts.count);
        let samples = match half {
            0 => 0..self.half,
            _ => self.half..self.batch,
        };
        (half, samples, self.parts.get(part))
    }
}
