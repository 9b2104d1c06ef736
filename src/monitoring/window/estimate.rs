//! Performance before labels come, from calibrated scores: a row with probability p is a positive p times, a
//! negative 1 - p times. The confidence-based estimation of NannyML
//! (<https://nannyml.readthedocs.io/en/stable/how_it_works/performance_estimation.html>) on histograms.
//!
//! It sees what changes in the inputs and not what changes in what follows from them: concept drift it cannot see.

use super::score_histogram::{LabelHistogram, ScoreHistogram, auc_of};

/// Fewer labels calibrate nothing.
pub const CALIBRATION_LABELS_MIN: u64 = 1000;

/// From scores to the rates that they had: rising steps, fitted to labelled rows (isotonic regression by pooling
/// adjacent violators).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CalibrationMap {
    /// The first bin of each step, ascending, and its rate. Empty where scores are believed.
    steps: Vec<(u16, f64)>,
    /// The labels it was fitted to.
    labels: u64,
}

/// What is expected of rows without labels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Rows.
    pub rows: u64,
    /// The area under the ROC curve; none where it is sure of all rows.
    pub auc: Option<f64>,
    /// Mean negative log likelihood, in nats.
    pub log_loss: f64,
    /// Log loss over the entropy of the expected rate.
    pub normalised_entropy: f64,
    /// The share of positives.
    pub rate: f64,
}

impl CalibrationMap {
    /// Fits rows that have labels; scores are believed where there are too few.
    pub fn fit(labelled: &LabelHistogram) -> Self {
        let labels = labelled.count();
        if labels < CALIBRATION_LABELS_MIN {
            return Self::default();
        }
        let mut blocks: Vec<(u16, f64, f64)> = Vec::new();
        for (bin, count, rate) in labelled.rates() {
            blocks.push((bin, count, rate));
            while let [.., before, last] = blocks.as_slice()
                && before.2 >= last.2
            {
                let (count, sum) = (before.1 + last.1, before.1 * before.2 + last.1 * last.2);
                let first = before.0;
                blocks.truncate(blocks.len() - 2);
                blocks.push((first, count, sum / count));
            }
        }
        let steps = blocks.iter().map(|&(bin, _, rate)| (bin, rate));
        Self {
            steps: steps.collect(),
            labels,
        }
    }

    /// The labels it was fitted to; 0 where scores are believed.
    pub fn labels(&self) -> u64 {
        self.labels
    }

    fn rate(&self, bin: u16, score: f64) -> f64 {
        let after = self.steps.partition_point(|&(first, _)| first <= bin);
        match (after.checked_sub(1), self.steps.first()) {
            (Some(place), _) => self.steps[place].1,
            (None, Some(&(_, rate))) => rate,
            (None, None) => score,
        }
    }

    /// What is expected of `scores`; none of none.
    pub fn estimate(&self, scores: &ScoreHistogram) -> Option<Estimate> {
        let rows = scores.count();
        if rows == 0 {
            return None;
        }
        let bins: Vec<(f64, f64, f64)> = scores
            .means()
            .map(|(bin, count, score)| (count, score, self.rate(bin, score)))
            .collect();
        let auc = auc_of(
            bins.iter()
                .map(|(count, _, rate)| (count * (1.0 - rate), count * rate)),
        );
        let bound = f64::from(f32::EPSILON);
        let (mut loss, mut happened) = (0.0, 0.0);
        for (count, score, rate) in bins {
            let (yes, no) = (score.max(bound).ln(), (1.0 - score).max(bound).ln());
            loss -= count * (rate * yes + (1.0 - rate) * no);
            happened += count * rate;
        }
        let (log_loss, rate) = (loss / rows as f64, happened / rows as f64);
        let xlogx = |x: f64| if x > 0.0 { x * x.ln() } else { 0.0 };
        Some(Estimate {
            rows,
            auc: auc.map(|auc| auc.auc),
            log_loss,
            normalised_entropy: log_loss / (-xlogx(rate) - xlogx(1.0 - rate)),
            rate,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::metrics::LikelihoodSums;

    fn draw(index: u64, what: u64) -> f64 {
        let bits = streamrec_artifact::key::hash(index << 8 | what);
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Scores, labels, and what the labels say; `overconfident` scores are the squares of the probabilities.
    fn rows(first: u64, overconfident: bool) -> (ScoreHistogram, LabelHistogram, LikelihoodSums) {
        let mut found = (
            ScoreHistogram::default(),
            LabelHistogram::default(),
            LikelihoodSums::default(),
        );
        for index in first..first + 60_000 {
            let p = draw(index, 1).powi(2);
            let score = if overconfident { p.sqrt() } else { p } as f32;
            let happened = draw(index, 2) < p;
            found.0.add(score);
            found.1.add(score, happened);
            found.2.add(score, happened, 1.0);
        }
        found
    }

    #[test]
    fn estimates_of_calibrated_scores_are_what_labels_say_later() {
        let (scores, labels, sums) = rows(0, false);
        let estimate = CalibrationMap::default().estimate(&scores).expect("rows");
        let measured = sums.likelihood();
        let auc = labels.auc().expect("both classes").auc;
        assert!((estimate.auc.expect("both") - auc).abs() < 0.005);
        assert!((estimate.log_loss - measured.log_loss).abs() < 0.005);
        assert!((estimate.rate - measured.base_rate).abs() < 0.005);
    }

    #[test]
    fn overconfident_scores_are_calibrated_on_earlier_labels() {
        let (_, earlier, _) = rows(0, true);
        let (scores, labels, sums) = rows(1_000_000, true);
        let believed = CalibrationMap::default().estimate(&scores).expect("rows");
        let map = CalibrationMap::fit(&earlier);
        let estimate = map.estimate(&scores).expect("rows");
        let measured = sums.likelihood();
        assert_eq!(map.labels(), 60_000);
        assert!((believed.rate - measured.base_rate).abs() > 0.1);
        assert!((estimate.rate - measured.base_rate).abs() < 0.01);
        assert!((estimate.log_loss - measured.log_loss).abs() < 0.01);
        let auc = labels.auc().expect("both classes").auc;
        assert!((estimate.auc.expect("both") - auc).abs() < 0.01);
    }
}
