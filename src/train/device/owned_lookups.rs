use streamrec_kernels::cuda::{DeviceError, Executor, embedding_bag::Bags, step::StepInput};

use crate::model::{
    BatchInput, ModelError,
    device::{HostInput, InputLayout, InputSlot},
};
use crate::parallel::{DeviceLookups, OwnedBags, PendingIds};

/// Ids are given room in multiples of this.
const IDS_STEP: usize = 2048;

/// The slot of predictions.
pub(super) const PREDICTING: usize = 2;

/// The lookups of all ranks in the sharded tables that this device holds: ids travel between the ranks' hosts, and go to
/// the device, while it works on the batch before.
pub(super) struct OwnedLookups<E: Executor> {
    lookups: DeviceLookups,
    layout: InputLayout,
    /// Two as [`Slots`](super::slots::Slots) has them, and one to predict.
    slots: Vec<InputSlot<E::Feed>>,
    next: Next,
    ranks: usize,
}

/// Where the lookups of the next batch are.
enum Next {
    Unknown,
    Announced(PendingIds),
    /// On the host, which found no room for them on the device.
    Here(OwnedBags),
    /// In a slot.
    Sent(usize),
}

impl<E: Executor> OwnedLookups<E> {
    /// Without room for ids yet, for batches of up to `rows` samples on each of `ranks` ranks. `limits` are the rows of
    /// the table of each lookup.
    pub(super) fn new(
        lookups: DeviceLookups,
        limits: Vec<usize>,
        [rows, ranks]: [usize; 2],
    ) -> Self {
        Self {
            lookups,
            layout: InputLayout {
                rows: rows * ranks,
                dense: 0,
                id_limits: limits,
                labels: 0,
                ids: 0,
            },
            slots: Vec::new(),
            next: Next::Unknown,
            ranks,
        }
    }

    /// Lets the device have the lookups of a batch that is trained on: those that were announced, if any were. Returns
    /// them, and for how many ids there is room where that is new. Collective.
    ///
    /// # Errors
    /// When ranks cannot communicate, an id is outside its table, or the device fails.
    pub(super) fn take(
        &mut self,
        executor: &mut E,
        batch: &BatchInput<'_>,
        slot: usize,
    ) -> Result<(Bags, Option<usize>), ModelError> {
        let owned = match std::mem::replace(&mut self.next, Next::Unknown) {
            Next::Sent(sent) if sent == slot => {
                return Ok((self.receive(executor, batch.rows(), slot)?, None));
            }
            Next::Here(owned) => owned,
            Next::Announced(pending) => self.lookups.receive(pending)?,
            Next::Unknown | Next::Sent(_) => self.lookups.receive(self.lookups.send(batch)?)?,
        };
        self.fill(executor, owned, slot, batch.rows())
    }

    /// Likewise of a batch to predict, beside what was announced.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub(super) fn take_to_predict(
        &mut self,
        executor: &mut E,
        batch: &BatchInput<'_>,
    ) -> Result<(Bags, Option<usize>), ModelError> {
        let owned = self.lookups.receive(self.lookups.send(batch)?)?;
        self.fill(executor, owned, PREDICTING, batch.rows())
    }

    /// Announces the next batch. Collective.
    ///
    /// # Errors
    /// When an id is outside its table.
    pub(super) fn announce(&mut self, next: &BatchInput<'_>) -> Result<(), ModelError> {
        self.next = Next::Announced(self.lookups.send(next)?);
        Ok(())
    }

    /// Sends what was announced to the device, into a slot that it does not work on.
    ///
    /// # Errors
    /// When ranks cannot communicate, or the device fails.
    pub(super) fn send_ahead(&mut self, executor: &mut E, slot: usize) -> Result<(), ModelError> {
        let Next::Announced(pending) = std::mem::replace(&mut self.next, Next::Unknown) else {
            return Ok(());
        };
        let owned = self.lookups.receive(pending)?;
        self.next = match self.slots.get_mut(slot) {
            Some(into) if owned.ids().len() <= self.layout.ids => {
                into.send(executor, &host_input(&owned))?;
                self.lookups.give_back(owned);
                Next::Sent(slot)
            }
            _ => Next::Here(owned),
        };
        Ok(())
    }

    fn fill(
        &mut self,
        executor: &mut E,
        owned: OwnedBags,
        slot: usize,
        rows: usize,
    ) -> Result<(Bags, Option<usize>), ModelError> {
        let input = host_input(&owned);
        self.layout.check(&input)?;
        let mut room = None;
        if self.slots.is_empty() || owned.ids().len() > self.layout.ids {
            room = Some(self.reserve(executor, owned.ids().len())?);
        }
        self.slots[slot].send(executor, &host_input(&owned))?;
        self.lookups.give_back(owned);
        Ok((self.receive(executor, rows, slot)?, room))
    }

    fn receive(&mut self, executor: &mut E, rows: usize, slot: usize) -> Result<Bags, DeviceError> {
        self.slots[slot].receive(executor)?;
        Ok(self.slots[slot].input(rows * self.ranks).bags)
    }

    fn reserve(&mut self, executor: &mut E, ids: usize) -> Result<usize, DeviceError> {
        let ids = (ids + ids / 4).next_multiple_of(IDS_STEP).max(IDS_STEP);
        self.layout.ids = ids;
        executor.synchronize()?;
        self.slots.clear();
        for _ in 0..=PREDICTING {
            self.slots.push(InputSlot::new(executor, &self.layout)?);
        }
        Ok(ids)
    }
}

/// What the device is sent of them.
fn host_input(owned: &OwnedBags) -> HostInput<'_> {
    HostInput {
        rows: owned.samples(),
        dense: &[],
        ids: owned.ids(),
        offsets: owned.offsets(),
        labels: &[],
        weights: &[],
        weight_sum: 0.0,
        step: StepInput {
            learning_rate: 0.0,
            sparse_learning_rate: 0.0,
            number: 0,
            seed: 0,
        },
    }
}
