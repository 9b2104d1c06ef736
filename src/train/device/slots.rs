use std::ops::Range;
use std::sync::Arc;

use streamrec_kernels::Context;
use streamrec_kernels::cuda::{DeviceError, Executor, step::StepInput};

use super::packing::{Job, Packer, PackingThread};
use super::step::DeviceStep;
use crate::data::{Batch, Position};
use crate::model::{
    BatchInput, MicroBatch, ModelError,
    device::{DeviceInput, HostInput, InputLayout, InputSlot, RemoteInput},
};
use crate::parallel::MicroShards;
use crate::train::TrainError;

/// Ids are given room in multiples of this.
const IDS_STEP: usize = 256;

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

/// The batch behind the one of a step.
#[derive(Debug, Clone, Copy)]
pub(super) enum Next<'a> {
    /// For the time of a call.
    Lent(&'a Batch),
    /// So that another thread may read it.
    Shared(&'a Arc<Batch>),
}

impl<'a> Next<'a> {
    pub(super) fn batch(self) -> &'a Batch {
        match self {
            Self::Lent(batch) => batch,
            Self::Shared(batch) => batch,
        }
    }
}

/// How batches come to the device.
#[derive(Debug, Clone)]
pub(super) struct Cut {
    /// The micro-batches of each.
    pub(super) pieces: MicroShards,
    /// Dense and categorical features.
    pub(super) features: [usize; 2],
    pub(super) labels: usize,
}

impl Cut {
    /// The samples of a micro-batch, padding included, so that each has the same number in every step.
    fn rows(&self, piece: usize, rows: usize) -> Range<usize> {
        self.pieces.rows(piece, rows, rows)
    }

    /// Whether there is one, of all samples.
    fn is_whole(&self, rows: usize) -> bool {
        self.pieces.count() == 1 && self.rows(0, rows) == (0..rows)
    }

    /// The most ids of a micro-batch.
    pub(super) fn ids(&self, batch: &Batch) -> usize {
        let (rows, offsets) = (batch.rows, &batch.encoded.offsets);
        let of_piece = |piece| {
            let range = self.rows(piece, rows);
            let ids = |feature: usize| {
                let at = |row| offsets.get(feature * rows + row).copied().unwrap_or(0);
                (at(range.end) - at(range.start)).max(0) as usize
            };
            (0..self.features[1]).map(ids).sum()
        };
        match self.is_whole(rows) {
            // Ids that no bag holds are copied too.
            true => batch.encoded.ids.len(),
            false => (0..self.pieces.count()).map(of_piece).max().unwrap_or(0),
        }
    }

    /// Hands over what the device is sent of each micro-batch.
    pub(super) fn each(
        &self,
        (batch, step): (&Batch, StepInput),
        buffer: &mut MicroBatch,
        mut work: impl FnMut(usize, &HostInput<'_>) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        if self.is_whole(batch.rows) {
            return work(0, &host_input(batch, step));
        }
        let dense = self.features[0];
        let whole = BatchInput::of(&batch.encoded, self.features);
        for piece in 0..self.pieces.count() {
            let rows = self.rows(piece, batch.rows);
            let input = buffer.cut(&whole, rows.clone());
            let wide = |width: usize| rows.start * width..rows.end * width;
            work(
                piece,
                &HostInput {
                    rows: rows.len(),
                    dense: &batch.encoded.dense[wide(dense)],
                    ids: input.bags.ids,
                    offsets: input.bags.offsets,
                    labels: &batch.labels[wide(self.labels)],
                    weights: &batch.weights[rows.clone()],
                    weight_sum: batch.weight_sum,
                    step,
                },
            )?;
        }
        Ok(())
    }
}

/// Two places for batches, so that one is filled while the other is worked on, with the step that was recorded
/// for each.
pub(super) struct Slots<E: Executor> {
    layout: InputLayout,
    cut: Arc<Cut>,
    /// Packs what this thread packs.
    packer: Packer,
    /// Packs batches ahead; there from the first one on.
    thread: Option<PackingThread<E::Feed>>,
    /// The slot that the thread has, which is empty here meanwhile, and the batch for it.
    packing: Option<(usize, Sent)>,
    /// The micro-batches that were taken last.
    inputs: Vec<DeviceInput>,
    /// Of each place, those of the micro-batches.
    slots: Vec<Vec<InputSlot<E::Feed>>>,
    /// The step on each slot, with the rows of its batch.
    graphs: [Option<(usize, E::Graph)>; 2],
    /// The slot that was filled ahead.
    ahead: Option<(usize, Sent)>,
    /// The slot of the last step.
    last: usize,
    /// Whether a step was taken piece by piece.
    warm: bool,
    /// Whether all are.
    pub(super) piece_by_piece: bool,
}

impl<E: Executor> Slots<E> {
    /// Without room for ids yet. Large batches are packed on the threads of the context.
    pub(super) fn new(context: &Context, layout: InputLayout, cut: Cut) -> Self {
        let cut = Arc::new(cut);
        Self {
            packer: Packer::new(context, layout.clone(), Arc::clone(&cut)),
            thread: None,
            packing: None,
            layout,
            cut,
            inputs: Vec::new(),
            slots: Vec::new(),
            graphs: [None, None],
            ahead: None,
            last: 0,
            warm: false,
            piece_by_piece: false,
        }
    }

    /// Whether there is no room for micro-batches of so many ids yet.
    pub(super) fn needs_room(&self, ids: usize) -> bool {
        self.slots.is_empty() || ids > self.layout.ids
    }

    /// Makes room for micro-batches of so many ids. Returns for how many there is, where that is new.
    ///
    /// # Errors
    /// When the device has not so much memory.
    pub(super) fn reserve(
        &mut self,
        executor: &mut E,
        ids: usize,
    ) -> Result<Option<usize>, DeviceError> {
        if !self.needs_room(ids) {
            return Ok(None);
        }
        // Bags of other batches may be longer; memory that is given back is not used again.
        let ids = (ids + ids / 4).next_multiple_of(IDS_STEP).max(IDS_STEP);
        self.layout.ids = ids;
        executor.synchronize()?;
        (self.graphs, self.ahead) = ([None, None], None);
        self.slots.clear();
        for _ in 0..2 {
            let mut slots = Vec::new();
            for _ in 0..self.cut.pieces.count() {
                slots.push(InputSlot::new(executor, &self.layout)?);
            }
            self.slots.push(slots);
        }
        Ok(Some(ids))
    }

    /// Takes steps on other memory from now on: they are recorded anew.
    pub(super) fn forget_recorded(&mut self) {
        self.graphs = [None, None];
    }

    /// The slot of the batch that comes next.
    pub(super) fn next(&self) -> usize {
        1 - self.last
    }

    /// Waits for the batch that is packed ahead, if one is. Before anything else of a step.
    ///
    /// # Errors
    /// When the device failed meanwhile.
    pub(super) fn wait_for_packing(&mut self) -> Result<(), ModelError> {
        let (Some((slot, sent)), Some(thread)) = (self.packing.take(), &mut self.thread) else {
            return Ok(());
        };
        let (slots, packed) = thread.wait();
        self.slots[slot] = slots;
        if packed? {
            self.ahead = Some((slot, sent));
        }
        Ok(())
    }

    /// Checks a batch that is to be taken, unless it was sent ahead, before which it was checked.
    ///
    /// # Errors
    /// When it does not fit.
    pub(super) fn check(&self, batch: &Batch, step: StepInput) -> Result<(), ModelError> {
        let sent = Sent::new(batch, step.number);
        match self.ahead {
            Some((_, known)) if known == sent => Ok(()),
            _ => self.packer.check(batch, step),
        }
    }

    /// The most ids of a micro-batch.
    pub(super) fn ids(&self, batch: &Batch) -> usize {
        self.cut.ids(batch)
    }

    /// The samples of the last micro-batch.
    pub(super) fn last_rows(&self, batch: &Batch) -> Range<usize> {
        self.cut.rows(self.cut.pieces.count() - 1, batch.rows)
    }

    /// Lets the device have a batch that was [checked](Self::check), with what concerns sharded tables of each
    /// micro-batch.
    ///
    /// # Errors
    /// When the device fails.
    pub(super) fn take(
        &mut self,
        executor: &mut E,
        (batch, step): (&Batch, StepInput),
        remote: Vec<RemoteInput>,
    ) -> Result<(), ModelError> {
        let sent = Sent::new(batch, step.number);
        let slot = match self.ahead.take() {
            Some((slot, known)) if known == sent => slot,
            _ => {
                let slot = 1 - self.last;
                self.vacate(executor, slot)?;
                self.packer.pack(&mut self.slots[slot], (batch, step))?;
                slot
            }
        };
        for micro_batch in &mut self.slots[slot] {
            micro_batch.receive(executor)?;
        }
        self.last = slot;
        self.inputs.clear();
        let mut remote = remote.into_iter();
        for (index, own) in self.slots[slot].iter().enumerate() {
            let input = own.input(self.cut.rows(index, batch.rows).len());
            self.inputs.push(DeviceInput {
                remote: remote.next(),
                ..input
            });
        }
        Ok(())
    }

    /// Lets the next batch come as soon as the steps before this one are done, which is asked for next.
    ///
    /// # Errors
    /// When the device fails.
    pub(super) fn vacate_next(&mut self, executor: &mut E) -> Result<(), ModelError> {
        self.vacate(executor, self.next())
    }

    /// Whether a batch that comes next fits. One that does not is left to its own step, whose error it is.
    pub(super) fn fits(&self, (next, step): (&Batch, StepInput)) -> bool {
        self.packer.check(next, step).is_ok()
    }

    /// Begins to send the batch that comes next, after its place was [vacated](Self::vacate_next): at once, or in a thread of
    /// its own where the batch is shared. One that does not fit, which the thread may find out, or for which there is no room
    /// yet, is left to its own step.
    ///
    /// # Errors
    /// When the device fails.
    pub(super) fn send_ahead(
        &mut self,
        (next, step): (Next<'_>, StepInput),
        is_checked: bool,
    ) -> Result<(), ModelError> {
        let batch = next.batch();
        if self.cut.ids(batch) > self.layout.ids {
            return Ok(());
        }
        let (slot, sent) = (self.next(), Sent::new(batch, step.number));
        if let Next::Shared(batch) = next {
            if self.thread.is_none() {
                self.thread = PackingThread::start(self.packer.another());
            }
            if let Some(thread) = &mut self.thread {
                thread.pack(Job {
                    slots: std::mem::take(&mut self.slots[slot]),
                    batch: Arc::clone(batch),
                    step,
                    is_checked,
                });
                self.packing = Some((slot, sent));
                return Ok(());
            }
        }
        if is_checked || self.fits((batch, step)) {
            self.packer.pack(&mut self.slots[slot], (batch, step))?;
            self.ahead = Some((slot, sent));
        }
        Ok(())
    }

    fn vacate(&mut self, executor: &mut E, slot: usize) -> Result<(), ModelError> {
        let mut slots = self.slots[slot].iter_mut();
        Ok(slots.try_for_each(|own| own.vacate(executor))?)
    }

    /// Runs a step on the input that was taken last: piece by piece the first time, else as it was recorded.
    ///
    /// # Errors
    /// When the device fails.
    pub(super) fn run(&mut self, executor: &mut E, step: &DeviceStep) -> Result<(), TrainError> {
        let inputs = self.inputs.as_slice();
        if !self.warm || self.piece_by_piece {
            step.run(executor, inputs)?;
            self.warm = true;
            return Ok(());
        }
        let rows = inputs.iter().map(|input| input.bags.batch).sum();
        let slot = &mut self.graphs[self.last];
        if slot.as_ref().is_none_or(|(of, _)| *of != rows) {
            let graph = record(executor, |executor| step.run(executor, inputs))?;
            *slot = Some((rows, graph));
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

/// Records what `work` asks for.
pub(super) fn record<E: Executor>(
    executor: &mut E,
    mut work: impl FnMut(&mut E) -> Result<(), TrainError>,
) -> Result<E::Graph, TrainError> {
    let mut failure = None;
    let graph = executor.record(&mut |executor| match work(executor) {
        Ok(()) => Ok(()),
        Err(error) => {
            failure = Some(error);
            Err(DeviceError::Recording { call: "this work" })
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
