//! Scores a split with the model as it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::metrics::{Metrics, Predictions, auc};
use super::{Predict, TrainError};
use crate::comm::Communicator;
use crate::data::BatchReader;

/// What an evaluation found, by label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The metrics of each label.
    pub labels: BTreeMap<String, LabelEvaluation>,
}

/// The metrics of one label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelEvaluation {
    /// What the model reached.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// The AUC of the true probabilities, where the data holds them: no model can do better, up to
    /// chance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_auc: Option<f64>,
}

/// What to evaluate beside the labels.
#[derive(Debug, Clone, Default)]
pub struct EvaluationPlan {
    /// The labels, in the order of the model's heads.
    pub labels: Vec<String>,
    /// For each label, where its true probability stands among the reader's truth columns.
    pub truths: Vec<Option<usize>>,
    /// Whether the reader has a group column.
    pub grouped: bool,
}

impl Evaluation {
    /// Scores everything that `reader` reads. `tick` is called once a batch. Collective.
    ///
    /// # Errors
    /// When a batch cannot be read or scored, or ranks cannot communicate.
    pub fn run(
        model: &mut dyn Predict,
        comm: &dyn Communicator,
        reader: &mut BatchReader,
        plan: &EvaluationPlan,
        mut tick: impl FnMut(u64),
    ) -> Result<Self, TrainError> {
        let heads = model.heads();
        let mut predictions = vec![Predictions::default(); heads];
        let mut truths = vec![Predictions::default(); heads];
        let (mut probabilities, mut rows) = (Vec::new(), 0);
        reader.start(0, 0)?;
        while let Some(batch) = reader.next()? {
            model.predict(&batch, &mut probabilities)?;
            let truth_columns = batch.truth.len() / batch.rows.max(1);
            for row in 0..batch.filled {
                let (weight, group) = (batch.weights[row], batch.groups.get(row).copied());
                for head in 0..heads {
                    let label = batch.labels[row * heads + head];
                    predictions[head].push(probabilities[row * heads + head], label, weight, group);
                    if let Some(column) = plan.truths.get(head).copied().flatten() {
                        let truth = batch.truth[row * truth_columns + column];
                        truths[head].push(truth, label, weight, None);
                    }
                }
            }
            rows += batch.filled as u64;
            reader.recycle(batch);
            tick(rows);
        }
        let mut labels = BTreeMap::new();
        for (head, label) in plan.labels.iter().enumerate() {
            let metrics = Metrics::over_ranks(comm, &predictions[head], plan.grouped)?;
            let has_truth = plan.truths.get(head).copied().flatten().is_some();
            let best_auc = if has_truth {
                Some(auc(comm, &truths[head])?)
            } else {
                None
            };
            labels.insert(label.clone(), LabelEvaluation { metrics, best_auc });
        }
        Ok(Self { labels })
    }

    /// The sum of the labels' log losses: what early stopping watches.
    pub fn loss(&self) -> f64 {
        self.labels
            .values()
            .map(|label| label.metrics.log_loss)
            .sum()
    }
}
