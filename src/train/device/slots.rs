use streamrec_kernels::cuda::{DeviceError, Executor, step::StepInput};

use super::step::DeviceStep;
use crate::data::{Batch, Position};
use crate::model::{
    ModelError,
    device::{DeviceInput, HostInput, InputLayout, InputSlot},
};
use crate::train::TrainError;

/// Ids are given room in multiples of this.
const IDS_STEP: usize = 2048;

/// What tells whether the batch that was sent ahead is the one that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sent {
    position: Position,
    first_row: u64,
    rows: usize,
    ids: usize,
    step: u64,
}

impl Sent {
    fn new(batch: &Batch, step: u64) -> Self {
        Self {
            position: batch.position,
            first_row: batch.first_row,
            rows: batch.rows,
            ids: batch.encoded.ids.len(),
            step,
        }
    }
}

/// Two places for batches, so that one is filled while the other is worked on, with the step that was recorded
/// for each.
pub(super) struct Slots<E: Executor> {
    layout: InputLayout,
    slots: Vec<InputSlot<E::Feed>>,
    /// The step on each slot, with the rows of its batch.
    graphs: [Option<(usize, E::Graph)>; 2],
    /// The slot that was filled ahead.
    ahead: Option<(usize, Sent)>,
    /// The slot of the last step.
    last: usize,
    /// Whether a step was taken piece by piece.
    warm: bool,
}

impl<E: Executor> Slots<E> {
    /// Without room for ids yet.
    pub(super) fn new(layout: InputLayout) -> Self {
        Self {
            layout,
            slots: Vec::new(),
            graphs: [None, None],
            ahead: None,
            last: 0,
            warm: false,
        }
    }

    /// Makes room for batches of so many ids. Returns for how many there is, where that is new.
    ///
    /// # Errors
    /// When the device has not so much memory.
    pub(super) fn reserve(
        &mut self,
        executor: &mut E,
        ids: usize,
    ) -> Result<Option<usize>, DeviceError> {
        if !self.slots.is_empty() && ids <= self.layout.ids {
            return Ok(None);
        }
        // Bags of other batches may be longer; memory that is given back is not used again.
        let ids = (ids + ids / 4).next_multiple_of(IDS_STEP).max(IDS_STEP);
        self.layout.ids = ids;
        executor.synchronize()?;
        (self.graphs, self.ahead) = ([None, None], None);
        self.slots.clear();
        for _ in 0..2 {
            self.slots.push(InputSlot::new(executor, &self.layout)?);
        }
        Ok(Some(ids))
    }

    /// Checks a batch.
    ///
    /// # Errors
    /// When it does not fit.
    pub(super) fn check(&self, batch: &Batch, step: StepInput) -> Result<(), ModelError> {
        self.layout.check(&host_input(batch, step))
    }

    /// Lets the device have a batch, and begins to send the one after it.
    ///
    /// # Errors
    /// When the device fails.
    pub(super) fn take(
        &mut self,
        executor: &mut E,
        (batch, step): (&Batch, StepInput),
        next: Option<(&Batch, StepInput)>,
    ) -> Result<DeviceInput, DeviceError> {
        let sent = Sent::new(batch, step.number);
        let slot = match self.ahead.take() {
            Some((slot, known)) if known == sent => slot,
            _ => {
                let slot = 1 - self.last;
                self.slots[slot].send(executor, &host_input(batch, step))?;
                slot
            }
        };
        self.slots[slot].receive(executor)?;
        self.last = slot;
        // One for which there is no room yet is sent when its step comes.
        let fits = |next: &Batch| next.encoded.ids.len() <= self.layout.ids;
        if let Some((next, step)) = next.filter(|(next, _)| fits(next)) {
            self.slots[1 - slot].send(executor, &host_input(next, step))?;
            self.ahead = Some((1 - slot, Sent::new(next, step.number)));
        }
        Ok(self.slots[slot].input(batch.rows))
    }

    /// Runs a step on the input that was taken last: piece by piece the first time, else as it was recorded.
    ///
    /// # Errors
    /// When the device fails.
    pub(super) fn run(
        &mut self,
        executor: &mut E,
        step: &DeviceStep,
        input: &DeviceInput,
    ) -> Result<(), TrainError> {
        if !self.warm {
            step.run(executor, input)?;
            self.warm = true;
            return Ok(());
        }
        let rows = input.bags.batch;
        let slot = &mut self.graphs[self.last];
        if slot.as_ref().is_none_or(|(of, _)| *of != rows) {
            *slot = Some((rows, record(executor, step, input)?));
        }
        match slot {
            Some((_, graph)) => Ok(executor.replay(graph).map_err(ModelError::from)?),
            None => Ok(()),
        }
    }

    /// How many slots have a recorded step.
    #[cfg(test)]
    pub(super) fn recorded(&self) -> usize {
        self.graphs.iter().flatten().count()
    }
}

fn record<E: Executor>(
    executor: &mut E,
    step: &DeviceStep,
    input: &DeviceInput,
) -> Result<E::Graph, TrainError> {
    let mut failure = None;
    let graph = executor.record(&mut |executor| match step.run(executor, input) {
        Ok(()) => Ok(()),
        Err(error) => {
            failure = Some(error);
            Err(DeviceError::Recording { call: "this step" })
        }
    });
    match (graph, failure) {
        (_, Some(error)) => Err(error),
        (Err(error), None) => Err(ModelError::from(error).into()),
        (Ok(graph), None) => Ok(graph),
    }
}

/// What the device is sent of a batch.
pub(super) fn host_input(batch: &Batch, step: StepInput) -> HostInput<'_> {
    HostInput {
        rows: batch.rows,
        dense: &batch.encoded.dense,
        ids: &batch.encoded.ids,
        offsets: &batch.encoded.offsets,
        labels: &batch.labels,
        weights: &batch.weights,
        weight_sum: batch.weight_sum,
        step,
    }
}
