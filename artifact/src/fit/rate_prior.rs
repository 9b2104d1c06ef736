//! The prior of a smoothed rate: what to believe of something that has hardly been tried.

/// How many rows of young keys it takes to trust them alone.
const YOUNG_ROWS_MIN: u64 = 100;

/// Fits the prior of `(positives + strength * prior) / (count + strength)`.
///
/// The columns are trailing counts: each row shows what its key had gathered before it, so a key that was
/// tried a thousand times appears in a thousand rows with ever larger counts. Summing them all would weigh
/// keys by the square of their popularity, and popular keys are not like new ones. The prior matters where
/// the count is small, so it is fitted there: the positives over the trials of all rows with
/// `0 < count <= strength`, where a key has at most `strength` rows (empirical Bayes at the point of use).
/// Where fewer than 100 rows are that young, it is the mean over all rows of `positives / count`.
#[derive(Debug, Clone)]
pub(crate) struct RatePrior {
    strength: f64,
    young_rows: u64,
    young_positives: f64,
    young_counts: f64,
    rows: u64,
    ratios: f64,
}

impl RatePrior {
    pub(crate) fn new(strength: f64) -> Self {
        Self {
            strength,
            young_rows: 0,
            young_positives: 0.0,
            young_counts: 0.0,
            rows: 0,
            ratios: 0.0,
        }
    }

    /// Adds a row. Rows without both numbers and rows without trials tell nothing.
    pub(crate) fn add(&mut self, positives: f32, count: f32) {
        let (positives, count) = (f64::from(positives), f64::from(count));
        if !(positives.is_finite() && count.is_finite() && count > 0.0) {
            return;
        }
        self.rows += 1;
        self.ratios += positives / count;
        if count <= self.strength {
            self.young_rows += 1;
            self.young_positives += positives;
            self.young_counts += count;
        }
    }

    /// The prior; 0 where nothing was tried.
    pub(crate) fn prior(&self) -> f64 {
        if self.young_rows >= YOUNG_ROWS_MIN {
            self.young_positives / self.young_counts
        } else if self.rows > 0 {
            self.ratios / self.rows as f64
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_popular_key_does_not_decide_the_prior() {
        let mut prior = RatePrior::new(10.0);
        // One key with a rate of 0.9 over 100,000 trials, and 200 keys with 0.1 over ten.
        (1..100_000).for_each(|count| prior.add(0.9 * count as f32, count as f32));
        (0..200)
            .for_each(|_| (1..=10).for_each(|count| prior.add(0.1 * count as f32, count as f32)));
        assert!((prior.prior() - 0.1).abs() < 0.01, "{}", prior.prior());
    }

    #[test]
    fn without_young_rows_it_is_the_mean_rate() {
        let mut prior = RatePrior::new(1.0);
        for (positives, count) in [(1.0, 10.0), (3.0, 10.0), (0.0, 0.0), (f32::NAN, 5.0)] {
            prior.add(positives, count);
        }
        assert!((prior.prior() - 0.2).abs() < 1e-7);
        assert_eq!(RatePrior::new(1.0).prior(), 0.0);
    }
}
