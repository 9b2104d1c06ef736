//! How fast this machine does an experiment's own operations.

use std::sync::Barrier;

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

/// The machine with the rates that it reaches in this experiment, with a rank's share of its batch: as many
/// single ranks as compute at once train for some steps, side by side, on the experiment's data.
pub(super) fn calibrated(
    machine: Machine,
    experiment: &Experiment,
    dataset: &Dataset,
    features: &Features,
    threads: usize,
) -> Result<Machine, RunError> {
    let mut alone = experiment.clone();
    let dp = machine.ranks / experiment.parallel.tp;
    alone.train.global_batch = experiment.train.global_batch.div_ceil(dp);
    alone.parallel.tp = 1;
    alone.parallel.embeddings = EmbeddingsConfig::default();
    let mut batches = first_batches(&alone, dataset, features, BATCHES)?;
    let mut schema = features.fitted.schema.clone();
    let graph = trainee::built_in(&alone.model, &schema)?;
    let whole = Demand::of_batch(&alone, graph.clone(), schema.clone(), &batches[0])?;
    if let Some(rows) = cut(&whole.tables, TABLE_BYTES / machine.at_once as f64) {
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
    let demand = Demand::of_batch(&alone, graph, schema, &batches[0])?;
    let probes = Probes {
        demand: &demand,
        experiment: &alone,
        batches: &batches,
        threads,
        at_once: machine.at_once,
    };
    let times = [Exchange::Pooled, Exchange::Unique].map(|exchange| probes.times(exchange));
    let [pooled, unique] = times;
    let split = BatchSplit {
        batch: alone.train.global_batch,
        ranks: 1,
        tp: 1,
    };
    let cost = |exchange| Cost::exchanged_alone(&demand.tables, exchange, &split);
    Ok(machine.calibrated(
        &demand.dense(&alone, &split),
        [&cost(Exchange::Pooled), &cost(Exchange::Unique)],
        [&pooled?, &unique?],
    ))
}

/// Ranks that train side by side, each alone.
struct Probes<'a> {
    demand: &'a Demand,
    experiment: &'a Experiment,
    batches: &'a [Batch],
    threads: usize,
    at_once: usize,
}

impl Probes<'_> {
    /// Where each exchanges all tables with itself.
    fn times(&self, exchange: Exchange) -> Result<OperationTimes, RunError> {
        // Before they meet: who fails here fails all, and nobody waits.
        let trainers = (0..self.at_once).map(|_| {
            let rows = self.batches.iter().map(|batch| batch.rows).max();
            let context = Context::cpu(self.threads, false)?;
            let Demand { graph, schema, .. } = self.demand;
            let tables = Some(self.demand.exchanged_alone(exchange));
            let rows = rows.unwrap_or(1);
            trainee::alone(context, self.experiment, graph, schema, rows, tables)
        });
        let trainers = trainers.collect::<Result<Vec<_>, RunError>>()?;
        let together = &Barrier::new(trainers.len());
        let times = std::thread::scope(|scope| {
            let started = trainers.into_iter().map(|mut trainer| {
                let (graph, batches) = (&self.demand.graph, self.batches);
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
            state_bytes: 16,
            payloads: [Payload::Fp32; 2],
        };
        let tables = [table(1_000), table(10)];
        assert_eq!(cut(&tables, 32.0 * 1_010.0), None);
        assert_eq!(cut(&tables, 32.0 * 300.0), Some(250));
    }
}
