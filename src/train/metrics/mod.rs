//! How good predictions are, over all ranks: exact AUC, AUC per group, log loss, normalised
//! entropy, calibration. Rows of weight 0 (padding) do not count.

mod auc;
mod grouped_auc;
mod likelihood;

pub use auc::auc;
pub use grouped_auc::{GroupedAuc, grouped_auc};
pub use likelihood::{Likelihood, LikelihoodSums};

use serde::{Deserialize, Serialize};

use crate::comm::{CommError, Communicator};

/// What a model said of some samples, and what happened, for one label. All of `[rows]`.
#[derive(Debug, Clone, Default)]
pub struct Predictions {
    /// Predicted probabilities.
    pub probabilities: Vec<f32>,
    /// 1 where it happened, else 0.
    pub labels: Vec<f32>,
    /// Sample weights; they weigh the likelihood, and AUC counts rows whose weight is above 0.
    pub weights: Vec<f32>,
    /// The group of each row; empty where no group is named.
    pub groups: Vec<u64>,
}

impl Predictions {
    /// Appends one row.
    pub fn push(&mut self, probability: f32, label: f32, weight: f32, group: Option<u64>) {
        self.probabilities.push(probability);
        self.labels.push(label);
        self.weights.push(weight);
        self.groups.extend(group);
    }

    /// Rows that count: `(row, probability, happened)`.
    fn counted(&self) -> impl Iterator<Item = (usize, f32, bool)> + '_ {
        (0..self.probabilities.len())
            .filter(|&row| self.weights[row] > 0.0)
            .map(|row| (row, self.probabilities[row], self.labels[row] > 0.5))
    }
}

/// The metrics of one label over all ranks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Rows that counted.
    pub rows: u64,
    /// Exact area under the ROC curve; 0.5 where only one class is there.
    pub auc: f64,
    /// AUC per group, where a group is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gauc: Option<f64>,
    /// Mean negative log likelihood, in nats.
    pub log_loss: f64,
    /// Log loss over the entropy of the base rate (He et al., ADKDD 2014, section 3); below 1 is
    /// better than always predicting the base rate.
    pub normalised_entropy: f64,
    /// Sum of predictions over sum of labels; 1 is calibrated.
    pub calibration: f64,
    /// Share of positive labels.
    pub base_rate: f64,
}

impl Metrics {
    /// The metrics of `local` together with what the other ranks hold. Collective: every rank
    /// calls it with the same `grouped`, and every rank gets the same result.
    ///
    /// # Errors
    /// When a collective fails.
    pub fn over_ranks(
        comm: &dyn Communicator,
        local: &Predictions,
        grouped: bool,
    ) -> Result<Self, CommError> {
        let likelihood = LikelihoodSums::of(local).over_ranks(comm)?.likelihood();
        let grouped = if grouped {
            grouped_auc(comm, local)?
        } else {
            None
        };
        Ok(Self {
            rows: likelihood.rows,
            auc: auc(comm, local)?,
            gauc: grouped.map(|g| g.auc),
            log_loss: likelihood.log_loss,
            normalised_entropy: likelihood.normalised_entropy,
            calibration: likelihood.calibration,
            base_rate: likelihood.base_rate,
        })
    }
}

/// Maps a float to an integer of the same order; -0 and +0 are equal, NaN sorts last.
fn ordered(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_floats_is_kept() {
        let sorted = [
            f32::NEG_INFINITY,
            -2.0,
            -1e-30,
            0.0,
            1e-30,
            0.5,
            1.0,
            f32::INFINITY,
        ];
        for pair in sorted.windows(2) {
            assert!(ordered(pair[0]) < ordered(pair[1]), "{pair:?}");
        }
        assert_eq!(ordered(-0.0), ordered(0.0));
        assert!(ordered(f32::NAN) > ordered(f32::INFINITY));
    }
}
