use streamrec_kernels::Context;
use streamrec_kernels::cuda::{Executor, step::StepInput};

use crate::model::{
    BatchInput, MicroBatch, ModelError,
    device::{HostInput, InputLayout, InputSlot, RemoteInput, RemoteRoom, RowShards, share},
};
use crate::parallel::{DeviceLookups, HostBags, Mesh, MicroShards, OwnedBags, PendingIds};

/// Room is made in multiples of this.
const STEP: usize = 256;
/// Rows of each owner and table are fewer.
const ROWS_STEP: usize = 32;

/// The slot of predictions.
const PREDICTING: usize = 2;

/// The lookups of all ranks in the sharded tables that this device holds, and this rank's in those whose ids travel once:
/// ids travel between the ranks' hosts, and go to the device, while it works on the batch before.
pub(super) struct OwnedLookups<E: Executor> {
    context: Context,
    lookups: DeviceLookups,
    /// Of the lookups that owners pool.
    layout: InputLayout,
    /// Rows of the parts of tables whose ids travel once.
    row_limits: Vec<usize>,
    rows: RowShards,
    room: RemoteRoom,
    /// Two as [`Slots`](super::slots::Slots) has them, with a place for each micro-batch, and one to predict.
    slots: Vec<Vec<Place<E::Feed>>>,
    next: Next,
    /// Data-parallel ranks, and all.
    ranks: [usize; 2],
    /// Samples of a batch.
    batch: usize,
    pieces: MicroShards,
    buffer: MicroBatch,
}

/// Where the lookups of a micro-batch go.
struct Place<F> {
    owned: InputSlot<F>,
    /// Where ids travel once: those asked for here, and this rank's positions among what comes.
    rows: Option<[InputSlot<F>; 2]>,
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
    /// Without room for ids yet, for batches of up to `batch` samples. The limits are the rows of the table of each lookup
    /// that this rank pools for all, and of each table of which it sends rows.
    pub(super) fn new(
        context: &Context,
        lookups: DeviceLookups,
        ([limits, row_limits], rows): ([Vec<usize>; 2], RowShards),
        (batch, pieces): (usize, MicroShards),
        mesh: &Mesh,
    ) -> Self {
        let ranks = [mesh.dp.size(), mesh.world.size()];
        Self {
            context: context.clone(),
            lookups,
            layout: layout(batch * ranks[0], limits, 0),
            row_limits,
            rows,
            room: RemoteRoom::default(),
            slots: Vec::new(),
            next: Next::Unknown,
            ranks,
            batch,
            pieces,
            buffer: MicroBatch::default(),
        }
    }

    /// Lets the device have the lookups of a batch that is trained on, of each micro-batch: those that were announced, if
    /// any were. Returns them, and what there is room for where that is new, on all ranks at once. Collective.
    ///
    /// # Errors
    /// When ranks cannot communicate, an id is outside its table, or the device fails.
    pub(super) fn take(
        &mut self,
        executor: &mut E,
        batch: &BatchInput<'_>,
        slot: usize,
    ) -> Result<(Vec<RemoteInput>, Option<RemoteRoom>), ModelError> {
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
    ) -> Result<(Option<RemoteInput>, Option<RemoteRoom>), ModelError> {
        let owned = self.lookups.receive(self.lookups.send(batch)?)?;
        let (inputs, room) = self.fill(executor, vec![owned], PREDICTING, batch.rows())?;
        Ok((inputs.first().copied(), room))
    }

    /// Announces the next batch. Collective.
    ///
    /// # Errors
    /// When an id is outside its table.
    pub(super) fn announce(&mut self, next: &BatchInput<'_>) -> Result<(), ModelError> {
        self.next = Next::Announced(self.send(next)?);
        Ok(())
    }

    /// Whether the lookups of the batch that comes next are in its slot, so that [`take`](Self::take) needs no room.
    pub(super) fn is_sent(&self, slot: usize) -> bool {
        matches!(self.next, Next::Sent(sent, _) if sent == slot)
    }

    /// Lets lookups come to a slot as soon as all that was asked for so far is done.
    ///
    /// # Errors
    /// When the device fails.
    pub(super) fn vacate(&mut self, executor: &mut E, slot: usize) -> Result<(), ModelError> {
        for place in self.slots.get_mut(slot).into_iter().flatten() {
            place.owned.vacate(executor)?;
            for rows in place.rows.iter_mut().flatten() {
                rows.vacate(executor)?;
            }
        }
        Ok(())
    }

    /// Sends what was announced to the device, into a slot that was [vacated](Self::vacate).
    ///
    /// # Errors
    /// When ranks cannot communicate, or the device fails.
    pub(super) fn send_ahead(&mut self, slot: usize) -> Result<(), ModelError> {
        let Next::Announced(pending) = std::mem::replace(&mut self.next, Next::Unknown) else {
            return Ok(());
        };
        let owned = self.arrived(pending)?;
        self.next = match !self.slots.is_empty() && needs(&owned).join(self.room) == self.room {
            true => {
                self.copy(&owned, slot)?;
                Next::Sent(slot, owned)
            }
            false => Next::Here(owned),
        };
        Ok(())
    }

    /// Sends the ids of each micro-batch to their owners.
    fn send(&mut self, batch: &BatchInput<'_>) -> Result<Vec<PendingIds>, ModelError> {
        let (count, all) = (self.pieces.count(), batch.rows());
        let mut pending = Vec::with_capacity(count);
        for index in 0..count {
            let rows = self.pieces.rows(index, all, all);
            pending.push(match rows == (0..all) {
                true => self.lookups.send(batch)?,
                false => self.lookups.send(&self.buffer.cut(batch, rows))?,
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
    ) -> Result<(Vec<RemoteInput>, Option<RemoteRoom>), ModelError> {
        for bags in &owned {
            self.layout.check(&owned_input(bags))?;
        }
        let (mut room, needed) = (None, needs(&owned));
        if self.slots.is_empty() || needed.join(self.room) != self.room {
            room = Some(self.reserve(executor, needed)?);
        }
        self.vacate(executor, slot)?;
        self.copy(&owned, slot)?;
        self.give_back(owned);
        Ok((self.receive(executor, rows, slot)?, room))
    }

    fn copy(&mut self, owned: &[OwnedBags], slot: usize) -> Result<(), ModelError> {
        let context = &self.context;
        for (place, bags) in self.slots[slot].iter_mut().zip(owned) {
            place.owned.send(context, &owned_input(bags))?;
            if let Some([asked, positions]) = &mut place.rows {
                let rows = self.room.rows;
                let ids = self.lookups.rows_of_ranks(bags, rows);
                asked.send(context, &host_input(self.ranks[1] * rows, &ids))?;
                let own = self.lookups.positions(bags, rows);
                let lookups = self.rows.lookups().count();
                let samples = (own.offsets.len() - 1) / lookups.max(1);
                positions.send(context, &host_input(samples, &own))?;
            }
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
    ) -> Result<Vec<RemoteInput>, ModelError> {
        let (places, [dp, world]) = (&mut self.slots[slot], self.ranks);
        let count = places.len();
        let mut inputs = Vec::with_capacity(count);
        for (index, place) in places.iter_mut().enumerate() {
            let rows = match slot {
                PREDICTING => rows,
                _ => self.pieces.rows(index, rows, rows).len(),
            };
            place.owned.receive(executor)?;
            let mut input = RemoteInput {
                owned: place.owned.input(rows * dp).bags,
                rows: None,
            };
            if let Some([asked, positions]) = &mut place.rows {
                asked.receive(executor)?;
                positions.receive(executor)?;
                let samples = share(rows, self.rows.tp).len();
                let asked = asked.input(world * self.room.rows).bags;
                input.rows = Some([asked, positions.input(samples).bags]);
            }
            inputs.push(input);
        }
        Ok(inputs)
    }

    fn reserve(&mut self, executor: &mut E, needed: RemoteRoom) -> Result<RemoteRoom, ModelError> {
        let more = |own: usize, needed: usize, step: usize| match needed > own || own == 0 {
            true => (needed + needed / 4).next_multiple_of(step).max(step),
            false => own,
        };
        self.room = RemoteRoom {
            ids: more(self.room.ids, needed.ids, STEP),
            rows: more(self.room.rows, needed.rows, ROWS_STEP),
            positions: more(self.room.positions, needed.positions, STEP),
        };
        self.layout.ids = self.room.ids;
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
                _ => self.pieces.count(),
            };
            let mut places = Vec::with_capacity(count);
            for _ in 0..count {
                places.push(self.place(executor)?);
            }
            self.slots.push(places);
        }
        Ok(self.room)
    }

    fn place(&self, executor: &mut E) -> Result<Place<E::Feed>, ModelError> {
        let mut rows = None;
        if !self.rows.is_empty() {
            let asked = self.ranks[1] * self.room.rows;
            let limits = self.row_limits.clone();
            let ids = asked * limits.len();
            let asked = InputSlot::new(executor, &layout(asked, limits, ids))?;
            let blocks = |table: usize| self.rows.tables[table].blocks * self.room.rows;
            let limits = self
                .rows
                .lookups()
                .map(|(table, _)| blocks(table))
                .collect();
            let samples = share(self.batch, [0, self.rows.tp[1]]).len();
            let positions = layout(samples, limits, self.room.positions);
            rows = Some([asked, InputSlot::new(executor, &positions)?]);
        }
        Ok(Place {
            owned: InputSlot::new(executor, &self.layout)?,
            rows,
        })
    }
}

fn layout(rows: usize, id_limits: Vec<usize>, ids: usize) -> InputLayout {
    InputLayout {
        rows,
        dense: 0,
        id_limits,
        labels: 0,
        ids,
    }
}

/// What micro-batches need room for.
fn needs(owned: &[OwnedBags]) -> RemoteRoom {
    let needs = owned.iter().map(OwnedBags::needs);
    needs.fold(RemoteRoom::default(), RemoteRoom::join)
}

/// What the device is sent of the lookups that owners pool.
fn owned_input(owned: &OwnedBags) -> HostInput<'_> {
    bags_input(owned.samples(), owned.ids(), owned.offsets())
}

fn host_input(rows: usize, bags: &HostBags) -> HostInput<'_> {
    bags_input(rows, &bags.ids, &bags.offsets)
}

fn bags_input<'a>(rows: usize, ids: &'a [i64], offsets: &'a [i64]) -> HostInput<'a> {
    HostInput {
        rows,
        dense: &[],
        ids,
        offsets,
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
