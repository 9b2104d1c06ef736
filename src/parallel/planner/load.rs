use std::collections::HashSet;

use streamrec_artifact::{FeatureSchema, Graph, GraphTable, LookupSpec, Op, Shapes};

use crate::config::optimizer::SparseOptimizerConfig;
use crate::config::{EmbeddingsConfig, Payload, Precision};
use crate::data::Batch;

/// What a step asks of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct TableLoad {
    /// The table's name.
    pub name: String,
    /// Rows of the table.
    pub rows: usize,
    /// Columns of the table.
    pub dim: usize,
    /// Lookups in it: pooled vectors a sample.
    pub lookups: usize,
    /// Ids a sample, over all lookups: the hotness.
    pub ids_per_sample: f64,
    /// Distinct rows of some samples.
    pub distinct: Distinct,
    /// Bytes of a number of the table.
    pub number_bytes: usize,
    /// Bytes of optimiser state a row.
    pub state_bytes: usize,
    /// How its vectors travel, and their gradients, where it is sharded.
    pub payloads: [Payload; 2],
}

/// How many distinct rows some samples touch: `rows (n / samples)^exponent`, which two measured sizes
/// give (Heaps' law: what is frequent repeats).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distinct {
    samples: f64,
    rows: f64,
    exponent: f64,
}

impl Distinct {
    /// From the distinct rows of a part and of the whole of some samples, `(samples, rows)` each.
    pub fn new(part: (usize, usize), whole: (usize, usize)) -> Self {
        let ratio = |of: fn((usize, usize)) -> usize| of(whole) as f64 / of(part).max(1) as f64;
        let (samples, rows) = (ratio(|(samples, _)| samples), ratio(|(_, rows)| rows));
        let exponent = if samples > 1.0 && rows >= 1.0 {
            rows.ln() / samples.ln()
        } else {
            1.0
        };
        Self {
            samples: whole.0.max(1) as f64,
            rows: whole.1 as f64,
            exponent: exponent.clamp(0.0, 1.0),
        }
    }

    /// How many rows `ids` independent ids touch of a table whose r-th most frequent row has a probability
    /// proportional to `r^-exponent`: the sum of `1 - (1 - p)^ids` over the rows, those that follow one another
    /// taken together where they are alike.
    pub fn of_zipf(rows: usize, exponent: f64, ids: f64) -> f64 {
        // Blocks of rows that differ by a hundredth.
        let mut blocks = Vec::new();
        let mut first = 1usize;
        while first <= rows {
            let last = (first + first / 100).min(rows);
            let middle = (first as f64 * last as f64).sqrt();
            blocks.push(((last - first + 1) as f64, middle.powf(-exponent)));
            first = last + 1;
        }
        let total: f64 = blocks.iter().map(|(count, weight)| count * weight).sum();
        let touched = |(count, weight): &(f64, f64)| {
            let probability: f64 = weight / total;
            count * -(ids * (-probability).ln_1p()).exp_m1()
        };
        blocks.iter().map(touched).sum()
    }

    /// Distinct rows of `samples` samples.
    pub fn of(&self, samples: f64) -> f64 {
        self.rows * (samples / self.samples).powf(self.exponent)
    }
}

impl TableLoad {
    /// What a batch asks of each table of a graph, in the order of its tables; `stored` is the type in which they are.
    pub fn of_batch(
        graph: &Graph,
        shapes: &Shapes,
        schema: &FeatureSchema,
        batch: &Batch,
        rule: &SparseOptimizerConfig,
        (config, stored): (&EmbeddingsConfig, Precision),
    ) -> Vec<Self> {
        let filled = batch.filled.max(1);
        let mut loads = Self::declared(graph, shapes, schema, rule, (config, stored));
        for load in &mut loads {
            let features = features_of(graph, schema, &load.name);
            let ids = |samples: usize| -> Vec<i64> {
                let of = |&feature: &usize| {
                    let offsets = &batch.encoded.offsets[feature * batch.rows..];
                    &batch.encoded.ids[offsets[0] as usize..offsets[samples] as usize]
                };
                features.iter().flat_map(of).copied().collect()
            };
            let distinct = |samples| ids(samples).into_iter().collect::<HashSet<_>>().len();
            let part = (filled / 8).max(1);
            load.ids_per_sample = ids(filled).len() as f64 / filled as f64;
            load.distinct = Distinct::new((part, distinct(part)), (filled, distinct(filled)));
        }
        loads
    }

    /// The tables of a graph, each asked for one id of its own by every lookup.
    pub fn declared(
        graph: &Graph,
        shapes: &Shapes,
        schema: &FeatureSchema,
        rule: &SparseOptimizerConfig,
        (config, stored): (&EmbeddingsConfig, Precision),
    ) -> Vec<Self> {
        let load = |(table, &rows): (&GraphTable, &usize)| {
            let lookups = features_of(graph, schema, &table.name).len();
            Self {
                name: table.name.clone(),
                rows,
                dim: table.dim,
                lookups,
                ids_per_sample: lookups as f64,
                distinct: Distinct::new((1, lookups), (2, 2 * lookups)),
                number_bytes: stored.bytes(),
                state_bytes: state_bytes(rule, table.dim),
                payloads: [config.vectors, config.gradients],
            }
        };
        graph
            .tables
            .iter()
            .zip(&shapes.table_rows)
            .map(load)
            .collect()
    }

    /// Bytes of a row and of its state.
    pub fn row_bytes(&self) -> f64 {
        (self.dim * self.number_bytes + self.state_bytes) as f64
    }

    /// Distinct rows of `samples` samples, no more than there are.
    pub fn distinct_rows(&self, samples: f64) -> f64 {
        let at_most = (self.ids_per_sample * samples).min(self.rows as f64);
        self.distinct.of(samples).min(at_most)
    }
}

/// Where the features that look up a table stand among the schema's.
fn features_of(graph: &Graph, schema: &FeatureSchema, table: &str) -> Vec<usize> {
    let lookups = graph.nodes.iter().filter_map(|node| match &node.op {
        Op::EmbeddingBag { lookups } => Some(lookups),
        _ => None,
    });
    let own = |lookup: &&LookupSpec| lookup.table == table;
    let features = lookups.flatten().filter(own);
    features
        .filter_map(|lookup| schema.categorical(&lookup.feature))
        .collect()
}

/// Bytes of optimiser state a row.
fn state_bytes(rule: &SparseOptimizerConfig, dim: usize) -> usize {
    let values = match rule {
        SparseOptimizerConfig::Sgd { .. } => 0,
        SparseOptimizerConfig::RowWiseAdagrad { .. } => 1,
        SparseOptimizerConfig::Adagrad { .. } => dim,
        SparseOptimizerConfig::LazyAdam { .. } => 2 * dim,
    };
    values * size_of::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinct_rows_follow_the_measured_sizes() {
        let distinct = Distinct::new((100, 50), (10_000, 500));
        assert!((distinct.of(100.0) - 50.0).abs() < 1e-9);
        assert!((distinct.of(10_000.0) - 500.0).abs() < 1e-9);
        assert!((distinct.of(1_000_000.0) - 5_000.0).abs() < 1e-6);
    }

    #[test]
    fn rows_of_ids_that_follow_zipfs_law_are_those_of_the_sum() {
        for (rows, exponent, ids) in [(50_000usize, 1.05, 8_192.0), (900, 0.0, 1_000.0)] {
            let weights: Vec<f64> = (1..=rows).map(|r| (r as f64).powf(-exponent)).collect();
            let total: f64 = weights.iter().sum();
            let touched = |weight: &f64| 1.0 - (1.0 - weight / total).powf(ids);
            let expected: f64 = weights.iter().map(touched).sum();
            let found = Distinct::of_zipf(rows, exponent, ids);
            assert!((found / expected - 1.0).abs() < 1e-3, "{found} {expected}");
        }
        assert!((Distinct::of_zipf(1, 1.0, 5.0) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn there_are_no_more_distinct_rows_than_ids_or_rows() {
        let load = TableLoad {
            name: "t".into(),
            rows: 600,
            dim: 4,
            lookups: 1,
            ids_per_sample: 0.1,
            distinct: Distinct::new((100, 50), (10_000, 500)),
            number_bytes: 4,
            state_bytes: 4,
            payloads: [Payload::Fp32; 2],
        };
        assert_eq!(load.distinct_rows(1e9), 600.0);
        assert_eq!(load.distinct_rows(10.0), 1.0);
    }
}
