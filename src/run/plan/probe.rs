//! How fast this machine does an experiment's own operations.

use std::sync::Barrier;

use streamrec_artifact::Graph;
use streamrec_kernels::Context;

use super::super::RunError;
use super::super::features::Features;
use super::super::trainee;
use super::demand::{Demand, first_batches};
use crate::config::{EmbeddingsConfig, Exchange, Experiment};
use crate::data::{Batch, Dataset};
use crate::parallel::planner::{BatchSplit, Cost, Machine, OperationTimes, TableLoad};
use crate::train;

/// Bytes of tables that all probes together may hold; larger tables are cut.
const TABLE_BYTES: f64 = 4e9;
const BATCHES: usize = 4;

/// Ranks that train alone, side by side, for some steps of an experiment: with a rank's share of its batch, on its data.
pub(super) struct Probe {
    demand: Demand,
    /// As a rank that is alone has it.
    experiment: Experiment,
    batches: Vec<Batch>,
    /// Threads of a rank.
    threads: usize,
    /// Ranks of this process.
    side_by_side: usize,
}

/// What computes on a host while a probe does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Host {
    /// Threads of a rank.
    pub(super) threads: usize,
    /// Ranks that probe in this process.
    pub(super) side_by_side: usize,
    /// Ranks that probe on this host, in all processes.
    pub(super) ranks: usize,
}

impl Probe {
    /// For one of `dp` data-parallel parts.
    pub(super) fn new(
        experiment: &Experiment,
        dataset: &Dataset,
        features: &Features,
        graph: &Graph,
        dp: usize,
        host: Host,
    ) -> Result<Self, RunError> {
        let mut alone = experiment.clone();
        alone.train.global_batch = experiment.train.global_batch.div_ceil(dp);
        alone.parallel.tp = 1;
        alone.parallel.embeddings = EmbeddingsConfig::default();
        let mut batches = first_batches(&alone, dataset, features, BATCHES)?;
        let mut schema = features.fitted.schema.clone();
        let whole = Demand::of_batch(&alone, graph.clone(), schema.clone(), &batches[0])?;
        if let Some(rows) = cut(&whole.tables, TABLE_BYTES / host.ranks as f64) {
            tracing::info!(
                "tables are measured with {rows} rows at the most, so that they fit this machine"
            );
            for table in &mut schema.tables {
                table.rows = table.rows.min(rows);
            }
            for id in batches.iter_mut().flat_map(|batch| &mut batch.encoded.ids) {
                *id %= rows as i64;
            }
        }
        Ok(Self {
            demand: Demand::of_batch(&alone, graph.clone(), schema, &batches[0])?,
            experiment: alone,
            batches,
            threads: host.threads,
            side_by_side: host.side_by_side,
        })
    }

    /// Where each rank exchanges all tables with itself, pooled vectors and then unique ids.
    pub(super) fn times(&self) -> Result<[OperationTimes; 2], RunError> {
        let [pooled, unique] =
            [Exchange::Pooled, Exchange::Unique].map(|exchange| self.times_of(exchange));
        Ok([pooled?, unique?])
    }

    fn times_of(&self, exchange: Exchange) -> Result<OperationTimes, RunError> {
        // Before they meet: who fails here fails all, and nobody waits.
        let trainers = (0..self.side_by_side).map(|_| {
            let rows = self.batches.iter().map(|batch| batch.rows).max();
            let context = Context::cpu(self.threads, false)?;
            let Demand { graph, schema, .. } = &self.demand;
            let tables = Some(self.demand.exchanged_alone(exchange));
            let rows = rows.unwrap_or(1);
            trainee::alone(context, &self.experiment, graph, schema, rows, tables)
        });
        let trainers = trainers.collect::<Result<Vec<_>, RunError>>()?;
        let together = &Barrier::new(trainers.len());
        let times = std::thread::scope(|scope| {
            let started = trainers.into_iter().map(|mut trainer| {
                let (graph, batches) = (&self.demand.graph, &self.batches);
                scope.spawn(move || train::operation_times(&mut trainer, graph, batches, together))
            });
            let started: Vec<_> = started.collect();
            let joined = started.into_iter().map(|own| own.join());
            joined
                .map(|own| own.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Result<Vec<_>, _>>()
        })?;
        Ok(OperationTimes::mean(&times))
    }

    /// The machine with the rates that gave these [`times`](Self::times).
    pub(super) fn calibrated(&self, machine: Machine, times: &[OperationTimes; 2]) -> Machine {
        let split = BatchSplit {
            batch: self.experiment.train.global_batch,
            ranks: 1,
            tp: 1,
        };
        let cost = |exchange| Cost::exchanged_alone(&self.demand.tables, exchange, &split);
        let [pooled, unique] = times;
        machine.calibrated(
            &self.demand.dense(&self.experiment, &split),
            [&cost(Exchange::Pooled), &cost(Exchange::Unique)],
            [pooled, unique],
        )
    }
}

/// The most rows that a table may have, so that all of them fit into so many bytes; `None` where they do.
fn cut(tables: &[TableLoad], bytes: f64) -> Option<usize> {
    let held = |most: usize| -> f64 {
        let of = |table: &TableLoad| table.rows.min(most) as f64 * table.row_bytes();
        tables.iter().map(of).sum()
    };
    let mut most = tables.iter().map(|table| table.rows).max()?;
    if held(most) <= bytes {
        return None;
    }
    while held(most) > bytes && most > 1 {
        most /= 2;
    }
    Some(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Payload;
    use crate::parallel::planner::Distinct;

    #[test]
    fn large_tables_are_cut_and_small_ones_stay() {
        let table = |rows| TableLoad {
            name: "t".into(),
            rows,
            dim: 4,
            lookups: 1,
            ids_per_sample: 1.0,
            distinct: Distinct::new((1, 1), (2, 2)),
            number_bytes: 4,
            state_bytes: 16,
            payloads: [Payload::Fp32; 2],
        };
        let tables = [table(1_000), table(10)];
        assert_eq!(cut(&tables, 32.0 * 1_010.0), None);
        assert_eq!(cut(&tables, 32.0 * 300.0), Some(250));
        let halves = tables.map(|table| TableLoad {
            number_bytes: 2,
            ..table
        });
        assert_eq!(cut(&halves, 24.0 * 1_010.0), None);
    }
}
