//! Streaming moments: count, mean and variance in one pass, in f64.

use serde::{Deserialize, Serialize};

/// The moments of the finite numbers that were added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moments {
    count: u64,
    mean: f64,
    /// The sum of squared distances from the mean.
    squares: f64,
}

impl Moments {
    /// Adds the finite ones of `values`.
    ///
    /// Some thousands at a time are summed on their own and then merged (Chan, Golub and LeVeque, 1983), which keeps
    /// the precision of Welford's method without its division for each value.
    pub fn add<T: Copy + Into<f64>>(&mut self, values: &[T]) {
        for some in values.chunks(SUMMED_AT_ONCE) {
            let finite = |value: f64| value.abs() < f64::INFINITY;
            let count = sum(some, |value| f64::from(u8::from(finite(value))));
            if count == 0.0 {
                continue;
            }
            let mean = sum(some, |value| if finite(value) { value } else { 0.0 }) / count;
            let squares = sum(some, |value| {
                let distance = if finite(value) { value - mean } else { 0.0 };
                distance * distance
            });
            self.merge(Moments {
                count: count as u64,
                mean,
                squares,
            });
        }
    }

    /// Adds all that `other` has seen.
    pub fn merge(&mut self, other: Moments) {
        if other.count == 0 {
            return;
        }
        let count = self.count + other.count;
        let distance = other.mean - self.mean;
        let share = other.count as f64 / count as f64;
        self.squares += other.squares + distance * distance * self.count as f64 * share;
        self.mean += distance * share;
        self.count = count;
    }

    /// How many numbers.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their mean; 0 of none.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Their standard deviation (of the population); 0 of none.
    pub fn std(&self) -> f64 {
        match self.count {
            0 => 0.0,
            count => (self.squares / count as f64).sqrt(),
        }
    }
}

/// Values that stay in a core's first cache for a second look.
const SUMMED_AT_ONCE: usize = 2048;
/// Sums side by side, so that none waits for the one before.
const LANES: usize = 8;

fn sum<T: Copy + Into<f64>>(values: &[T], of: impl Fn(f64) -> f64) -> f64 {
    let (whole, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for lanes in whole {
        for (sum, &value) in sums.iter_mut().zip(lanes) {
            *sum += of(value.into());
        }
    }
    let rest: f64 = rest.iter().map(|&value| of(value.into())).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn slices_merge_into_the_moments_of_the_whole(
            values in prop::collection::vec(-1e3f32..1e3, 1..300), cut in 1usize..50,
        ) {
            let mut moments = Moments::default();
            values.chunks(cut).for_each(|slice| moments.add(slice));
            let n = values.len() as f64;
            let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            let variance = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
            prop_assert!((moments.mean() - mean).abs() < 1e-9);
            prop_assert!((moments.std() - variance.sqrt()).abs() < 1e-6);
        }
    }

    #[test]
    fn missing_numbers_are_left_out() {
        let mut moments = Moments::default();
        moments.add(&[1.0, f32::NAN, 3.0, f32::INFINITY]);
        assert_eq!(
            (moments.count(), moments.mean(), moments.std()),
            (2, 2.0, 1.0)
        );
    }
}
