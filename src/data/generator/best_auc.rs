//! The best AUC that any model can reach where true probabilities are known.

/// Probabilities are counted in so many bins of equal width.
const BINS: usize = 1 << 16;

/// Sums up true probabilities in memory that does not grow.
///
/// No score ranks better than the true probability (Neyman and Pearson's lemma). Its AUC over labels
/// drawn from the probabilities is the chance that a positive drawn with weight p has a higher p than
/// a negative drawn with weight 1 - p, ties counting half. Probabilities of one bin count as ties.
#[derive(Debug, Clone)]
pub struct BestAuc {
    /// For each bin the expected positives and negatives.
    bins: Vec<[f64; 2]>,
}

impl Default for BestAuc {
    fn default() -> Self {
        Self {
            bins: vec![[0.0; 2]; BINS],
        }
    }
}

impl BestAuc {
    /// Counts a row whose label is 1 with probability `p`.
    pub fn push(&mut self, p: f32) {
        let p = f64::from(p).clamp(0.0, 1.0);
        let bin = &mut self.bins[((p * BINS as f64) as usize).min(BINS - 1)];
        bin[0] += p;
        bin[1] += 1.0 - p;
    }

    /// The best AUC; none before there is a positive and a negative.
    pub fn value(&self) -> Option<f64> {
        let mut negatives = 0.0;
        let mut positives = 0.0;
        let mut ordered = 0.0;
        for [positive, negative] in &self.bins {
            ordered += positive * (negatives + 0.5 * negative);
            negatives += negative;
            positives += positive;
        }
        let pairs = positives * negatives;
        (pairs > 0.0).then(|| ordered / pairs)
    }
}

/// The best AUC of rows whose labels are 1 with these probabilities.
pub fn best_auc(probabilities: &[f32]) -> Option<f64> {
    let mut best = BestAuc::default();
    probabilities.iter().for_each(|&p| best.push(p));
    best.value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_that_tell_all_or_nothing() {
        assert_eq!(best_auc(&[0.0, 1.0, 0.0]), Some(1.0));
        assert_eq!(best_auc(&[0.3, 0.3, 0.3]), Some(0.5));
        assert_eq!(best_auc(&[1.0, 1.0]), None);
        assert_eq!(best_auc(&[]), None);
    }

    #[test]
    fn uniform_probabilities_reach_five_sixths() {
        // The chance that x > y where x has density 2x and y has density 2(1 - y): 5/6.
        let uniform: Vec<_> = (0..100_000).map(|i| (i as f32 + 0.5) / 100_000.0).collect();
        assert!((best_auc(&uniform).unwrap() - 5.0 / 6.0).abs() < 1e-4);
    }
}
