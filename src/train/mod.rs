//! Training: the step, evaluation, metrics, and what a run shows of itself.
//!
//! Never does: write checkpoints or artifacts, or decide when; `run` wires those in.

mod device;
mod error;
mod evaluation;
mod journal;
pub mod metrics;
mod predictor;
mod probe;
mod profile;
mod progress;
mod tensorboard;
mod trainee;
mod trainer;

pub use device::{DeviceTrainer, Difference, SelfCheck, SelfCheckError};
pub use error::{DeviceWork, TrainError};
pub use evaluation::{Evaluation, EvaluationPlan, LabelEvaluation};
pub use journal::Journal;
pub use predictor::{Predict, Predictor};
pub use probe::operation_times;
pub use profile::{Profile, ProfileReport, Recorder};
pub use progress::Progress;
pub use trainee::{Ahead, Trainee};
pub use trainer::{StepOutcome, Trainer, TrainerSettings};

#[cfg(test)]
mod tests;
