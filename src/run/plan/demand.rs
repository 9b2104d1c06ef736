//! What a step of an experiment asks of ranks: of its tables, and of its layers.

use std::collections::BTreeMap;

use streamrec_artifact::{FeatureSchema, Graph, Shapes};

use super::super::RunError;
use super::super::features::Features;
use super::super::readers;
use crate::comm::SingleRank;
use crate::config::optimizer::DenseOptimizerConfig;
use crate::config::{Exchange, Experiment, Partition};
use crate::data::{Batch, Dataset};
use crate::model::ModelError;
use crate::parallel::planner::{BatchSplit, DenseLoad, TableLoad};
use crate::parallel::{TablePlan, TensorPlan};

const FLOAT: f64 = 4.0;

/// What a step asks.
pub(in crate::run) struct Demand {
    pub(in crate::run) graph: Graph,
    pub(in crate::run) schema: FeatureSchema,
    pub(in crate::run) tables: Vec<TableLoad>,
    shapes: Shapes,
}

impl Demand {
    /// Of the tables that are given.
    pub(super) fn new(
        graph: Graph,
        schema: FeatureSchema,
        tables: impl FnOnce(&Graph, &Shapes, &FeatureSchema) -> Result<Vec<TableLoad>, RunError>,
    ) -> Result<Self, RunError> {
        let shapes = graph.validate(&schema).map_err(ModelError::from)?;
        Ok(Self {
            tables: tables(&graph, &shapes, &schema)?,
            graph,
            schema,
            shapes,
        })
    }

    /// Of a batch.
    pub(in crate::run) fn of_batch(
        experiment: &Experiment,
        graph: Graph,
        schema: FeatureSchema,
        batch: &Batch,
    ) -> Result<Self, RunError> {
        let rule = &experiment.optimizer.sparse;
        let stored = experiment.train.table_precision;
        let config = (&experiment.parallel.embeddings, stored);
        Self::new(graph, schema, |graph, shapes, schema| {
            Ok(TableLoad::of_batch(
                graph, shapes, schema, batch, rule, config,
            ))
        })
    }

    /// What the layers ask of each rank.
    pub(in crate::run) fn dense(&self, experiment: &Experiment, split: &BatchSplit) -> DenseLoad {
        let partitions = match split.tp {
            1 => BTreeMap::new(),
            _ => self.partitions(experiment),
        };
        DenseLoad::new(&self.graph, &self.shapes, &partitions, split)
    }

    /// Tables that a rank which is alone exchanges with itself.
    pub(super) fn exchanged_alone(&self, exchange: Exchange) -> TablePlan {
        TablePlan::exchanged_alone(&self.graph, &self.shapes, exchange)
    }

    fn partitions(&self, experiment: &Experiment) -> BTreeMap<String, Partition> {
        TensorPlan::new(&self.graph, &experiment.parallel.layers).partitions()
    }
}

/// Bytes that a rank holds besides tables: weights, gradients, optimiser state, values and their gradients.
pub(in crate::run) fn dense_bytes(experiment: &Experiment, dense: &DenseLoad) -> f64 {
    let copies = match experiment.optimizer.dense {
        DenseOptimizerConfig::Sgd { momentum: 0.0, .. } => 2.0,
        DenseOptimizerConfig::Sgd { .. } | DenseOptimizerConfig::Adagrad { .. } => 3.0,
        DenseOptimizerConfig::Adam { .. } | DenseOptimizerConfig::AdamW { .. } => 4.0,
    };
    dense.parameters * FLOAT * copies + dense.activation_bytes
}

/// The first global batches of an experiment, for one rank that reads all of them.
pub(in crate::run) fn first_batches(
    experiment: &Experiment,
    dataset: &Dataset,
    features: &Features,
    count: usize,
) -> Result<Vec<Batch>, RunError> {
    let mut reader = readers::training(experiment, dataset, &features.encoder, &SingleRank)?;
    reader.start(0, 0)?;
    let mut batches = Vec::with_capacity(count);
    while batches.len() < count
        && let Some(batch) = reader.next()?
    {
        batches.push(batch);
    }
    if batches.is_empty() {
        return Err(RunError::Usage(format!(
            "the training split of {} has no rows to measure: import or generate data first",
            dataset.folder.display()
        )));
    }
    Ok(batches)
}
