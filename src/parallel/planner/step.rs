use super::{Cost, DenseLoad, Machine};

/// The share of a step's products that belong to the backward pass: two of three.
const BACKWARD: f64 = 2.0 / 3.0;

/// What a step takes, in seconds, part by part.
///
/// ```text
/// forward, loss    backward                            update
/// dense ────────── dense ─────────────────────────────►
/// vectors of sharded tables ►    gradients to owners ─►  tables
///                  dense gradients' all-reduce ───────►  hidden behind backward where it can be
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepEstimate {
    /// Layers, loss and dense update.
    pub dense_s: f64,
    /// Collectives inside layers that a tensor-parallel group shares.
    pub shared_s: f64,
    /// Lookups, sums and updates of tables on the rank that is last.
    pub tables_s: f64,
    /// Vectors, rows and gradients on their way.
    pub exchange_s: f64,
    /// The all-reduce of dense gradients, all of it.
    pub all_reduce_s: f64,
    /// What of it hides behind the backward pass.
    pub hidden_s: f64,
}

impl StepEstimate {
    /// Of ranks with these costs of tables, in data-parallel parts of `tp` ranks.
    pub fn new(machine: &Machine, dense: &DenseLoad, tables: &[Cost], tp: usize) -> Self {
        let rates = &machine.rates;
        let dense_s = dense.flops / rates.flops_per_s + dense.operations * rates.operation_s;
        let most = |seconds: &dyn Fn(&Cost) -> f64| tables.iter().map(seconds).fold(0.0, f64::max);
        // What is late because of both, minus what the layers alone make late.
        let busy = machine.busy_s(tables.iter().map(|rank| dense_s + rank.work_s(machine)));
        let layers = machine.busy_s(tables.iter().map(|_| dense_s));
        let line = &machine.group.all_reduce;
        let all_reduce_s = if machine.ranks > tp {
            machine
                .collectives
                .all_reduce
                .seconds(dense.gradient_bytes())
        } else {
            0.0
        };
        Self {
            dense_s: layers,
            shared_s: dense.shared_calls * line.latency_s + dense.shared_bytes / line.bytes_per_s,
            tables_s: busy - layers,
            exchange_s: most(&|rank| rank.sent_s(machine)),
            all_reduce_s,
            hidden_s: if machine.hides {
                all_reduce_s.min(BACKWARD * layers)
            } else {
                0.0
            },
        }
    }

    /// All of it.
    pub fn seconds(&self) -> f64 {
        self.dense_s + self.shared_s + self.tables_s + self.exchange_s + self.all_reduce_s
            - self.hidden_s
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Collectives, Line, Rates, RowRate, RowWork};
    use super::*;

    fn machine(ranks: usize, at_once: usize) -> Machine {
        let line = Line {
            latency_s: 0.0,
            bytes_per_s: 100.0,
        };
        let by_bytes = RowRate {
            row_s: 0.0,
            bytes_per_s: 10.0,
        };
        let collectives = Collectives {
            all_reduce: line,
            all_gather: line,
            all_to_all: line,
        };
        Machine {
            ranks,
            at_once,
            memory_bytes: 0,
            rates: Rates {
                flops_per_s: 10.0,
                lookup: by_bytes,
                grouped_id_s: 0.0,
                update: by_bytes,
                pooled: by_bytes,
                unique: by_bytes,
                copy_bytes_per_s: 10.0,
                operation_s: 0.0,
            },
            collectives,
            group: collectives,
            hides: false,
        }
    }

    const DENSE: DenseLoad = DenseLoad {
        parameters: 25.0,
        flops: 30.0,
        operations: 0.0,
        activation_bytes: 0.0,
        shared_bytes: 0.0,
        shared_calls: 0.0,
    };

    fn updates(bytes: f64) -> Cost {
        Cost {
            updated: RowWork::new(0.0, bytes),
            ..Cost::default()
        }
    }

    #[test]
    fn ranks_that_share_cores_take_turns() {
        let tables = [updates(10.0); 4];
        let alone = StepEstimate::new(&machine(4, 4), &DENSE, &tables, 1);
        assert_eq!((alone.dense_s, alone.tables_s), (3.0, 1.0));
        // 25 parameters are 100 bytes.
        assert_eq!(alone.seconds(), 5.0);
        let crowded = StepEstimate::new(&machine(4, 2), &DENSE, &tables, 1);
        assert_eq!((crowded.dense_s, crowded.tables_s), (6.0, 2.0));
    }

    #[test]
    fn the_busiest_rank_is_waited_for_unless_others_leave_it_their_cores() {
        let tables = [updates(40.0), updates(0.0), updates(0.0), updates(0.0)];
        let wide = StepEstimate::new(&machine(4, 4), &DENSE, &tables, 1);
        assert_eq!(wide.tables_s, 4.0);
        let crowded = StepEstimate::new(&machine(4, 2), &DENSE, &tables, 1);
        assert_eq!(crowded.dense_s + crowded.tables_s, 8.0);
    }

    #[test]
    fn an_all_reduce_hides_behind_the_backward_pass_where_the_machine_hides() {
        let machine = Machine {
            hides: true,
            ..machine(2, 2)
        };
        let tables = [Cost::default(); 2];
        let step = StepEstimate::new(&machine, &DENSE, &tables, 1);
        assert_eq!((step.all_reduce_s, step.hidden_s), (1.0, 1.0));
        assert_eq!(step.seconds(), 3.0);
    }
}
