use streamrec_kernels::cuda::{Executor, embedding_bag::Bags, step::StepInput};

use crate::model::{
    BatchInput, MicroBatch, ModelError,
    device::{HostInput, InputLayout, InputSlot},
};
use crate::parallel::{DeviceLookups, OwnedBags, PendingIds};

/// Ids are given room in multiples of this.
const IDS_STEP: usize = 256;

/// The slot of predictions.
const PREDICTING: usize = 2;

/// The lookups of all ranks in the sharded tables that this device holds: ids travel between the ranks' hosts, and go to
/// the device, while it works on the batch before.
pub(super) struct OwnedLookups<E: Executor> {
    lookups: DeviceLookups,
    layout: InputLayout,
    /// Two as [`Slots`](super::slots::Slots) has them, with a place for each micro-batch, and one to predict.
    slots: Vec<Vec<InputSlot<E::Feed>>>,
    next: Next,
    /// Data-parallel ones: the others look up parts of their samples.
    ranks: usize,
    micro_batches: usize,
    buffer: MicroBatch,
}

/// Where the lookups of the next batch are, micro-batch by micro-batch.
enum Next {
    Unknown,
    Announced(Vec<PendingIds>),
    /// On the host, which found no room for them on the device.
    Here(Vec<OwnedBags>),
    /// In a slot, and here in case that it is given another place.
    Sent(usize, Vec<OwnedBags>),
}

impl<E: Executor> OwnedLookups<E> {
    /// Without room for ids yet, for batches of up to `rows` samples on each of `ranks` data-parallel ranks. `limits` are the rows of
    /// the table of each lookup.
    pub(super) fn new(
        lookups: DeviceLookups,
        limits: Vec<usize>,
        [rows, ranks]: [usize; 2],
        micro_batches: usize,
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
            micro_batches,
            buffer: MicroBatch::default(),
        }
    }

    /// Lets the device have the lookups of a batch that is trained on, of each micro-batch: those that were announced, if
    /// any were. Returns them, and for how many ids there is room where that is new. Collective.
    ///
    /// # Errors
    /// When ranks cannot communicate, an id is outside its table, or the device fails.
    pub(super) fn take(
        &mut self,
        executor: &mut E,
        batch: &BatchInput<'_>,
        slot: usize,
    ) -> Result<(Vec<Bags>, Option<usize>), ModelError> {
        let owned = match std::mem::replace(&mut self.next, Next::Unknown) {
            Next::Sent(sent, owned) if sent == slot => {
                self.give_back(owned);
                return Ok((self.receive(executor, batch.rows(), slot)?, None));
            }
            Next::Here(owned) => owned,
            Next::Announced(pending) => self.arrived(pending)?,
            Next::Unknown | Next::Sent(..) => {
                let pending = self.send(batch)?;
                self.arrived(pending)?
            }
        };
        self.fill(executor, owned, slot, batch.rows())
    }

    /// Likewise of a whole batch to predict, beside what was announced.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub(super) fn take_to_predict(
        &mut self,
        executor: &mut E,
        batch: &BatchInput<'_>,
    ) -> Result<(Option<Bags>, Option<usize>), ModelError> {
        let owned = self.lookups.receive(self.lookups.send(batch)?)?;
        let (bags, room) = self.fill(executor, vec![owned], PREDICTING, batch.rows())?;
        Ok((bags.first().copied(), room))
    }

    /// Announces the next batch. Collective.
    ///
    /// # Errors
    /// When an id is outside its table.
    pub(super) fn announce(&mut self, next: &BatchInput<'_>) -> Result<(), ModelError> {
        self.next = Next::Announced(self.send(next)?);
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
        let owned = self.arrived(pending)?;
        self.next = match most_ids(&owned) <= self.layout.ids && !self.slots.is_empty() {
            true => {
                self.copy(executor, &owned, slot)?;
                Next::Sent(slot, owned)
            }
            false => Next::Here(owned),
        };
        Ok(())
    }

    /// Sends the ids of each micro-batch to their owners.
    fn send(&mut self, batch: &BatchInput<'_>) -> Result<Vec<PendingIds>, ModelError> {
        let mut pending = Vec::with_capacity(self.micro_batches);
        for index in 0..self.micro_batches {
            let rows = MicroBatch::rows(index, self.micro_batches, batch.rows());
            pending.push(match self.micro_batches {
                1 => self.lookups.send(batch)?,
                _ => self.lookups.send(&self.buffer.cut(batch, rows))?,
            });
        }
        Ok(pending)
    }

    fn arrived(&mut self, pending: Vec<PendingIds>) -> Result<Vec<OwnedBags>, ModelError> {
        let pending = pending.into_iter();
        pending.map(|ids| self.lookups.receive(ids)).collect()
    }

    fn fill(
        &mut self,
        executor: &mut E,
        owned: Vec<OwnedBags>,
        slot: usize,
        rows: usize,
    ) -> Result<(Vec<Bags>, Option<usize>), ModelError> {
        for bags in &owned {
            self.layout.check(&host_input(bags))?;
        }
        let (mut room, most) = (None, most_ids(&owned));
        if self.slots.is_empty() || most > self.layout.ids {
            room = Some(self.reserve(executor, most)?);
        }
        self.copy(executor, &owned, slot)?;
        self.give_back(owned);
        Ok((self.receive(executor, rows, slot)?, room))
    }

    fn copy(
        &mut self,
        executor: &mut E,
        owned: &[OwnedBags],
        slot: usize,
    ) -> Result<(), ModelError> {
        for (place, bags) in self.slots[slot].iter_mut().zip(owned) {
            place.send(executor, &host_input(bags))?;
        }
        Ok(())
    }

    fn give_back(&mut self, owned: Vec<OwnedBags>) {
        owned
            .into_iter()
            .for_each(|bags| self.lookups.give_back(bags));
    }

    fn receive(
        &mut self,
        executor: &mut E,
        rows: usize,
        slot: usize,
    ) -> Result<Vec<Bags>, ModelError> {
        let places = &mut self.slots[slot];
        let count = places.len();
        let mut bags = Vec::with_capacity(count);
        for (index, place) in places.iter_mut().enumerate() {
            place.receive(executor)?;
            let rows = MicroBatch::rows(index, count, rows).len();
            bags.push(place.input(rows * self.ranks).bags);
        }
        Ok(bags)
    }

    fn reserve(&mut self, executor: &mut E, ids: usize) -> Result<usize, ModelError> {
        let ids = (ids + ids / 4).next_multiple_of(IDS_STEP).max(IDS_STEP);
        self.layout.ids = ids;
        executor.synchronize()?;
        // What was sent goes to its new place when its step comes.
        self.next = match std::mem::replace(&mut self.next, Next::Unknown) {
            Next::Sent(_, owned) => Next::Here(owned),
            next => next,
        };
        self.slots.clear();
        for slot in 0..=PREDICTING {
            let count = match slot {
                PREDICTING => 1,
                _ => self.micro_batches,
            };
            let mut places = Vec::with_capacity(count);
            for _ in 0..count {
                places.push(InputSlot::new(executor, &self.layout)?);
            }
            self.slots.push(places);
        }
        Ok(ids)
    }
}

/// The most ids of a micro-batch.
fn most_ids(owned: &[OwnedBags]) -> usize {
    let ids = owned.iter().map(|bags| bags.ids().len());
    ids.max().unwrap_or(0)
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
