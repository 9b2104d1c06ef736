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
    /// Each slice is summed on its own and then merged (Chan, Golub and LeVeque, 1983), which keeps the
    /// precision of Welford's method without its division for each value.
    pub fn add<T: Copy + Into<f64>>(&mut self, values: &[T]) {
        let finite = || {
            values
                .iter()
                .map(|&value| value.into())
                .filter(|value: &f64| value.is_finite())
        };
        let count = finite().count() as u64;
        if count == 0 {
            return;
        }
        let mean = finite().sum::<f64>() / count as f64;
        let squares = finite().map(|value| (value - mean) * (value - mean)).sum();
        self.merge(Moments {
            count,
            mean,
            squares,
        });
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
