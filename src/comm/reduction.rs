//! Sums and maxima over the values of several ranks, in an order that depends on the ranks alone.

use std::ops::Range;

use super::ReduceOp;

/// The most values that one call of [`reduce`] combines: those of several ranks fit in the cache.
pub(super) const MAX_LEN: usize = 4096;

/// Combines the values of some ranks into `result`, at most [`MAX_LEN`] of them.
pub(super) fn reduce<'a>(
    op: ReduceOp,
    values: &impl Fn(usize) -> &'a [f32],
    ranks: Range<usize>,
    result: &mut [f32],
) {
    if op != ReduceOp::TreeSum || ranks.len() <= 2 {
        for rank in ranks.clone() {
            fold(op, rank == ranks.start, result, values(rank));
        }
        return;
    }
    let middle = ranks.start + ranks.len() / 2;
    reduce(op, values, ranks.start..middle, result);
    let mut right = [0.0; MAX_LEN];
    let right = &mut right[..result.len()];
    reduce(op, values, middle..ranks.end, right);
    fold(op, false, result, right);
}

/// Combines `values` into `result`, or copies them if they are the `first`.
fn fold(op: ReduceOp, is_first: bool, result: &mut [f32], values: &[f32]) {
    if is_first {
        result.copy_from_slice(values);
        return;
    }
    let pairs = result.iter_mut().zip(values);
    match op {
        ReduceOp::Sum | ReduceOp::TreeSum => pairs.for_each(|(result, value)| *result += value),
        ReduceOp::Max => pairs.for_each(|(result, value)| {
            let keeps = *result > *value || result.is_nan();
            *result = if keeps { *result } else { *value };
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_keeps_nan_from_any_rank() {
        for values in [[f32::NAN, 1.0], [1.0, f32::NAN]] {
            let mut result = [0.0];
            fold(ReduceOp::Max, true, &mut result, &values[..1]);
            fold(ReduceOp::Max, false, &mut result, &values[1..]);
            assert!(result[0].is_nan());
        }
        let mut result = [-3.0, 5.0];
        fold(ReduceOp::Max, false, &mut result, &[-2.0, 4.0]);
        assert_eq!(result, [-2.0, 5.0]);
    }

    #[test]
    fn a_tree_sum_adds_by_halves() {
        // 1 is lost when it is added to 2^24 alone, and counts when two of them meet first.
        let ranks = [[16_777_216.0], [0.0], [1.0], [1.0]];
        let sum = |op| {
            let mut result = [0.0];
            reduce(op, &|rank: usize| &ranks[rank][..], 0..4, &mut result);
            result[0]
        };
        assert_eq!(sum(ReduceOp::Sum), 16_777_216.0);
        assert_eq!(sum(ReduceOp::TreeSum), 16_777_218.0);
    }
}
