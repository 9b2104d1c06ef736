use std::ops::Range;
use std::sync::Arc;

use streamrec_kernels::cuda::Measured;

use super::{Predict, StepOutcome, TrainError, Trainer};
use crate::data::Batch;
use crate::model::{NamedSlice, NamedSliceMut, ParameterStore};
use crate::optim::LossScalerState;

/// What is known once a step was asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ahead {
    /// Whether any rank was asked to stop in this step.
    pub stop: bool,
    /// What the first step found that was asked for and not told of yet: this one, or the one before.
    pub outcome: Option<StepOutcome>,
}

/// A model in training, wherever it is computed.
pub trait Trainee: Predict {
    /// The parameters; their weights may be older than the model's.
    fn parameters(&self) -> &ParameterStore;

    /// The weights of the moment, to load into.
    ///
    /// # Errors
    /// When they cannot be brought to the host.
    fn parameters_mut(&mut self) -> Result<&mut ParameterStore, TrainError>;

    /// The factor on learning rates in `step`.
    fn learning_rate_factor(&self, step: u64) -> f64;

    /// Where the scaling of gradients stands, with fp16, after the step that was told of last.
    fn loss_scaler(&self) -> Option<LossScalerState>;

    /// Goes on with the scaling of gradients from a checkpoint.
    fn restore_loss_scaler(&mut self, state: LossScalerState);

    /// Weights and optimiser state of the moment, for checkpoints.
    ///
    /// # Errors
    /// When they cannot be brought to the host.
    fn named_slices(&mut self) -> Result<Vec<NamedSlice<'_>>, TrainError>;

    /// Weights and optimiser state, to restore a checkpoint into.
    ///
    /// # Errors
    /// As [`named_slices`](Self::named_slices).
    fn named_slices_mut(&mut self) -> Result<Vec<NamedSliceMut<'_>>, TrainError>;

    /// Trains on this rank's part of a global batch: see [`Trainer::step`].
    ///
    /// # Errors
    /// As there.
    fn step(
        &mut self,
        batch: &Batch,
        next: Option<&Batch>,
        step: u64,
        stop: bool,
    ) -> Result<StepOutcome, TrainError>;

    /// Likewise, but the host need not wait for the step: a device may work on it while the host tells of the one before,
    /// and every outcome comes one step late. The same weights come of it. A step that is no number is an error of that step
    /// all the same, when the next was asked for already. A thread may keep `next` until the step that is asked for after this
    /// one begins.
    ///
    /// # Errors
    /// As [`step`](Self::step), of this step or the one before.
    fn step_ahead(
        &mut self,
        batch: &Arc<Batch>,
        next: Option<&Arc<Batch>>,
        step: u64,
        stop: bool,
    ) -> Result<Ahead, TrainError> {
        let outcome = self.step(batch, next.map(Arc::as_ref), step, stop)?;
        Ok(Ahead {
            stop: outcome.stop,
            outcome: Some(outcome),
        })
    }

    /// What the first step found that was asked for and not told of yet; `None` when all were told of. Waits for it.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    fn settle(&mut self) -> Result<Option<StepOutcome>, TrainError> {
        Ok(None)
    }

    /// The probabilities that the forward pass of the step gave that was told of last: see
    /// [`Trainer::last_probabilities`]. None once the second step since was asked for.
    fn last_probabilities(&self) -> (Range<usize>, &[f32]);

    /// Begins, or ends, to measure the work of a device, piece by piece, which is slower than the steps that it records.
    /// All ranks do at the same step. Nothing on a CPU, which a [`Profile`](super::Profile) measures.
    ///
    /// # Errors
    /// When the device fails.
    fn measure_device(&mut self, _on: bool) -> Result<(), TrainError> {
        Ok(())
    }

    /// What was measured of a device since this was asked last.
    ///
    /// # Errors
    /// When the device fails.
    fn measured_on_device(&mut self) -> Result<Vec<Measured>, TrainError> {
        Ok(Vec::new())
    }
}

impl Trainee for Trainer {
    fn parameters(&self) -> &ParameterStore {
        Trainer::parameters(self)
    }

    fn parameters_mut(&mut self) -> Result<&mut ParameterStore, TrainError> {
        Ok(Trainer::parameters_mut(self))
    }

    fn learning_rate_factor(&self, step: u64) -> f64 {
        Trainer::learning_rate_factor(self, step)
    }

    fn loss_scaler(&self) -> Option<LossScalerState> {
        Trainer::loss_scaler(self)
    }

    fn restore_loss_scaler(&mut self, state: LossScalerState) {
        Trainer::restore_loss_scaler(self, state);
    }

    fn named_slices(&mut self) -> Result<Vec<NamedSlice<'_>>, TrainError> {
        Ok(Trainer::named_slices(self).collect())
    }

    fn named_slices_mut(&mut self) -> Result<Vec<NamedSliceMut<'_>>, TrainError> {
        Ok(Trainer::named_slices_mut(self).collect())
    }

    fn step(
        &mut self,
        batch: &Batch,
        next: Option<&Batch>,
        step: u64,
        stop: bool,
    ) -> Result<StepOutcome, TrainError> {
        Trainer::step(self, batch, next, step, stop)
    }

    fn last_probabilities(&self) -> (Range<usize>, &[f32]) {
        Trainer::last_probabilities(self)
    }
}
