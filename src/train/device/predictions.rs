use streamrec_kernels::Context;
use streamrec_kernels::cuda::{DeviceError, Executor, Group, Matrix};

use super::slots::{host_input, record};
use super::step::DeviceStep;
use super::trainer::DeviceTrainer;
use crate::data::Batch;
use crate::model::{
    BatchInput, ModelError,
    device::{DeviceInput, HostInput, InputLayout, InputSlot, RemoteInput},
};
use crate::train::{DeviceWork, Predict, TrainError};

/// What predictions work with: a place for a batch, the forward pass that was recorded, and where logits come to.
pub(super) struct Predictions<E: Executor> {
    context: Context,
    /// Without room for ids: that is the slot's.
    layout: InputLayout,
    /// With the ids that it has room for.
    slot: Option<(usize, InputSlot<E::Feed>)>,
    reply: E::Reply,
    recorded: Option<Recorded<E>>,
    /// The samples of the last pass that was asked for piece by piece.
    warm: Option<usize>,
}

/// A forward pass over so many samples.
struct Recorded<E: Executor> {
    rows: usize,
    graph: E::Graph,
    logits: Matrix,
}

impl<E: Executor> Predictions<E> {
    /// Of batches of a layout.
    pub(super) fn new(
        executor: &mut E,
        context: &Context,
        layout: InputLayout,
    ) -> Result<Self, DeviceError> {
        let logits = layout.rows * layout.labels * size_of::<f32>();
        Ok(Self {
            context: context.clone(),
            layout,
            slot: None,
            reply: executor.reply(logits)?,
            recorded: None,
            warm: None,
        })
    }

    /// Predicts on other memory from now on.
    pub(super) fn forget_recorded(&mut self) {
        self.recorded = None;
    }

    /// Lets the device have a batch that was checked. `ids` are those of the largest batch of all ranks, so that all make
    /// room, and record anew, at the same time.
    fn take(
        &mut self,
        executor: &mut E,
        input: &HostInput<'_>,
        (ids, remote): (usize, Option<RemoteInput>),
    ) -> Result<DeviceInput, ModelError> {
        if self.slot.as_ref().is_none_or(|(room, _)| *room < ids) {
            let layout = InputLayout {
                ids: ids + ids / 4,
                ..self.layout.clone()
            };
            let slot = InputSlot::new(executor, &layout)?;
            (self.slot, self.recorded) = (Some((layout.ids, slot)), None);
        }
        let (_, slot) = self.slot.as_mut().expect("it was made above");
        slot.vacate(executor)?;
        slot.send(&self.context, input)?;
        slot.receive(executor)?;
        Ok(DeviceInput {
            remote,
            ..slot.input(input.rows)
        })
    }

    /// Asks for the logits: piece by piece the first time for so many samples, else as it was recorded.
    fn run(
        &mut self,
        executor: &mut E,
        step: &DeviceStep,
        input: &DeviceInput,
        piece_by_piece: bool,
    ) -> Result<(), TrainError> {
        let (network, weights, rows) = (&step.network, &step.weights, input.bags.batch);
        let logits = if piece_by_piece || self.warm != Some(rows) {
            self.warm = Some(rows);
            network.forward(executor, weights, input)?
        } else {
            if self
                .recorded
                .as_ref()
                .is_none_or(|known| known.rows != rows)
            {
                let mut logits = None;
                let graph = record(executor, |executor| {
                    logits = Some(network.forward(executor, weights, input)?);
                    Ok(())
                })?;
                self.recorded = logits.map(|logits| Recorded {
                    rows,
                    graph,
                    logits,
                });
            }
            let recorded = self.recorded.as_ref().expect("it was recorded above");
            executor.replay(&recorded.graph).map_err(ModelError::from)?;
            recorded.logits
        };
        let bytes = rows * network.heads() * size_of::<f32>();
        let asked = executor.ask(&mut self.reply, &[(logits.address, bytes)]);
        Ok(asked.map_err(ModelError::from)?)
    }

    #[cfg(test)]
    pub(super) fn is_recorded(&self, rows: usize) -> bool {
        self.recorded
            .as_ref()
            .is_some_and(|known| known.rows == rows)
    }
}

impl<E: Executor> DeviceTrainer<E> {
    /// Whether devices exchange something in a forward pass.
    fn predicts_together(&self) -> bool {
        self.owned.is_some() || self.executor.rank(Group::TensorParallel)[1] > 1
    }

    fn predict_batch(
        &mut self,
        batch: &Batch,
        probabilities: &mut Vec<f32>,
    ) -> Result<(), TrainError> {
        self.quiet()?;
        self.refresh_device()?;
        let input = HostInput {
            labels: &[],
            weights: &[],
            ..host_input(batch, self.step_input(1))
        };
        let predictions = &self.predictions;
        predictions.layout.check_on(&predictions.context, &input)?;
        let (together, mut ids) = (self.predicts_together(), input.ids.len());
        if together {
            ids = self.ranks.arrive_to_predict(self.last_step, ids)?;
        }
        let mut remote = None;
        if let Some(lookups) = &mut self.owned {
            let batch = BatchInput::of(&batch.encoded, self.features);
            let (asked, room) = lookups.take_to_predict(&mut self.executor, &batch)?;
            remote = asked;
            self.reserve_owned(room)?;
        }
        let (executor, step) = (&mut self.executor, &self.step);
        let predictions = &mut self.predictions;
        let input = predictions.take(executor, &input, (ids, remote))?;
        predictions.run(executor, step, &input, self.slots.piece_by_piece)?;
        if together {
            self.ranks.leave();
            let after = self.last_step;
            let here = |own: &mut Self| own.executor.has_come(&own.predictions.reply);
            self.wait(DeviceWork::Evaluation { after }, here)?;
        }
        let executor = &mut self.executor;
        let logits = executor
            .read(&mut self.predictions.reply)
            .map_err(ModelError::from)?;
        self.step.network.scores(logits, probabilities);
        Ok(())
    }
}

impl<E: Executor> Predict for DeviceTrainer<E> {
    fn heads(&self) -> usize {
        self.step.network.heads()
    }

    fn predict(&mut self, batch: &Batch, probabilities: &mut Vec<f32>) -> Result<(), TrainError> {
        let after = self.last_step;
        self.predict_batch(batch, probabilities)
            .map_err(|error| self.explain(error, DeviceWork::Evaluation { after }))
    }
}
