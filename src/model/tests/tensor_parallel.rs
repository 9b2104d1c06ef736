//! A tensor-parallel group computes what one rank computes.

use std::{collections::BTreeMap, sync::Arc};

use streamrec_artifact::{Activation, FeatureSchema, Graph};
use streamrec_kernels::embedding_bag::RowGradients;

use super::fixture::{Batch, Model, schema};
use crate::{
    comm::{Communicator, Settings, SharedMemory, SingleRank},
    config::Partition,
    model::{Extent, KeepGradients, ModelError, SumScratch, TensorParallel},
};

const ROWS: usize = 19;

/// Every kind of layer that can be shared, alone and in pairs; several read one value.
pub(crate) fn model() -> (Graph, FeatureSchema) {
    let schema = schema(3, &[("a", 9), ("b", 40)], 1);
    let mut graph = crate::model::GraphBuilder::new(&schema);
    let (dense, embeddings) = (graph.dense(), graph.embeddings("embeddings", |_| 4));
    let bottom = graph.mlp("bottom", dense, &[8, 12]);
    let x0 = graph.concat("x0", &[bottom, embeddings]);
    let full = graph.cross("full", x0, x0);
    let low = graph.cross_low_rank("low", x0, full, 8);
    let side = graph.linear("side", x0, 20, false, Activation::None);
    let added = graph.add("added", &[low, side]);
    let top = graph.mlp("top", added, &[12, 8]);
    let logits = graph.logits("logits", top);
    (graph.finish(logits).unwrap(), schema)
}

/// Pairs, a column-parallel layer whose value is gathered, a row-parallel one that cuts its input.
pub(crate) fn partitions() -> BTreeMap<String, Partition> {
    let all = [
        ("bottom.0", Partition::Column),
        ("bottom.1", Partition::Row),
        ("full", Partition::Column),
        ("low", Partition::Rank),
        ("side", Partition::Column),
        ("top.0", Partition::Column),
        ("top.1", Partition::Row),
        ("logits", Partition::Row),
    ];
    all.map(|(name, partition)| (name.to_owned(), partition))
        .into()
}

/// What one pass gives: the logits, each parameter's gradient, the gradients of tables.
struct Found {
    logits: Vec<f32>,
    dense: Vec<(String, Extent, Vec<f32>)>,
    tables: Vec<RowGradients>,
}

fn pass(mut model: Model, batch: &Batch) -> Found {
    // Twice, since gradients of micro-batches add up.
    for accumulate in [false, true] {
        let weights = batch.weight_sum();
        model
            .pass(batch, weights, accumulate, &mut KeepGradients)
            .unwrap();
    }
    let parameters = &model.parameters;
    let dense = parameters.layout().parameters().iter().map(|placed| {
        let name = placed.parameter.name.clone();
        let gradient = parameters.gradients().get(parameters.find(&name).unwrap());
        (name, placed.extent.clone(), gradient.unwrap().to_vec())
    });
    let table = |(id, _)| {
        let (mut sum, mut scratch) = (RowGradients::default(), SumScratch::default());
        model
            .network
            .sum_table_gradient(&model.context, parameters, id, &mut scratch, &mut sum)
            .unwrap();
        sum
    };
    Found {
        logits: model.network.logits().f32().unwrap().to_vec(),
        dense: dense.collect(),
        tables: parameters.tables().map(table).collect(),
    }
}

/// What each rank of a group finds.
fn group(ranks: usize, batch: &Batch) -> Vec<Found> {
    let (graph, schema) = model();
    let comms = SharedMemory::connect_threads(ranks, &Settings::default()).unwrap();
    std::thread::scope(|scope| {
        let run = |comm: SharedMemory| {
            let comm: Arc<dyn Communicator> = Arc::new(comm);
            let shared = TensorParallel::new(comm, &graph, partitions()).unwrap();
            let model = Model::sharing(&graph, &schema, ROWS, &SingleRank, &shared, 1);
            pass(model, batch)
        };
        let threads = comms.into_iter().map(|comm| scope.spawn(move || run(comm)));
        let threads: Vec<_> = threads.collect();
        let found = threads.into_iter().map(|thread| thread.join().unwrap());
        found.collect()
    })
}

fn assert_close(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (got - expected).abs();
        let scale = expected.abs().max(1.0);
        assert!(
            error < 2e-5 * scale,
            "{what}[{index}]: {got}, expected {expected}"
        );
    }
}

#[test]
fn a_group_computes_what_one_rank_computes() {
    let (graph, schema) = model();
    // Fewer rows than planned, too.
    for rows in [ROWS, 7] {
        let batch = Batch::random(&schema, rows, 5);
        let alone = pass(Model::new(&graph, &schema, ROWS), &batch);
        for ranks in [2, 4] {
            let found = group(ranks, &batch);
            for rank in &found {
                assert_close("logits", &rank.logits, &alone.logits);
                assert_eq!(rank.logits, found[0].logits, "ranks agree to the bit");
                for ((name, extent, got), (_, _, all)) in rank.dense.iter().zip(&alone.dense) {
                    let own = |row| &all[row * extent.width()..][extent.columns.clone()];
                    let own: Vec<f32> = extent.rows.clone().flat_map(own).copied().collect();
                    assert_close(name, got, &own);
                }
                for (got, expected) in rank.tables.iter().zip(&alone.tables) {
                    assert_eq!(got.ids, expected.ids);
                    assert_close("a table", &got.rows, &expected.rows);
                }
            }
            let parts = found.iter().map(|rank| &rank.dense);
            let held: usize = parts.flatten().map(|(_, _, part)| part.len()).sum();
            let replicated = alone.dense.iter().map(|(_, _, all)| all.len());
            assert!(
                held < ranks * replicated.sum::<usize>(),
                "weights are shared"
            );
        }
    }
}

#[test]
fn what_cannot_be_shared_is_refused_with_the_numbers() {
    let (graph, _) = model();
    let ranks = SharedMemory::connect_threads(3, &Settings::default()).unwrap();
    let comm: Arc<dyn Communicator> = Arc::new(ranks.into_iter().next().unwrap());
    for (name, partition, expected) in [
        ("bottom.0", Partition::Column, "8 outputs, which 3 ranks"),
        ("top.1", Partition::Column, "8 outputs, which 3 ranks"),
        ("logits", Partition::Row, "8 inputs, which 3 ranks"),
        ("full", Partition::Column, "20 outputs, which 3 ranks"),
        ("low", Partition::Rank, "8 columns between V and W"),
        ("low", Partition::Column, "cannot be column-parallel"),
        ("x0", Partition::Row, "cannot be row-parallel"),
        ("topp", Partition::Row, "no such layer; it has bottom.0,"),
    ] {
        let partitions = BTreeMap::from([(name.to_owned(), partition)]);
        let error = TensorParallel::new(Arc::clone(&comm), &graph, partitions).unwrap_err();
        assert!(matches!(error, ModelError::Partition { .. }));
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains(name), "{text}");
    }
}
