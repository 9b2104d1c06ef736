//! Log loss, normalised entropy and calibration, from sums that add up over batches and ranks.

use serde::{Deserialize, Serialize};

use super::Predictions;
use crate::comm::{CommError, Communicator, all_reduce_f64};

/// Weighted sums over samples, in f64.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LikelihoodSums {
    rows: f64,
    weight: f64,
    loss: f64,
    predicted: f64,
    happened: f64,
}

/// What the sums say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likelihood {
    /// Rows whose weight is above 0.
    pub rows: u64,
    /// Mean negative log likelihood, in nats.
    pub log_loss: f64,
    /// Log loss over the entropy of the base rate.
    pub normalised_entropy: f64,
    /// Sum of predictions over sum of labels.
    pub calibration: f64,
    /// Weighted share of positive labels.
    pub base_rate: f64,
}

impl LikelihoodSums {
    /// The sums over `predictions`.
    pub fn of(predictions: &Predictions) -> Self {
        let mut sums = Self::default();
        for (row, probability, happened) in predictions.counted() {
            sums.add(probability, happened, predictions.weights[row]);
        }
        sums
    }

    /// Adds a row.
    pub fn add(&mut self, probability: f32, happened: bool, weight: f32) {
        // A probability of exactly 0 or 1 that is wrong would cost infinitely much; the bound is
        // the one that scikit-learn's log_loss uses for float32. NaN stays NaN: a model that says
        // nothing about a row has no log loss.
        let bound = f64::from(f32::EPSILON);
        let (p, weight) = (f64::from(probability), f64::from(weight));
        let likelihood = if happened { p } else { 1.0 - p };
        self.rows += 1.0;
        self.weight += weight;
        let bounded = if likelihood < bound {
            bound
        } else {
            likelihood
        };
        self.loss -= weight * bounded.ln();
        self.predicted += weight * p;
        self.happened += weight * f64::from(u8::from(happened));
    }

    /// Adds the sums of other rows.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.weight += other.weight;
        self.loss += other.loss;
        self.predicted += other.predicted;
        self.happened += other.happened;
    }

    /// The sums over all ranks. Collective.
    ///
    /// # Errors
    /// When the collective fails.
    pub fn over_ranks(self, comm: &dyn Communicator) -> Result<Self, CommError> {
        let mut sums = [
            self.rows,
            self.weight,
            self.loss,
            self.predicted,
            self.happened,
        ];
        all_reduce_f64(comm, &mut sums)?;
        let [rows, weight, loss, predicted, happened] = sums;
        Ok(Self {
            rows,
            weight,
            loss,
            predicted,
            happened,
        })
    }

    /// The metrics; NaN where there is nothing to divide by.
    pub fn likelihood(&self) -> Likelihood {
        let log_loss = self.loss / self.weight;
        let base_rate = self.happened / self.weight;
        let entropy = -xlogx(base_rate) - xlogx(1.0 - base_rate);
        Likelihood {
            rows: self.rows as u64,
            log_loss,
            normalised_entropy: log_loss / entropy,
            calibration: self.predicted / self.happened,
            base_rate,
        }
    }
}

fn xlogx(x: f64) -> f64 {
    if x > 0.0 { x * x.ln() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predicting_the_base_rate_has_normalised_entropy_one_and_is_calibrated() {
        let mut predictions = Predictions::default();
        for row in 0..8 {
            predictions.push(0.25, f32::from(u8::from(row % 4 == 0)), 1.0, None);
        }
        let metrics = LikelihoodSums::of(&predictions).likelihood();
        assert!((metrics.normalised_entropy - 1.0).abs() < 1e-12);
        assert!((metrics.calibration - 1.0).abs() < 1e-12);
        assert_eq!((metrics.rows, metrics.base_rate), (8, 0.25));
    }

    #[test]
    fn a_prediction_that_is_no_number_leaves_no_log_loss() {
        let mut predictions = Predictions::default();
        predictions.push(0.5, 1.0, 1.0, None);
        predictions.push(f32::NAN, 1.0, 1.0, None);
        let metrics = LikelihoodSums::of(&predictions).likelihood();
        assert!(metrics.log_loss.is_nan() && metrics.calibration.is_nan());
    }

    #[test]
    fn weights_count_and_padding_does_not() {
        let mut predictions = Predictions::default();
        predictions.push(0.5, 1.0, 3.0, None);
        predictions.push(0.2, 0.0, 1.0, None);
        predictions.push(0.9, 0.0, 0.0, None);
        let metrics = LikelihoodSums::of(&predictions).likelihood();
        let expected = -(3.0 * 0.5f64.ln() + (1.0 - f64::from(0.2f32)).ln()) / 4.0;
        assert!((metrics.log_loss - expected).abs() < 1e-12);
        assert_eq!((metrics.rows, metrics.base_rate), (2, 0.75));
    }
}
