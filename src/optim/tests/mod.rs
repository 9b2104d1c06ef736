//! Whole steps: forward, backward, exchange, update.

mod ranks;
mod rules;

use std::sync::Arc;

use streamrec_artifact::{FeatureSchema, Graph};

use super::Optimizer;
use crate::{
    comm::Communicator,
    config::{Reduction, optimizer::OptimizerConfig},
    model::{
        GraphBuilder, KeepGradients,
        tests::fixture::{Batch, Model, schema},
    },
    parallel::{GradientBuckets, Mesh, SparseSync},
};

/// A model with dense layers of several buckets, a shared table, and one that two nodes look up.
fn model() -> (Graph, FeatureSchema) {
    let schema = schema(3, &[("a", 9), ("b", 40), ("a", 9)], 1);
    let mut graph = GraphBuilder::new(&schema);
    let (dense, embeddings) = (graph.dense(), graph.embeddings("embeddings", |_| 4));
    let lookup = streamrec_artifact::LookupSpec {
        feature: "c1".into(),
        table: "b".into(),
        pooling: streamrec_artifact::Pooling::Mean,
    };
    let again = graph.embedding_bag("again", vec![lookup]);
    let x0 = graph.concat("x0", &[dense, embeddings, again]);
    let x1 = graph.cross_low_rank("cross", x0, x0, 3);
    let top = graph.mlp("top", x1, &[8]);
    let logits = graph.logits("logits", top);
    (graph.finish(logits).unwrap(), schema)
}

fn config(dense: &str, sparse: &str, rest: &str) -> OptimizerConfig {
    toml::from_str(&format!("{rest}\n[dense]\n{dense}\n[sparse]\n{sparse}\n")).unwrap()
}

/// A rank that trains.
struct Rank {
    model: Model,
    optimizer: Optimizer,
    buckets: GradientBuckets,
    tables: SparseSync,
    step: u64,
}

impl Rank {
    fn new(config: &OptimizerConfig, comm: Arc<dyn Communicator>, batch: usize) -> Self {
        let (graph, schema) = model();
        let model = Model::on(&graph, &schema, batch, comm.as_ref(), 1);
        let optimizer = Optimizer::new(
            &model.context,
            config,
            &model.parameters,
            &Mesh::single(),
            Reduction::Fast,
        )
        .unwrap();
        let buckets = GradientBuckets::new(
            Arc::clone(&comm),
            model.parameters.layout(),
            Reduction::Fast,
        );
        let tables = SparseSync::new(comm, &model.parameters, Reduction::Fast, |table| {
            optimizer.is_frozen(table)
        });
        Self {
            model,
            optimizer,
            buckets,
            tables,
            step: 0,
        }
    }

    /// One step over micro-batches of the global batch, whose weight sum is given.
    fn train(&mut self, batches: &[Batch], weight_sum: f64) {
        self.step += 1;
        for (index, batch) in batches.iter().enumerate() {
            let last = index + 1 == batches.len();
            if last {
                self.model
                    .pass(batch, weight_sum, index > 0, &mut self.buckets)
                    .unwrap();
            } else {
                self.model
                    .pass(batch, weight_sum, index > 0, &mut KeepGradients)
                    .unwrap();
            }
            let Model {
                context,
                parameters,
                network,
                ..
            } = &self.model;
            self.tables
                .collect(context, parameters, network, last)
                .unwrap();
        }
        let Self {
            model,
            optimizer,
            buckets,
            tables,
            step,
        } = self;
        let Model {
            context,
            parameters,
            network,
            ..
        } = model;
        tables.start();
        buckets.finish(parameters.gradients_mut()).unwrap();
        optimizer.update_dense(context, parameters, *step).unwrap();
        tables.finish(context).unwrap();
        let gradient = |table| tables.gradient(network, table);
        optimizer
            .update_tables(context, parameters, *step, gradient)
            .unwrap();
    }

    /// All weights and all state, by name.
    fn tensors(&self) -> Vec<(String, Vec<f32>)> {
        let weights = self.model.parameters.named_slices();
        let all = weights.chain(self.optimizer.named_slices());
        all.map(|slice| (slice.name, slice.values.to_f32()))
            .collect()
    }
}
