use super::{Collectives, Machine, RowWork, TableLoad};
use crate::comm::chunk_range;
use crate::config::{Exchange, Placement};

const FLOAT: f64 = 4.0;
/// Bytes of an id on its way to its owner.
const ID: f64 = 4.0;
/// Bytes of an id beside the gradient of its row.
const ROW_ID: f64 = 8.0;
/// Bytes of the sums over a row whose columns lie apart.
const ROW_SUMS: f64 = 24.0;

/// What one table costs a rank in a step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Bytes of weights and optimiser state.
    pub memory_bytes: f64,
    /// Rows that are read, with the bytes of them and of the vectors.
    pub looked_up: RowWork,
    /// Ids grouped by row.
    pub grouped_ids: f64,
    /// Rows that are updated; bytes of gradients that are summed, and of rows and state read and written back.
    pub updated: RowWork,
    /// Ids, and bytes, that an exchange of pooled vectors packs into messages and reads out of them.
    pub pooled: RowWork,
    /// Those of an exchange of rows.
    pub unique: RowWork,
    /// Bytes of other messages packed, read and merged.
    pub copied_bytes: f64,
    /// Bytes received of all others' rows, where the table is replicated, or of their sums, where rows are apart.
    pub gathered_bytes: f64,
    /// Bytes of ids sent to owners, a batch ahead.
    pub id_bytes: f64,
    /// Bytes of vectors and of gradients sent, each in an exchange of its own.
    pub exchanged_bytes: f64,
}

impl Cost {
    /// Of tables that one rank exchanges with itself.
    pub fn exchanged_alone(tables: &[TableLoad], exchange: Exchange, split: &BatchSplit) -> Self {
        let of = |load| Shard::new(load, Placement::TableWise, 0, 0, split).cost(exchange);
        tables.iter().map(of).fold(Self::default(), Self::plus)
    }

    /// Seconds of a rank at work, nothing sent.
    pub fn work_s(&self, machine: &Machine) -> f64 {
        let rates = &machine.rates;
        rates.lookup.seconds(self.looked_up)
            + self.update_s(machine)
            + rates.pooled.seconds(self.pooled)
            + rates.unique.seconds(self.unique)
            + self.copied_bytes / rates.copy_bytes_per_s
    }

    /// Seconds of grouping ids and updating rows.
    pub(super) fn update_s(&self, machine: &Machine) -> f64 {
        let rates = &machine.rates;
        self.grouped_ids * rates.grouped_id_s + rates.update.seconds(self.updated)
    }

    /// Seconds of the collectives that all tables share.
    pub fn sent_s(&self, machine: &Machine) -> f64 {
        let Collectives {
            all_gather,
            all_to_all,
            ..
        } = &machine.collectives;
        let ids = if machine.hides { 0.0 } else { self.id_bytes };
        // Vectors one way, gradients the other.
        let exchanged = 2.0 * all_to_all.seconds(self.exchanged_bytes / 2.0);
        all_gather.seconds(self.gathered_bytes) + all_to_all.seconds(ids) + exchanged
    }

    /// Seconds of a step.
    pub fn seconds(&self, machine: &Machine) -> f64 {
        self.work_s(machine) + self.sent_s(machine)
    }

    /// Bytes sent and received of others.
    pub fn travelled_bytes(&self) -> f64 {
        self.gathered_bytes + self.id_bytes + self.exchanged_bytes
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes + other.memory_bytes,
            looked_up: self.looked_up.plus(other.looked_up),
            grouped_ids: self.grouped_ids + other.grouped_ids,
            updated: self.updated.plus(other.updated),
            pooled: self.pooled.plus(other.pooled),
            unique: self.unique.plus(other.unique),
            copied_bytes: self.copied_bytes + other.copied_bytes,
            gathered_bytes: self.gathered_bytes + other.gathered_bytes,
            id_bytes: self.id_bytes + other.id_bytes,
            exchanged_bytes: self.exchanged_bytes + other.exchanged_bytes,
        }
    }

    /// Of a table on one rank; `owner` is the rank that holds a table-wise one.
    pub fn of(
        load: &TableLoad,
        placement: Placement,
        exchange: Exchange,
        owner: usize,
        rank: usize,
        split: &BatchSplit,
    ) -> Self {
        let ranks = split.ranks;
        if placement == Placement::Replicated || ranks == 1 {
            return Replicated::new(load, split).cost();
        }
        Shard::new(load, placement, owner, rank, split).cost(exchange)
    }
}

/// A global batch over the ranks of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSplit {
    /// Samples of the global batch.
    pub batch: usize,
    /// Ranks of the job.
    pub ranks: usize,
    /// Ranks that share the samples of a data-parallel part.
    pub tp: usize,
}

/// Reading `ids` gradients and adding them into `rows`, then reading those rows of the table with their state and
/// writing them back.
fn updated(load: &TableLoad, ids: f64, rows: f64, dim: f64) -> RowWork {
    let stored = load.number_bytes as f64;
    let bytes = ids * dim * FLOAT + rows * 2.0 * (dim * stored + load.state_bytes as f64);
    RowWork::new(rows, bytes)
}

/// A table that every rank holds.
struct Replicated<'a> {
    load: &'a TableLoad,
    /// Data-parallel parts, and samples of each.
    parts: f64,
    local: f64,
    local_distinct: f64,
    distinct: f64,
}

impl<'a> Replicated<'a> {
    fn new(load: &'a TableLoad, split: &BatchSplit) -> Self {
        let (batch, parts) = (split.batch as f64, (split.ranks / split.tp) as f64);
        Self {
            load,
            parts,
            local: batch / parts,
            local_distinct: load.distinct_rows(batch / parts),
            distinct: load.distinct_rows(batch),
        }
    }

    /// Every part sums its gradients by row and sends them to all others; all merge them and update.
    fn cost(&self) -> Cost {
        let (load, dim) = (self.load, self.load.dim as f64);
        let memory_bytes = load.rows as f64 * load.row_bytes();
        let ids = self.local * load.ids_per_sample;
        // Rows to pool, and the vectors.
        let vectors = self.local * load.lookups as f64;
        let bytes = dim * (ids * load.number_bytes as f64 + vectors * FLOAT);
        let looked_up = RowWork::new(ids, bytes);
        if self.parts == 1.0 {
            return Cost {
                memory_bytes,
                looked_up,
                grouped_ids: ids,
                updated: updated(load, ids, self.distinct, dim),
                ..Cost::default()
            };
        }
        let row = dim * FLOAT + ROW_ID;
        let (own, all) = (self.local_distinct, self.parts * self.local_distinct);
        // Summed here, and once more where the rows of all are merged.
        let summed = RowWork::new(0.0, (ids + 2.0 * own + 2.0 * self.distinct) * dim * FLOAT);
        Cost {
            memory_bytes,
            looked_up,
            grouped_ids: ids + all,
            updated: summed.plus(updated(load, all, self.distinct, dim)),
            copied_bytes: 2.0 * (own + all) * row + self.distinct * row,
            gathered_bytes: (self.parts - 1.0) * own * row,
            ..Cost::default()
        }
    }
}

/// One rank's part in a table that all share: what it holds, and what it asks others for.
struct Shard<'a> {
    load: &'a TableLoad,
    placement: Placement,
    ranks: f64,
    /// Ranks of its tensor-parallel group beside it.
    neighbours: f64,
    /// Samples of this rank, and of all.
    local: f64,
    batch: f64,
    local_distinct: f64,
    distinct: f64,
    /// What it holds: rows, columns, and the share of the ids that are its own.
    rows: f64,
    dim: f64,
    share: f64,
    /// Whether other ranks hold columns of its rows.
    ranks_apart: bool,
    /// Of what it asks for, the share that others answer; of what it answers, the share that others asked for.
    asked_of_others: f64,
    answered_to_others: f64,
}

impl<'a> Shard<'a> {
    fn new(
        load: &'a TableLoad,
        placement: Placement,
        owner: usize,
        rank: usize,
        split: &BatchSplit,
    ) -> Self {
        let (ranks, batch) = (split.ranks, split.batch as f64);
        let (rows, dim, share) = match placement {
            Placement::TableWise if rank == owner => (load.rows, load.dim, 1.0),
            Placement::TableWise => (0, 0, 0.0),
            Placement::RowWise => {
                let rows = chunk_range(load.rows, rank, ranks).len();
                (rows, load.dim, 1.0 / ranks as f64)
            }
            _ => (load.rows, chunk_range(load.dim, rank, ranks).len(), 1.0),
        };
        let local = batch / ranks as f64;
        let of_others = 1.0 - 1.0 / ranks as f64;
        Self {
            load,
            placement,
            ranks: ranks as f64,
            neighbours: (split.tp - 1) as f64,
            local,
            batch,
            local_distinct: load.distinct_rows(local),
            distinct: load.distinct_rows(batch),
            rows: rows as f64,
            dim: dim as f64,
            share,
            ranks_apart: placement == Placement::ColumnWise && ranks > 1,
            asked_of_others: match placement {
                Placement::TableWise => f64::from(u8::from(rank != owner)),
                _ => of_others,
            },
            answered_to_others: of_others,
        }
    }

    fn memory_bytes(&self) -> f64 {
        let state = held_state(self.load, self.placement, self.dim);
        self.rows * (self.dim * self.stored() + state)
    }

    /// Bytes of a number of the table.
    fn stored(&self) -> f64 {
        self.load.number_bytes as f64
    }

    /// Vectors that a tensor-parallel group gathers after each of its ranks looked up its part.
    fn gathered_bytes(&self) -> f64 {
        self.neighbours * self.local * (self.load.lookups * self.load.dim) as f64 * FLOAT
    }

    /// Numbers that are packed, and read, on their way to where they are used and back.
    fn copied_bytes(&self, answered: f64, returned: f64) -> f64 {
        (2.0 * answered + 4.0 * returned) * FLOAT
    }

    fn exchanged_bytes(&self, answered: f64, returned: f64) -> f64 {
        let [vectors, gradients] = self.load.payloads.map(|payload| payload.bytes() as f64);
        self.answered_to_others * answered * vectors + self.asked_of_others * returned * gradients
    }

    fn cost(&self, exchange: Exchange) -> Cost {
        match exchange {
            Exchange::Pooled => self.pooled(),
            Exchange::Unique => self.unique(),
        }
    }

    /// The update of the shard's rows by so many gradients.
    fn updated(&self, gradients: f64) -> RowWork {
        let rows = self.share * self.distinct;
        let own = updated(self.load, gradients, rows, self.dim);
        if !self.ranks_apart {
            return own;
        }
        // Gradients are summed first; rows and sums are read for what goes to the others, then again.
        let bytes = 2.0 * rows * self.dim * (FLOAT + self.stored());
        own.plus(RowWork::new(rows, bytes))
    }

    /// Bytes of the sums over its rows that the other ranks send, where the update needs whole rows.
    fn sums_of_others(&self) -> f64 {
        let needed = self.ranks_apart && self.load.state_bytes == size_of::<f32>();
        f64::from(u8::from(needed)) * (self.ranks - 1.0) * self.distinct * ROW_SUMS
    }

    /// All ids go to the owners, vectors come back, gradients go again. A row-wise owner answers every
    /// sample with a partial vector.
    fn pooled(&self) -> Cost {
        let (load, lookups) = (self.load, self.load.lookups as f64);
        let (owners, copies) = match self.placement {
            Placement::TableWise => (1.0, 1.0),
            Placement::RowWise => (self.ranks, 1.0),
            _ => (self.ranks, self.ranks),
        };
        let ids = self.local * (load.ids_per_sample * copies + lookups * owners);
        let answered = if self.share > 0.0 {
            self.batch * lookups * self.dim
        } else {
            0.0
        };
        let partial = if self.placement == Placement::RowWise {
            self.ranks
        } else {
            1.0
        };
        let returned = self.local * lookups * load.dim as f64 * partial;
        let own_ids = self.share * self.batch * load.ids_per_sample;
        Cost {
            memory_bytes: self.memory_bytes(),
            looked_up: RowWork::new(
                own_ids,
                own_ids * self.dim * self.stored() + answered * FLOAT,
            ),
            grouped_ids: own_ids,
            updated: self.updated(own_ids),
            pooled: RowWork::new(ids + own_ids, self.copied_bytes(answered, returned)),
            unique: RowWork::default(),
            copied_bytes: 4.0 * self.sums_of_others(),
            gathered_bytes: self.gathered_bytes() + self.sums_of_others(),
            id_bytes: self.asked_of_others * ids * ID,
            exchanged_bytes: self.exchanged_bytes(answered, returned),
        }
    }

    /// Each distinct id goes to its owner, rows come back and are pooled here, their gradients go again.
    fn unique(&self) -> Cost {
        let load = self.load;
        let copies = if self.placement == Placement::ColumnWise {
            self.ranks
        } else {
            1.0
        };
        let own_ids = self.share * self.ranks * self.local_distinct;
        let answered = own_ids * self.dim;
        let (dim, ids) = (load.dim as f64, self.local * load.ids_per_sample);
        let returned = self.local_distinct * dim;
        Cost {
            memory_bytes: self.memory_bytes(),
            looked_up: RowWork::new(own_ids, answered * (self.stored() + FLOAT)),
            grouped_ids: own_ids,
            updated: self.updated(own_ids),
            pooled: RowWork::default(),
            // Rows are pooled where they are used, and their gradients summed there.
            unique: RowWork::new(
                ids + own_ids,
                self.copied_bytes(answered, returned) + 4.0 * ids * dim * FLOAT,
            ),
            copied_bytes: 4.0 * self.sums_of_others(),
            gathered_bytes: self.gathered_bytes() + self.sums_of_others(),
            id_bytes: self.asked_of_others * self.local_distinct * ID * copies,
            exchanged_bytes: self.exchanged_bytes(answered, returned),
        }
    }
}

/// Bytes of a row's state where `dim` of its columns are: state of whole rows is with each of them.
fn held_state(load: &TableLoad, placement: Placement, dim: f64) -> f64 {
    let of_row = load.state_bytes as f64;
    let by_columns = load.state_bytes > size_of::<f32>();
    match placement {
        Placement::ColumnWise if by_columns => of_row * dim / load.dim.max(1) as f64,
        _ => of_row,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Distinct;
    use super::*;
    use crate::config::Payload;

    fn load() -> TableLoad {
        TableLoad {
            name: "t".into(),
            rows: 1_000,
            dim: 16,
            lookups: 1,
            ids_per_sample: 2.0,
            distinct: Distinct::new((100, 100), (1_000, 400)),
            number_bytes: 4,
            state_bytes: 4,
            payloads: [Payload::Fp32; 2],
        }
    }

    fn split(ranks: usize) -> BatchSplit {
        BatchSplit {
            batch: 1_000,
            ranks,
            tp: 1,
        }
    }

    fn all(placement: Placement, exchange: Exchange) -> Vec<Cost> {
        let cost = |rank| Cost::of(&load(), placement, exchange, 1, rank, &split(4));
        (0..4).map(cost).collect()
    }

    #[test]
    fn shards_hold_the_table_once_and_replicas_each_in_whole() {
        let whole = 1_000.0 * (16.0 * 4.0 + 4.0);
        let held = |placement| -> f64 {
            let costs = all(placement, Exchange::Unique);
            costs.iter().map(|cost| cost.memory_bytes).sum()
        };
        assert_eq!(held(Placement::TableWise), whole);
        assert_eq!(held(Placement::RowWise), whole);
        assert_eq!(held(Placement::Replicated), 4.0 * whole);
        // A row's one value of state is wherever columns of the row are.
        assert_eq!(held(Placement::ColumnWise), whole + 3.0 * 4_000.0);
    }

    #[test]
    fn a_table_in_half_precision_is_half_the_weights_beside_the_same_state() {
        let load = TableLoad {
            number_bytes: 2,
            ..load()
        };
        for (placement, ranks) in [(Placement::Replicated, 1), (Placement::RowWise, 4)] {
            let own = |load| Cost::of(load, placement, Exchange::Unique, 0, 0, &split(ranks));
            let (half, whole) = (own(&load), own(&self::load()));
            let rows = 1_000.0 / ranks as f64;
            assert_eq!(half.memory_bytes, rows * (16.0 * 2.0 + 4.0));
            assert_eq!(whole.memory_bytes, rows * (16.0 * 4.0 + 4.0));
            assert!(half.looked_up.bytes < whole.looked_up.bytes);
            assert!(half.updated.bytes < whole.updated.bytes);
            assert_eq!(half.exchanged_bytes, whole.exchanged_bytes);
        }
    }

    #[test]
    fn only_the_owner_of_a_table_updates_it() {
        let costs = all(Placement::TableWise, Exchange::Pooled);
        assert!(costs[1].updated.bytes > 0.0 && costs[0].updated.bytes == 0.0);
        assert_eq!(costs[0], costs[3]);
    }

    #[test]
    fn rows_that_repeat_are_cheaper_sent_once() {
        let sent = |exchange| -> f64 {
            let costs = all(Placement::RowWise, exchange);
            costs.iter().map(Cost::travelled_bytes).sum()
        };
        assert!(sent(Exchange::Unique) < sent(Exchange::Pooled));
    }

    #[test]
    fn half_the_bytes_of_a_number_are_half_the_bytes_of_vectors_one_way() {
        let sent = |payloads| {
            let load = TableLoad { payloads, ..load() };
            let (placement, exchange) = (Placement::RowWise, Exchange::Pooled);
            Cost::of(&load, placement, exchange, 0, 0, &split(4)).exchanged_bytes
        };
        let [full, vectors, both] = [
            [Payload::Fp32, Payload::Fp32],
            [Payload::Bf16, Payload::Fp32],
            [Payload::Bf16, Payload::Fp16],
        ]
        .map(sent);
        assert!(
            (full - vectors - (vectors - both)).abs() < 1e-6,
            "{full} {vectors} {both}"
        );
        // Of the vectors of all samples three quarters go to other ranks.
        assert_eq!(full - vectors, 0.75 * 1_000.0 * 16.0 * 2.0);
    }

    #[test]
    fn one_rank_sends_nothing() {
        let placement = Placement::RowWise;
        let cost = Cost::of(&load(), placement, Exchange::Pooled, 0, 0, &split(1));
        assert_eq!((cost.travelled_bytes(), cost.copied_bytes), (0.0, 0.0));
    }

    #[test]
    fn what_is_sent_to_owners_is_what_owners_receive() {
        // Every rank's ids, and gradients of vectors: summed over ranks, three quarters of all leave a rank.
        for placement in [
            Placement::TableWise,
            Placement::RowWise,
            Placement::ColumnWise,
        ] {
            let costs = all(placement, Exchange::Unique);
            let exchanged: f64 = costs.iter().map(|cost| cost.exchanged_bytes).sum();
            let rows = 4.0 * load().distinct_rows(250.0);
            // Rows one way, their gradients the other.
            let expected = 2.0 * 0.75 * rows * 16.0 * FLOAT;
            assert!(
                (exchanged - expected).abs() < 1e-6,
                "{placement}: {exchanged} {expected}"
            );
        }
    }
}
