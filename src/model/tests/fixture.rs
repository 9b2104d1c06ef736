use std::ops::Range;

use streamrec_artifact::{
    CategoricalFeature, DenseFeature, DenseSource, Encoding, FeatureSchema, Graph, Pooling,
    TableSchema,
};
use streamrec_kernels::Context;

use crate::{
    comm::{Communicator, SingleRank},
    model::{
        BatchInput, BucketSettings, Extent, GradientSink, Loss, ModelError, Network,
        ParameterBuilder, ParameterStore, TensorParallel,
    },
};

/// SplitMix64, for test data.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    /// In `[-bound, bound]`, never 0: that is where a ReLU has no derivative.
    pub(crate) fn symmetric(&mut self, bound: f32) -> f32 {
        bound * ((self.below(2000) as f32 + 0.5) / 1000.0 - 1.0)
    }
}

/// Features `c0`, `c1`, ... look up these tables, given as (table, rows); names may repeat.
/// Every second feature pools by the mean.
pub(crate) fn schema(dense: usize, lookups: &[(&str, usize)], labels: usize) -> FeatureSchema {
    let mut tables: Vec<TableSchema> = Vec::new();
    for &(name, rows) in lookups {
        if tables.iter().all(|table| table.name != name) {
            tables.push(TableSchema {
                name: name.into(),
                rows,
                dim: None,
            });
        }
    }
    let categorical = lookups
        .iter()
        .enumerate()
        .map(|(index, (table, rows))| CategoricalFeature {
            name: format!("c{index}"),
            input: format!("c{index}"),
            encoding: Encoding::Hash { rows: *rows },
            table: (*table).into(),
            pooling: if index % 2 == 0 {
                Pooling::Sum
            } else {
                Pooling::Mean
            },
            max_length: None,
        });
    let dense = (0..dense).map(|index| DenseFeature {
        name: format!("d{index}"),
        source: DenseSource::Column(format!("d{index}")),
        steps: vec![],
        fill: 0.0,
    });
    FeatureSchema {
        inputs: vec![],
        dense: dense.collect(),
        categorical: categorical.collect(),
        tables,
        labels: (0..labels).map(|index| format!("l{index}")).collect(),
    }
}

/// A batch that owns its data.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) rows: usize,
    dense: Vec<f32>,
    /// `[features][rows]`
    bags: Vec<Vec<Vec<i64>>>,
    ids: Vec<i64>,
    offsets: Vec<i64>,
    pub(crate) labels: Vec<f32>,
    pub(crate) weights: Vec<f32>,
}

impl Batch {
    /// Bags of 0 to 3 ids, weights between 0.5 and 1.5.
    pub(crate) fn random(schema: &FeatureSchema, rows: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let dense = (0..rows * schema.dense.len())
            .map(|_| random.symmetric(1.0))
            .collect();
        let mut bags = Vec::new();
        for feature in &schema.categorical {
            let table = schema.table(&feature.table).unwrap().rows;
            let mut bag = || (0..random.below(4)).map(|_| 0).collect::<Vec<i64>>();
            let mut of_feature: Vec<Vec<i64>> = (0..rows).map(|_| bag()).collect();
            of_feature
                .iter_mut()
                .flatten()
                .for_each(|id| *id = random.below(table) as i64);
            bags.push(of_feature);
        }
        let labels = (0..rows * schema.labels.len())
            .map(|_| random.below(2) as f32)
            .collect();
        let weights = (0..rows).map(|_| 1.0 + random.symmetric(0.5)).collect();
        Self::new(rows, dense, bags, labels, weights)
    }

    fn new(
        rows: usize,
        dense: Vec<f32>,
        bags: Vec<Vec<Vec<i64>>>,
        labels: Vec<f32>,
        weights: Vec<f32>,
    ) -> Self {
        let ids: Vec<i64> = bags.iter().flatten().flatten().copied().collect();
        let mut offsets = vec![0];
        for bag in bags.iter().flatten() {
            offsets.push(offsets[offsets.len() - 1] + bag.len() as i64);
        }
        Self {
            rows,
            dense,
            bags,
            ids,
            offsets,
            labels,
            weights,
        }
    }

    /// Some rows, padded with rows of weight 0 to `padded`.
    pub(crate) fn slice(&self, rows: Range<usize>, padded: usize) -> Self {
        let cut = |values: &[f32]| {
            let width = values.len() / self.rows;
            let mut cut = values[rows.start * width..rows.end * width].to_vec();
            cut.resize(padded * width, 0.0);
            cut
        };
        let bags = self.bags.iter().map(|bags| {
            let mut bags = bags[rows.clone()].to_vec();
            bags.resize(padded, vec![]);
            bags
        });
        let (dense, labels) = (cut(&self.dense), cut(&self.labels));
        Self::new(padded, dense, bags.collect(), labels, cut(&self.weights))
    }

    pub(crate) fn input(&self) -> BatchInput<'_> {
        let n_dense = self.dense.len() / self.rows;
        let n_categorical = self.bags.len();
        BatchInput::new(
            self.rows,
            n_dense,
            n_categorical,
            &self.dense,
            &self.ids,
            &self.offsets,
        )
    }

    pub(crate) fn dense_row(&self, row: usize) -> &[f32] {
        let width = self.dense.len() / self.rows;
        &self.dense[row * width..(row + 1) * width]
    }

    pub(crate) fn bag(&self, feature: usize, row: usize) -> &[i64] {
        &self.bags[feature][row]
    }

    pub(crate) fn weight_sum(&self) -> f64 {
        self.weights.iter().map(|&weight| f64::from(weight)).sum()
    }
}

/// A network over its own store, ready to step.
pub(crate) struct Model {
    pub(crate) context: Context,
    pub(crate) parameters: ParameterStore,
    pub(crate) network: Network,
    pub(crate) loss: Loss,
}

impl Model {
    /// Weights are random, biases included, and the same for the same graph.
    pub(crate) fn new(graph: &Graph, schema: &FeatureSchema, batch: usize) -> Self {
        Self::on(graph, schema, batch, &SingleRank, 1)
    }

    pub(crate) fn on(
        graph: &Graph,
        schema: &FeatureSchema,
        batch: usize,
        comm: &dyn Communicator,
        threads: usize,
    ) -> Self {
        let shared = TensorParallel::none();
        Self::sharing(graph, schema, batch, comm, &shared, threads)
    }

    /// The part of the same model that this rank of a tensor-parallel group holds.
    pub(crate) fn sharing(
        graph: &Graph,
        schema: &FeatureSchema,
        batch: usize,
        comm: &dyn Communicator,
        shared: &TensorParallel,
        threads: usize,
    ) -> Self {
        let context = Context::cpu(threads, false).unwrap();
        let shapes = graph.validate(schema).unwrap();
        let builder = ParameterBuilder::new(3).graph(graph, &shapes, shared);
        let buckets = BucketSettings {
            first_bucket_bytes: 64,
            bucket_bytes: 512,
        };
        let mut parameters = builder.build(&context, comm, buckets).unwrap();
        let mut random = Random(11);
        for mut slice in parameters.named_slices_mut() {
            let Extent { rows, columns, .. } = &slice.extent;
            let all: Vec<f32> = (0..slice.extent.shape.iter().product())
                .map(|_| random.symmetric(0.7))
                .collect();
            let of_row = |row| &all[row * slice.extent.width()..][columns.clone()];
            let own: Vec<f32> = rows.clone().flat_map(of_row).copied().collect();
            slice.values.set_f32(&own);
        }
        let network = Network::new(&context, graph, schema, &parameters, shared, batch).unwrap();
        let heads = (0..schema.labels.len())
            .map(|head| 1.0 + head as f32 / 2.0)
            .collect();
        let loss = Loss::new(&context, batch, heads);
        Self {
            context,
            parameters,
            network,
            loss,
        }
    }

    /// Forward, loss and backward; returns the loss.
    pub(crate) fn pass(
        &mut self,
        batch: &Batch,
        weight_sum: f64,
        accumulate: bool,
        sink: &mut dyn GradientSink,
    ) -> Result<f64, ModelError> {
        let Self {
            context,
            parameters,
            network,
            loss,
        } = self;
        let logits = network.forward(context, parameters, &batch.input())?;
        let value = loss.compute(context, logits, &batch.labels, &batch.weights, weight_sum)?;
        let d_logits = loss.d_logits();
        network.backward(
            context,
            parameters,
            &batch.input(),
            d_logits,
            accumulate,
            sink,
        )?;
        Ok(value)
    }
}
