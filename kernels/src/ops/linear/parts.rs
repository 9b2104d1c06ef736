//! How threads share the gradient of the weights.

use std::ops::Range;

use crate::simd::LANES;

/// The most rows, or columns, of the gradient that are computed together: packed, or with their sums, they almost fit a
/// second cache.
const PART: usize = 512;

/// How the weights of a layer are cut for threads. A band of rows needs all of `x`, one of columns all of `dz`: the longer
/// side is cut.
pub(super) struct Parts {
    shape: [usize; 2],
    pub(super) count: usize,
    each: usize,
    by_inputs: bool,
}

impl Parts {
    pub(super) fn new([outputs, inputs]: [usize; 2], threads: usize) -> Self {
        let by_inputs = inputs > 2 * outputs;
        let len = if by_inputs { inputs } else { outputs };
        let count = len.div_ceil(PART).next_multiple_of(threads);
        let each = len.div_ceil(count).next_multiple_of(LANES);
        Self {
            shape: [outputs, inputs],
            count: len.div_ceil(each),
            each,
            by_inputs,
        }
    }

    /// The outputs and inputs of a part.
    pub(super) fn get(&self, part: usize) -> [Range<usize>; 2] {
        let [outputs, inputs] = self.shape;
        let of = |len: usize| part * self.each..len.min((part + 1) * self.each);
        match self.by_inputs {
            true => [0..outputs, of(inputs)],
            false => [of(outputs), 0..inputs],
        }
    }
}
