//! Histograms of scores that merge, and the ranking quality that follows from them.
//!
//! A bin is the upper 16 bits of a score's 32: 128 bins an octave, so that small probabilities are told apart as
//! well as great ones. Scores of one bin count as ties, and how much that can matter is told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Scores of rows whose labels are not known.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ScoreHistogram {
    /// Of each bin, its rows and the sum of their scores.
    bins: BTreeMap<u16, (u64, f64)>,
}

/// Scores of rows whose labels are known.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LabelHistogram {
    /// Of each bin, its negatives and positives.
    bins: BTreeMap<u16, (u64, u64)>,
}

/// An area under the ROC curve from a histogram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BinnedAuc {
    /// The area, scores of one bin counting as ties.
    pub auc: f64,
    /// How far the area of the scores themselves may be from it.
    pub error: f64,
}

fn bin(score: f32) -> Option<u16> {
    // Bits of numbers that are not negative are in the order of the numbers. Adding 0 drops the sign of -0.
    (score >= 0.0 && score.is_finite()).then(|| ((score + 0.0).to_bits() >> 16) as u16)
}

impl ScoreHistogram {
    /// Adds a score; what is no probability is left out.
    pub fn add(&mut self, score: f32) {
        if let Some(bin) = bin(score) {
            let (count, sum) = self.bins.entry(bin).or_default();
            *count += 1;
            *sum += f64::from(score);
        }
    }

    /// Adds all that `other` has.
    pub fn merge(&mut self, other: &Self) {
        for (&bin, (count, sum)) in &other.bins {
            let own = self.bins.entry(bin).or_default();
            *own = (own.0 + count, own.1 + sum);
        }
    }

    /// Its scores.
    pub fn count(&self) -> u64 {
        self.bins.values().map(|(count, _)| count).sum()
    }

    /// Of each bin, ascending: the bin, its rows and their mean score.
    pub(super) fn means(&self) -> impl Iterator<Item = (u16, f64, f64)> + '_ {
        let bins = self.bins.iter();
        bins.map(|(&bin, &(count, sum))| (bin, count as f64, sum / count as f64))
    }
}

impl LabelHistogram {
    /// Adds a score and whether it happened.
    pub fn add(&mut self, score: f32, happened: bool) {
        if let Some(bin) = bin(score) {
            let (negatives, positives) = self.bins.entry(bin).or_default();
            *(if happened { positives } else { negatives }) += 1;
        }
    }

    /// Adds all that `other` has.
    pub fn merge(&mut self, other: &Self) {
        for (&bin, (negatives, positives)) in &other.bins {
            let own = self.bins.entry(bin).or_default();
            *own = (own.0 + negatives, own.1 + positives);
        }
    }

    /// Its rows.
    pub fn count(&self) -> u64 {
        self.bins
            .values()
            .map(|(negatives, positives)| negatives + positives)
            .sum()
    }

    /// The area under the ROC curve; none where a class is missing.
    pub fn auc(&self) -> Option<BinnedAuc> {
        let bins = self.bins.values();
        auc_of(bins.map(|&(negatives, positives)| (negatives as f64, positives as f64)))
    }

    /// Of each bin, ascending: the bin, its rows and the share that happened.
    pub(super) fn rates(&self) -> impl Iterator<Item = (u16, f64, f64)> + '_ {
        self.bins.iter().map(|(&bin, &(negatives, positives))| {
            let count = (negatives + positives) as f64;
            (bin, count, positives as f64 / count)
        })
    }
}

/// The area of bins of `(negatives, positives)`, ascending by score.
pub(super) fn auc_of(bins: impl Iterator<Item = (f64, f64)>) -> Option<BinnedAuc> {
    let (mut wins, mut ties, mut below, mut happened) = (0.0, 0.0, 0.0, 0.0);
    for (negatives, positives) in bins {
        wins += positives * (below + negatives / 2.0);
        ties += positives * negatives / 2.0;
        below += negatives;
        happened += positives;
    }
    let pairs = below * happened;
    (pairs > 0.0).then(|| BinnedAuc {
        auc: wins / pairs,
        error: ties / pairs,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::comm::SingleRank;
    use crate::train::metrics::{Predictions, auc};

    proptest! {
        #[test]
        fn the_exact_area_lies_within_the_told_error_also_after_merges(
            rows in prop::collection::vec((0.0f32..1.0, any::<bool>()), 2..400), cut in 1usize..100,
        ) {
            let mut exact = Predictions::default();
            let mut merged = LabelHistogram::default();
            for part in rows.chunks(cut) {
                let mut histogram = LabelHistogram::default();
                for &(score, happened) in part {
                    exact.push(score, f32::from(u8::from(happened)), 1.0, None);
                    histogram.add(score, happened);
                }
                merged.merge(&histogram);
            }
            if let Some(found) = merged.auc() {
                let exact = auc(&SingleRank, &exact).expect("one rank");
                prop_assert!((found.auc - exact).abs() <= found.error + 1e-12);
                prop_assert_eq!(merged.count(), rows.len() as u64);
            }
        }
    }

    #[test]
    fn ten_thousand_scores_leave_an_error_below_a_hundredth() {
        let mut histogram = LabelHistogram::default();
        for index in 0..10_000u64 {
            let draw = |what| {
                let bits = streamrec_artifact::key::hash(index << 8 | what);
                (bits >> 11) as f64 / (1u64 << 53) as f64
            };
            let score = draw(1).powi(3);
            histogram.add(score as f32, draw(2) < score);
        }
        let found = histogram.auc().expect("both classes");
        assert!(found.error < 0.01, "{found:?}");
        let json = serde_json::to_string(&histogram).expect("JSON");
        assert_eq!(
            serde_json::from_str::<LabelHistogram>(&json).expect("the same"),
            histogram
        );
    }
}
