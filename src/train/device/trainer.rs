use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use streamrec_kernels::cuda::{Executor, Measured, step::StepInput};

use super::outcomes::Outcomes;
use super::owned_lookups::OwnedLookups;
use super::predictions::Predictions;
use super::roll_call::{Report, RollCall};
use super::slots::{Next, Slots};
use super::step::DeviceStep;
use crate::config::LossScaleConfig;
use crate::data::Batch;
use crate::model::device::{RemoteInput, RemoteRoom};
use crate::model::{BatchInput, ModelError, NamedSlice, NamedSliceMut, ParameterStore};
use crate::optim::{LossScalerState, OptimError, Optimizer};
use crate::train::{Ahead, DeviceWork, StepOutcome, TrainError, Trainee};

/// Which side has the weights and the state of the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Newer {
    Host,
    Device,
    Same,
}

/// A model in training on a device, the only one or one of several ranks that share batches. It starts from the weights
/// that a [`Trainer`](crate::train::Trainer) of the same settings starts from, follows the same rules, and gives weights and
/// state back under the same names, so that checkpoints and artifacts tell nothing of the device.
pub struct DeviceTrainer<E: Executor> {
    pub(super) parameters: ParameterStore,
    pub(super) optimizer: Optimizer,
    pub(super) newer: Newer,
    pub(super) step: DeviceStep,
    pub(super) slots: Slots<E>,
    /// Of sharded tables.
    pub(super) owned: Option<OwnedLookups<E>>,
    pub(super) features: [usize; 2],
    pub(super) predictions: Predictions<E>,
    pub(super) loss_scale: LossScaleConfig,
    pub(super) scaler: Option<LossScalerState>,
    pub(super) seed: u64,
    /// That was asked for.
    pub(super) last_step: u64,
    pub(super) outcomes: Outcomes<E>,
    /// The rows of its batch that the probabilities are of which the step gave that was told of last.
    pub(super) predicted: Range<usize>,
    pub(super) ranks: RollCall,
    /// How long devices may wait for one another.
    pub(super) timeout: Duration,
    // Fields are dropped in their order: what works on memory before what holds it.
    pub(super) executor: E,
}

impl<E: Executor> DeviceTrainer<E> {
    /// Brings what the host has newer to the device.
    pub(super) fn refresh_device(&mut self) -> Result<(), TrainError> {
        if self.newer == Newer::Host {
            let (executor, step) = (&mut self.executor, &self.step);
            step.weights.upload(executor, &self.parameters)?;
            let scaling = self.scaler.map(|state| (self.loss_scale, state));
            step.optimizer.upload(executor, &self.optimizer, scaling)?;
            self.newer = Newer::Same;
        }
        Ok(())
    }

    /// Brings what the device has newer to the host.
    fn refresh_host(&mut self) -> Result<(), TrainError> {
        self.quiet()?;
        if self.newer == Newer::Device {
            let (executor, step) = (&mut self.executor, &self.step);
            step.weights.download(executor, &mut self.parameters)?;
            step.optimizer.download(executor, &mut self.optimizer)?;
            self.newer = Newer::Same;
        }
        Ok(())
    }

    pub(super) fn step_input(&self, number: u64) -> StepInput {
        let [dense, sparse] = self.optimizer.learning_rates(number);
        StepInput {
            learning_rate: dense as f32,
            sparse_learning_rate: sparse as f32,
            number,
            seed: self.seed,
        }
    }

    /// Asks for a step, and gets the next batch on its way while the device works. Returns whether any rank was asked to
    /// stop.
    fn begin_step(
        &mut self,
        batch: &Batch,
        next: Option<Next<'_>>,
        step: u64,
        stop: bool,
    ) -> Result<bool, TrainError> {
        self.last_step = step;
        self.slots.wait_for_packing()?;
        self.refresh_device()?;
        let own = (batch, self.step_input(step));
        let next = next.map(|next| (next, self.step_input(step + 1)));
        self.slots.check(batch, own.1)?;
        let own_ids = self.slots.ids(batch);
        let most = own_ids.max(next.map_or(0, |(next, _)| self.slots.ids(next.batch())));
        let of_ranks = self.ranks.arrive(Report {
            step,
            ids: most as u64,
            stop: u32::from(stop),
            ahead: u32::from(next.is_some()),
        })?;
        self.reserve(own_ids, of_ranks)?;
        let owned = self.take_owned(batch)?;
        let executor = &mut self.executor;
        self.slots.take(executor, own, owned)?;
        self.newer = Newer::Device;
        let slot = self.slots.next();
        self.slots.vacate_next(executor)?;
        if let Some(owned) = &mut self.owned {
            owned.vacate(executor, slot)?;
        }
        self.slots.run(executor, &self.step)?;
        self.ask(step, batch)?;
        if let Some(next) = next {
            self.send_ahead(next)?;
        }
        self.ranks.leave();
        let stop = self.ranks.stops()?;
        self.outcomes.note_stop(stop);
        Ok(stop)
    }

    /// Lets the device tell of the step that was asked for last.
    fn ask(&mut self, step: u64, batch: &Batch) -> Result<(), TrainError> {
        // Predictions are kept of the last micro-batch.
        let predicted = self.slots.last_rows(batch);
        let floats = predicted.len() * self.step.network.heads();
        let probabilities = (self.step.loss.probabilities, floats * size_of::<f32>());
        let parts = [self.step.optimizer.told(), probabilities];
        let asked = self
            .outcomes
            .ask(&mut self.executor, (step, predicted), &parts);
        Ok(asked.map_err(ModelError::from)?)
    }

    /// Begins to send the next batch to the device, and its ids of sharded tables through the other ranks, which is done here so
    /// that all ranks announce in the same order; so such a batch is checked here, too.
    fn send_ahead(&mut self, next: (Next<'_>, StepInput)) -> Result<(), TrainError> {
        let Some(owned) = &mut self.owned else {
            return Ok(self.slots.send_ahead(next, false)?);
        };
        let batch = next.0.batch();
        if !self.slots.fits((batch, next.1)) {
            return Ok(());
        }
        owned.announce(&BatchInput::of(&batch.encoded, self.features))?;
        self.slots.send_ahead(next, true)?;
        Ok(owned.send_ahead(self.slots.next())?)
    }

    /// Lets the device have the lookups of all ranks in the tables that it holds. Returns those of each micro-batch; none
    /// where no table is sharded.
    fn take_owned(&mut self, batch: &Batch) -> Result<Vec<RemoteInput>, TrainError> {
        let slot = self.slots.next();
        if self.owned.as_ref().is_some_and(|own| !own.is_sent(slot)) {
            // There may be no room for them yet.
            self.quiet()?;
        }
        let Some(owned) = &mut self.owned else {
            return Ok(Vec::new());
        };
        let batch = BatchInput::of(&batch.encoded, self.features);
        let (inputs, room) = owned.take(&mut self.executor, &batch, slot)?;
        self.reserve_owned(room)?;
        Ok(inputs)
    }

    pub(super) fn reserve_owned(&mut self, room: Option<RemoteRoom>) -> Result<(), TrainError> {
        if let Some(room) = room {
            self.slots.forget_recorded();
            self.predictions.forget_recorded();
            let (executor, step) = (&mut self.executor, &mut self.step);
            let store = (&self.parameters, &step.weights);
            let reserved = step.network.reserve_rows(executor, store, room.rows);
            let request = reserved.map_err(ModelError::from)?;
            let reserved = step.optimizer.reserve_owned(executor, room, request);
            reserved.map_err(ModelError::from)?;
        }
        Ok(())
    }

    /// Makes room for the ids of a batch: the same room on all ranks.
    fn reserve(&mut self, own: usize, of_ranks: usize) -> Result<(), TrainError> {
        let ids = match self.ranks.ranks() {
            1 => own.max(of_ranks),
            _ if own > of_ranks => {
                return Err(ModelError::Batch {
                    what: "the number of ids",
                    expected: format!("at most {of_ranks}, as the ranks told a step before"),
                    got: own.to_string(),
                }
                .into());
            }
            _ => of_ranks,
        };
        if self.slots.needs_room(ids) {
            self.quiet()?;
        }
        let room = self.slots.reserve(&mut self.executor, ids);
        if let Some(room) = room.map_err(ModelError::from)? {
            let optimizer = &mut self.step.optimizer;
            optimizer
                .reserve(&mut self.executor, room)
                .map_err(ModelError::from)?;
        }
        Ok(())
    }

    /// What became of the first step under way. Waits for it.
    fn tell(&mut self) -> Result<Option<StepOutcome>, TrainError> {
        let Some([step, _]) = self.outcomes.steps() else {
            return Ok(None);
        };
        let here = |own: &mut Self| own.outcomes.are_here(&mut own.executor, false);
        let told = self.wait(DeviceWork::Step(step), here);
        let told = told.and_then(|()| self.outcome());
        told.map_err(|error| {
            let error = self.explain(error, DeviceWork::Step(step));
            // A step that was asked for since is waited for, where that can end; the failure before it is what is told.
            let ends = !matches!(
                error,
                TrainError::Collective { .. } | TrainError::Stuck { .. }
            );
            if ends {
                let _ = self.quiet();
            }
            error
        })
    }

    fn outcome(&mut self) -> Result<Option<StepOutcome>, TrainError> {
        let executor = &mut self.executor;
        let taken = self.outcomes.take(executor).map_err(ModelError::from)?;
        let Some((asked, told)) = taken else {
            return Ok(None);
        };
        let verdict = &told[..self.step.optimizer.told().1];
        let verdict = self.step.optimizer.verdict(verdict);
        self.predicted = asked.predicted;
        let (number, stop, loss) = (asked.step, asked.stop, verdict.loss);
        if let Some(scaler) = &mut self.scaler {
            *scaler = verdict.scaler;
            if verdict.skipped && scaler.scale < 1.0 {
                return Err(TrainError::LossScale { step: number, loss });
            }
        } else if verdict.skipped || verdict.row_not_finite {
            return Err(match (loss.is_finite(), verdict.norm.is_finite()) {
                (false, _) => TrainError::NotFinite { step: number, loss },
                (true, false) => OptimError::NotFinite {
                    norm: verdict.norm,
                    step: number,
                }
                .into(),
                (true, true) => OptimError::RowNotFinite { step: number }.into(),
            });
        }
        Ok(Some(StepOutcome {
            loss,
            stop,
            gradient_norm: if verdict.skipped {
                f64::NAN
            } else {
                verdict.norm
            },
            skipped: verdict.skipped,
            waited: Duration::ZERO,
        }))
    }

    /// How many steps have been recorded.
    #[cfg(test)]
    pub(super) fn recorded(&self) -> usize {
        self.slots.recorded()
    }

    /// Whether the forward pass of predictions for so many samples has been.
    #[cfg(test)]
    pub(super) fn predictions_are_recorded(&self, rows: usize) -> bool {
        self.predictions.is_recorded(rows)
    }
}

impl<E: Executor> Trainee for DeviceTrainer<E> {
    fn parameters(&self) -> &ParameterStore {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> Result<&mut ParameterStore, TrainError> {
        self.refresh_host()?;
        self.newer = Newer::Host;
        Ok(&mut self.parameters)
    }

    fn learning_rate_factor(&self, step: u64) -> f64 {
        self.optimizer.schedule().factor(step)
    }

    fn loss_scaler(&self) -> Option<LossScalerState> {
        self.scaler
    }

    fn restore_loss_scaler(&mut self, state: LossScalerState) {
        if self.scaler.is_some() && self.newer != Newer::Device {
            (self.scaler, self.newer) = (Some(state), Newer::Host);
        }
    }

    fn named_slices(&mut self) -> Result<Vec<NamedSlice<'_>>, TrainError> {
        self.refresh_host()?;
        let weights = self.parameters.named_slices();
        Ok(weights.chain(self.optimizer.named_slices()).collect())
    }

    fn named_slices_mut(&mut self) -> Result<Vec<NamedSliceMut<'_>>, TrainError> {
        self.refresh_host()?;
        self.newer = Newer::Host;
        let weights = self.parameters.named_slices_mut();
        Ok(weights.chain(self.optimizer.named_slices_mut()).collect())
    }

    fn step(
        &mut self,
        batch: &Batch,
        next: Option<&Batch>,
        step: u64,
        stop: bool,
    ) -> Result<StepOutcome, TrainError> {
        let next = next.map(Next::Lent);
        let begun = self.begin_step(batch, next, step, stop);
        begun.map_err(|error| self.explain(error, DeviceWork::Step(step)))?;
        let mut outcome = None;
        while let Some(told) = self.settle()? {
            outcome = Some(told);
        }
        Ok(outcome.expect("the step was asked for"))
    }

    fn step_ahead(
        &mut self,
        batch: &Arc<Batch>,
        next: Option<&Arc<Batch>>,
        step: u64,
        stop: bool,
    ) -> Result<Ahead, TrainError> {
        let next = next.map(Next::Shared);
        let begun = self.begin_step(batch, next, step, stop);
        let stop = begun.map_err(|error| self.explain(error, DeviceWork::Step(step)))?;
        let outcome = match self.outcomes.is_ahead() {
            true => self.tell()?,
            false => None,
        };
        Ok(Ahead { stop, outcome })
    }

    fn settle(&mut self) -> Result<Option<StepOutcome>, TrainError> {
        self.tell()
    }

    fn last_probabilities(&self) -> (Range<usize>, &[f32]) {
        let told = self.outcomes.last(&self.executor);
        match told.get(self.step.optimizer.told().1..) {
            Some(probabilities) => (self.predicted.clone(), bytemuck::cast_slice(probabilities)),
            None => (0..0, &[]),
        }
    }

    fn measure_device(&mut self, on: bool) -> Result<(), TrainError> {
        self.quiet()?;
        self.slots.piece_by_piece = on;
        Ok(self.executor.measure(on).map_err(ModelError::from)?)
    }

    fn measured_on_device(&mut self) -> Result<Vec<Measured>, TrainError> {
        self.quiet()?;
        Ok(self.executor.measured().map_err(ModelError::from)?)
    }
}
