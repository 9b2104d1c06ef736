//! A bounded sample of a stream: the values whose positions have the least hashes.
//!
//! Which positions are kept is a function of the positions alone, so the same data gives the same sample,
//! in whatever batches it comes.

use crate::key;

/// How many values a sample holds at most: a quantile is then within 0.2 % of its rank, mostly.
pub(crate) const CAPACITY: usize = 1 << 17;

/// A uniform sample of the values that were offered.
#[derive(Debug, Clone)]
pub(crate) struct BoundedSample<T> {
    capacity: usize,
    /// Hashes up to this are kept.
    threshold: u64,
    kept: Vec<(u64, T)>,
}

impl<T: Copy> Default for BoundedSample<T> {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl<T: Copy> BoundedSample<T> {
    fn with_capacity(capacity: usize) -> Self {
        Self {
            capacity,
            threshold: u64::MAX,
            kept: Vec::new(),
        }
    }

    /// Offers the value at `position` of the stream; positions differ.
    #[inline]
    pub(crate) fn offer(&mut self, position: u64, value: T) {
        let hash = key::hash(position);
        if hash > self.threshold {
            return;
        }
        self.kept.push((hash, value));
        while self.kept.len() > self.capacity {
            self.threshold /= 2;
            let threshold = self.threshold;
            self.kept.retain(|(hash, _)| *hash <= threshold);
        }
    }

    /// The values, in the order in which they were offered.
    pub(crate) fn values(&self) -> impl Iterator<Item = T> + '_ {
        self.kept.iter().map(|&(_, value)| value)
    }
}

impl BoundedSample<f64> {
    /// The values in ascending order.
    pub(crate) fn sorted(&self) -> Vec<f64> {
        let mut values: Vec<f64> = self.values().collect();
        values.sort_by(f64::total_cmp);
        values
    }
}

/// The value below which the share `quantile` of the ascending values lies: the nearest rank.
///
/// None of no values.
pub(crate) fn quantile(ascending: &[f64], quantile: f64) -> Option<f64> {
    let last = ascending.len().checked_sub(1)?;
    ascending
        .get(((last as f64 * quantile).round() as usize).min(last))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_bounded_and_spread_over_the_stream() {
        let mut sample = BoundedSample::with_capacity(1000);
        (0..100_000u64).for_each(|position| sample.offer(position, position as f64));
        let values = sample.sorted();
        assert!((400..=1000).contains(&values.len()), "{}", values.len());
        let median = quantile(&values, 0.5).unwrap();
        assert!((median - 50_000.0).abs() < 6_000.0, "{median}");
    }

    #[test]
    fn a_short_stream_is_kept_whole() {
        let mut sample = BoundedSample::default();
        [3.0, 1.0, 2.0]
            .into_iter()
            .zip(0..)
            .for_each(|(value, position)| sample.offer(position, value));
        assert_eq!(sample.sorted(), [1.0, 2.0, 3.0]);
        assert_eq!(quantile(&sample.sorted(), 0.5), Some(2.0));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
