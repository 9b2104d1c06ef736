use super::{Machine, TableLoad};
use crate::comm::chunk_range;
use crate::config::{Exchange, Placement};

const FLOAT: f64 = 4.0;
/// Bytes of an id on its way to its owner.
const ID: f64 = 4.0;
/// Bytes of an id beside the gradient of its row.
const ROW_ID: f64 = 8.0;

/// What one table costs a rank.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Bytes of weights and optimiser state.
    pub memory_bytes: f64,
    /// Bytes of rows, vectors and gradients read and written in a step.
    pub moved_bytes: f64,
    /// Bytes sent in a step.
    pub sent_bytes: f64,
    /// Exchanges of a step, one after the other. All tables of a kind share them.
    pub exchanges: f64,
}

impl Cost {
    /// Seconds that the bytes of a step take, nothing being hidden behind computation.
    pub fn byte_seconds(&self, machine: &Machine) -> f64 {
        self.moved_bytes / machine.memory_bytes_per_s + self.sent_bytes / machine.link_bytes_per_s
    }

    /// Seconds of a step, with the latency of its exchanges.
    pub fn seconds(&self, machine: &Machine) -> f64 {
        self.byte_seconds(machine) + self.exchanges * machine.latency_s
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes + other.memory_bytes,
            moved_bytes: self.moved_bytes + other.moved_bytes,
            sent_bytes: self.sent_bytes + other.sent_bytes,
            exchanges: self.exchanges.max(other.exchanges),
        }
    }

    /// Of a table on one rank, for a global batch of `batch` samples, `batch / ranks` on each.
    pub fn of(
        load: &TableLoad,
        placement: Placement,
        exchange: Exchange,
        owner: usize,
        rank: usize,
        ranks: usize,
        batch: f64,
    ) -> Self {
        let of = Step::new(load, ranks, batch);
        if placement == Placement::Replicated || ranks == 1 {
            return of.replicated();
        }
        // What this rank holds of the table, and which share of the rows asked for.
        let (rows, dim, share) = match placement {
            Placement::TableWise if rank == owner => (load.rows, load.dim, 1.0),
            Placement::TableWise => (0, load.dim, 0.0),
            Placement::RowWise => {
                let rows = chunk_range(load.rows, rank, ranks).len();
                (rows, load.dim, 1.0 / ranks as f64)
            }
            _ => (load.rows, chunk_range(load.dim, rank, ranks).len(), 1.0),
        };
        let held = (rows * dim) as f64 * FLOAT + held_state(load, placement, rows, dim);
        match exchange {
            Exchange::Pooled => of.pooled(placement, held, dim as f64, share),
            Exchange::Unique => of.unique(placement, held, dim as f64, share),
        }
    }
}

/// State of whole rows is on every rank that holds columns of them.
fn held_state(load: &TableLoad, placement: Placement, rows: usize, dim: usize) -> f64 {
    let of_row = load.state_bytes as f64;
    let by_columns = load.state_bytes > size_of::<f32>();
    match placement {
        Placement::ColumnWise if by_columns => {
            rows as f64 * of_row * dim as f64 / load.dim.max(1) as f64
        }
        _ => rows as f64 * of_row,
    }
}

/// The counts that a step's bytes follow from.
struct Step<'a> {
    load: &'a TableLoad,
    others: f64,
    /// Samples of one rank, and of all.
    local: f64,
    batch: f64,
    dim: f64,
    lookups: f64,
    /// Distinct rows of one rank's samples, and of all.
    local_distinct: f64,
    distinct: f64,
}

impl<'a> Step<'a> {
    fn new(load: &'a TableLoad, ranks: usize, batch: f64) -> Self {
        let local = batch / ranks as f64;
        Self {
            load,
            others: (ranks - 1) as f64,
            local,
            batch,
            dim: load.dim as f64,
            lookups: load.lookups as f64,
            local_distinct: load.distinct_rows(local),
            distinct: load.distinct_rows(batch),
        }
    }

    /// Reading a row and writing it back, with its state.
    fn update(&self, rows: f64, dim: f64) -> f64 {
        rows * 2.0 * (dim * FLOAT + self.load.state_bytes as f64)
    }

    /// Reading rows to pool them, and writing the vectors.
    fn pooling(&self, samples: f64, dim: f64) -> f64 {
        samples * (self.load.ids_per_sample + self.lookups) * dim * FLOAT
    }

    /// Bytes of the numbers that answer others, and of the gradients that go back to where answers came from.
    fn sent(&self, answered: f64, returned: f64) -> f64 {
        let [vectors, gradients] = self.load.payloads.map(|payload| payload.bytes() as f64);
        answered * vectors + returned * gradients
    }

    /// Every rank gets the summed rows of all, and updates them all.
    fn replicated(&self) -> Cost {
        let row = self.dim * FLOAT + ROW_ID;
        let received = self.others * self.local_distinct * row;
        Cost {
            memory_bytes: self.load.rows as f64 * (self.dim * FLOAT + self.load.state_bytes as f64),
            moved_bytes: 2.0 * self.pooling(self.local, self.dim)
                + 2.0 * received
                + self.update(self.distinct, self.dim),
            sent_bytes: received,
            exchanges: self.others.min(1.0),
        }
    }

    /// All ids go to the owners, vectors come back, gradients go again. A row-wise owner answers every
    /// sample with a partial vector.
    fn pooled(&self, placement: Placement, held: f64, dim: f64, share: f64) -> Cost {
        let owners = if placement == Placement::TableWise {
            1.0
        } else {
            self.others + 1.0
        };
        let asked = self.local
            * self.load.ids_per_sample
            * ID
            * if placement == Placement::ColumnWise {
                owners
            } else {
                1.0
            };
        let lengths = self.local * self.lookups * ID * owners;
        let own = if share > 0.0 { dim } else { 0.0 };
        let answered = self.batch * self.lookups * own;
        let vector = match placement {
            Placement::RowWise => self.dim * owners,
            _ => self.dim,
        };
        let returned = self.local * self.lookups * vector;
        Cost {
            memory_bytes: held,
            moved_bytes: 2.0 * share * self.pooling(self.batch, own)
                + 2.0 * (answered + returned) * FLOAT
                + self.update(share * self.distinct, own),
            sent_bytes: asked + lengths + self.sent(answered, returned),
            exchanges: 3.0,
        }
    }

    /// Each distinct id goes to its owner, rows come back, their gradients go again.
    fn unique(&self, placement: Placement, held: f64, dim: f64, share: f64) -> Cost {
        let owners = if placement == Placement::ColumnWise {
            self.others + 1.0
        } else {
            1.0
        };
        let asked = self.local_distinct * ID * owners;
        let own = if share > 0.0 { dim } else { 0.0 };
        let all_asked = (self.others + 1.0) * self.local_distinct;
        let answered = share * all_asked * own;
        let returned = self.local_distinct * self.dim;
        Cost {
            memory_bytes: held,
            moved_bytes: 2.0 * self.pooling(self.local, self.dim)
                + 2.0 * (answered + returned) * FLOAT
                + self.update(share * self.distinct, own),
            sent_bytes: asked + self.sent(answered, returned),
            exchanges: 3.0,
        }
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
            state_bytes: 4,
            payloads: [Payload::Fp32; 2],
        }
    }

    fn all(placement: Placement, exchange: Exchange) -> Vec<Cost> {
        let cost = |rank| Cost::of(&load(), placement, exchange, 1, rank, 4, 1_000.0);
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
    fn only_the_owner_of_a_table_updates_it() {
        let costs = all(Placement::TableWise, Exchange::Pooled);
        assert!(costs[1].moved_bytes > 3.0 * costs[0].moved_bytes);
        assert_eq!(costs[0], costs[3]);
    }

    #[test]
    fn rows_that_repeat_are_cheaper_sent_once() {
        let sent = |exchange| -> f64 {
            let costs = all(Placement::RowWise, exchange);
            costs.iter().map(|cost| cost.sent_bytes).sum()
        };
        assert!(sent(Exchange::Unique) < sent(Exchange::Pooled));
    }

    #[test]
    fn half_the_bytes_of_a_number_are_half_the_bytes_of_vectors_one_way() {
        let sent = |payloads| {
            let load = TableLoad { payloads, ..load() };
            let (placement, exchange) = (Placement::RowWise, Exchange::Pooled);
            Cost::of(&load, placement, exchange, 0, 0, 4, 1_000.0).sent_bytes
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
        assert_eq!(full - vectors, 1_000.0 * 16.0 * 2.0);
    }

    #[test]
    fn one_rank_sends_nothing() {
        let placement = Placement::RowWise;
        let cost = Cost::of(&load(), placement, Exchange::Pooled, 0, 0, 1, 1_000.0);
        assert_eq!((cost.sent_bytes, cost.exchanges), (0.0, 0.0));
    }
}
