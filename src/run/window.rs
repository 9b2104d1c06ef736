//! Steps between two lines of the journal.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::input::Arrived;
use crate::train::metrics::Predictions;
use crate::train::{StepOutcome, Trainee};

/// What happened since the last line of the journal.
pub(super) struct Window {
    pub(super) began: Instant,
    rows: u64,
    loss: f64,
    /// Steps whose loss was a number.
    losses: u64,
    steps: u64,
    waited: Duration,
    input_waited: Duration,
    pub(super) predictions: Predictions,
    pub(super) auc: Option<f64>,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            rows: 0,
            loss: 0.0,
            losses: 0,
            steps: 0,
            waited: Duration::ZERO,
            input_waited: Duration::ZERO,
            predictions: Predictions::default(),
            auc: None,
        }
    }
}

/// One line of the journal.
#[derive(Serialize)]
pub(super) struct TrainRecord {
    epoch: u64,
    /// Mean over the window's steps.
    loss: f64,
    /// Of the first label, over all ranks.
    auc: f64,
    samples_per_s: f64,
    learning_rate_factor: f64,
    gradient_norm: f64,
    /// Time that rank 0 waited for vectors and gradients of others, a step.
    waited_ms: f64,
    /// Time that rank 0 waited for its batch, a step: the input could not keep up.
    input_waited_ms: f64,
    /// The factor on the loss, with fp16.
    #[serde(skip_serializing_if = "Option::is_none")]
    loss_scale: Option<f64>,
    /// Steps of the run so far that updated nothing, with fp16.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped_steps: Option<u64>,
}

impl Window {
    /// Adds a step that was told of.
    pub(super) fn add(
        &mut self,
        input: &Arrived,
        outcome: &StepOutcome,
        rows: u64,
        trainer: &dyn Trainee,
    ) {
        self.rows += rows;
        self.steps += 1;
        self.waited += outcome.waited;
        self.input_waited += input.waited;
        // In fp16 a step may be skipped because its loss overflowed.
        if !outcome.loss.is_finite() {
            return;
        }
        self.loss += outcome.loss;
        self.losses += 1;
        let batch = &input.batch;
        // Of a batch worked through in pieces, these are the last piece's.
        let (heads, (rows, probabilities)) = (trainer.heads(), trainer.last_probabilities());
        for row in rows.start..rows.end.min(batch.filled) {
            let probability = probabilities[(row - rows.start) * heads];
            let (label, weight) = (batch.labels[row * heads], batch.weights[row]);
            self.predictions.push(probability, label, weight, None);
        }
    }

    /// What the journal tells of the steps up to `step`, of which `outcome` is that of the last. The next window begins.
    pub(super) fn close(
        &mut self,
        trainer: &dyn Trainee,
        outcome: &StepOutcome,
        [epoch, step]: [u64; 2],
        auc: f64,
    ) -> TrainRecord {
        let window = std::mem::take(self);
        let ms_per_step = |time: Duration| time.as_secs_f64() * 1e3 / window.steps as f64;
        self.auc = Some(auc);
        let scaler = trainer.loss_scaler();
        TrainRecord {
            epoch,
            loss: window.loss / window.losses as f64,
            auc,
            samples_per_s: window.rows as f64 / window.began.elapsed().as_secs_f64(),
            learning_rate_factor: trainer.learning_rate_factor(step),
            gradient_norm: outcome.gradient_norm,
            waited_ms: ms_per_step(window.waited),
            input_waited_ms: ms_per_step(window.input_waited),
            loss_scale: scaler.map(|scaler| scaler.scale),
            skipped_steps: scaler.map(|scaler| scaler.skipped_steps),
        }
    }
}
