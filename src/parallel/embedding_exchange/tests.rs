//! An exchange brings the vectors, and takes back the gradients, of tables that are not here.

use std::{collections::VecDeque, sync::Arc};

use streamrec_artifact::{FeatureSchema, Graph, LookupSpec, Pooling as SpecPooling};
use streamrec_kernels::{
    Context,
    embedding_bag::{RowGradients, merge},
};

use super::*;
use crate::{
    comm::{Settings, SharedMemory, SingleRank},
    config::{EmbeddingsConfig, Exchange, Placement, Reduction},
    model::{
        BucketSettings, GraphBuilder, KeepGradients, ParameterBuilder, SumScratch, TensorParallel,
        tests::fixture::{Batch, schema},
    },
};

const ROWS: usize = 11;

/// A table that two features share, one that two nodes look up, sums and means, bags of 0 to 3 ids.
fn model() -> (Graph, FeatureSchema) {
    let schema = schema(3, &[("a", 9), ("b", 40), ("a", 9)], 1);
    let mut graph = GraphBuilder::new(&schema);
    let (dense, embeddings) = (graph.dense(), graph.embeddings("embeddings", |_| 5));
    let lookup = LookupSpec {
        feature: "c1".into(),
        table: "b".into(),
        pooling: SpecPooling::Mean,
    };
    let again = graph.embedding_bag("again", vec![lookup]);
    let x0 = graph.concat("x0", &[dense, embeddings, again]);
    let logits = graph.logits("logits", x0);
    (graph.finish(logits).unwrap(), schema)
}

/// A rank's store and network, of tables that lie as the plan says.
fn rank(plan: &TablePlan, rank: usize) -> (Context, ParameterStore, Network) {
    let (graph, schema) = model();
    let context = Context::cpu(1, false).unwrap();
    let shapes = graph.validate(&schema).unwrap();
    let none = TensorParallel::none();
    let parameters = ParameterBuilder::new(3)
        .graph(&graph, &shapes, &none)
        .shard_tables(plan.extents(rank))
        .build(&context, &SingleRank, BucketSettings::default())
        .unwrap();
    let network = Network::new(&context, &graph, &schema, &parameters, &none, ROWS).unwrap();
    (context, parameters, network)
}

/// Logits, and the gradient of each table that is here.
type Found = (Vec<f32>, Vec<RowGradients>);

/// Forward and backward over two micro-batches with every table here. The gradient of each logit is its
/// number.
fn alone(batches: &[Batch; 2]) -> [Found; 2] {
    let (graph, schema) = model();
    let shapes = graph.validate(&schema).unwrap();
    let (context, mut parameters, mut network) = rank(&TablePlan::replicated(&graph, &shapes), 0);
    batches.each_ref().map(|batch| {
        let input = batch.input();
        let logits = network.forward(&context, &parameters, &input).unwrap();
        let logits = logits.f32().unwrap().to_vec();
        backward(&context, &mut parameters, &mut network, &input);
        let sum = |(id, _)| {
            let (mut sum, mut scratch) = (RowGradients::default(), SumScratch::default());
            network
                .sum_table_gradient(&context, &parameters, id, &mut scratch, &mut sum)
                .unwrap();
            sum
        };
        (logits, parameters.tables().map(sum).collect())
    })
}

fn backward(
    context: &Context,
    parameters: &mut ParameterStore,
    network: &mut Network,
    input: &BatchInput<'_>,
) {
    let d_logits: Vec<f32> = (0..input.rows()).map(|row| row as f32 - 3.5).collect();
    let d_logits = TensorRef::from_f32(&d_logits, &[input.rows(), 1]);
    network
        .backward(
            context,
            parameters,
            input,
            d_logits,
            false,
            &mut KeepGradients,
        )
        .unwrap();
}

/// The same on one rank of a mesh: logits of both micro-batches, then the part of each table's summed
/// gradient that is here, as `(extent, gradient)`.
fn sharded(
    mesh: &Mesh,
    plan: &TablePlan,
    batches: &[Batch; 2],
) -> ([Vec<f32>; 2], Vec<(crate::model::Extent, RowGradients)>) {
    let (context, mut parameters, mut network) = rank(plan, mesh.world.rank());
    let mut exchange =
        EmbeddingExchange::new(mesh, plan, &parameters, &network, Reduction::Fast, ROWS).unwrap();
    // The second's ids travel ahead, and the first's gradients are read when the second's have left.
    let mut pending: Vec<PendingIds> = batches
        .iter()
        .map(|batch| exchange.send_ids(&batch.input()).unwrap())
        .collect();
    let mut logits = [Vec::new(), Vec::new()];
    let mut sent = VecDeque::new();
    for (index, ids) in pending.drain(..).enumerate() {
        let batch = &batches[index];
        let (vectors, _) = exchange.fetch(&context, &parameters, ids).unwrap();
        let input = batch.input().with_remote(vectors);
        let found = network.forward(&context, &parameters, &input).unwrap();
        logits[index] = found.f32().unwrap().to_vec();
        backward(&context, &mut parameters, &mut network, &batch.input());
        sent.push_back(exchange.send_gradients(&context, &network).unwrap());
    }
    while let Some(gradients) = sent.pop_front() {
        let last = sent.is_empty();
        exchange.collect(&context, gradients, last).unwrap();
    }
    let gradient = |(id, table): (TableId, &crate::model::Table)| {
        let Some(SparseGradient::Rows(sum)) = exchange.gradient(id) else {
            panic!("two micro-batches are summed");
        };
        (table.extent.clone(), sum.clone())
    };
    (logits, parameters.tables().map(gradient).collect())
}

fn close(one: &[f32], other: &[f32], tolerance: f32) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|(a, b)| (a - b).abs() < tolerance)
}

/// Every rank's batches differ along dp, and are the same along tp.
fn batches(dp: usize, schema: &FeatureSchema) -> [Batch; 2] {
    // Fewer rows than planned, too.
    [(ROWS, 1), (4, 2)].map(|(rows, seed)| Batch::random(schema, rows, seed + 10 * dp as u64))
}

fn check(dp: usize, tp: usize, config: &EmbeddingsConfig, tolerances: [f32; 2]) {
    let (graph, schema) = model();
    let shapes = graph.validate(&schema).unwrap();
    let plan = TablePlan::new(&graph, &shapes, config, Reduction::Fast, dp * tp).unwrap();
    let expected: Vec<[Found; 2]> = (0..dp).map(|dp| alone(&batches(dp, &schema))).collect();
    let context = Context::cpu(1, false).unwrap();
    let sums: Vec<RowGradients> = (0..plan.tables().len())
        .map(|table| {
            let parts = expected.iter().flatten().map(|found| found.1[table].view());
            let mut sum = RowGradients::default();
            merge(&context, &parts.collect::<Vec<_>>(), 5, &mut sum).unwrap();
            sum
        })
        .collect();
    let [forward, backward] = tolerances;
    let comms = SharedMemory::connect_threads(dp * tp, &Settings::default()).unwrap();
    std::thread::scope(|scope| {
        for (rank, comm) in comms.into_iter().enumerate() {
            let (plan, schema, sums, expected) = (&plan, &schema, &sums, &expected);
            scope.spawn(move || {
                let mesh = Mesh::new(Arc::new(comm), tp).unwrap();
                let own = batches(rank / tp, schema);
                let (logits, tables) = sharded(&mesh, plan, &own);
                for (got, (expected, _)) in logits.iter().zip(&expected[rank / tp]) {
                    assert!(
                        close(got, expected, forward),
                        "{plan}: {got:?}, {expected:?}"
                    );
                }
                for ((extent, got), all) in tables.iter().zip(sums) {
                    let inside = |id: &i64| extent.rows.contains(&(*id as usize));
                    let touched = all.ids.iter().zip(all.rows.chunks(5));
                    let touched = touched.filter(|(id, _)| inside(id));
                    let (ids, rows): (Vec<i64>, Vec<&[f32]>) = touched
                        .map(|(id, row)| {
                            (id - extent.rows.start as i64, &row[extent.columns.clone()])
                        })
                        .unzip();
                    assert_eq!(got.ids, ids, "{plan}");
                    assert!(close(&got.rows, &rows.concat(), backward), "{plan}");
                }
            });
        }
    });
}

#[test]
fn vectors_and_gradients_are_those_of_tables_that_are_here() {
    for (dp, tp) in [(2, 1), (3, 1), (1, 2), (2, 2)] {
        for placement in [
            Placement::TableWise,
            Placement::RowWise,
            Placement::ColumnWise,
        ] {
            for exchange in [Exchange::Pooled, Exchange::Unique] {
                let config = EmbeddingsConfig {
                    placement,
                    exchange,
                    ..EmbeddingsConfig::default()
                };
                check(dp, tp, &config, [1e-5; 2]);
            }
        }
    }
}

#[test]
fn payloads_round_what_travels_their_way_and_nothing_else() {
    use Payload::{Bf16, Fp16, Fp32};
    for exchange in [Exchange::Pooled, Exchange::Unique] {
        for (vectors, gradients, tolerances) in [
            (Bf16, Fp32, [2e-2, 1e-5]),
            (Fp16, Fp32, [2e-3, 1e-5]),
            (Fp32, Bf16, [1e-5, 4e-1]),
            (Fp32, Fp16, [1e-5, 5e-2]),
        ] {
            let config = EmbeddingsConfig {
                placement: Placement::RowWise,
                exchange,
                vectors,
                gradients,
                ..EmbeddingsConfig::default()
            };
            check(2, 1, &config, tolerances);
        }
    }
}

#[test]
fn an_id_outside_its_table_is_named() {
    let (graph, _) = model();
    let other = schema(3, &[("a", 9), ("b", 400), ("a", 9)], 1);
    let shapes = graph.validate(&model().1).unwrap();
    let config = EmbeddingsConfig {
        placement: Placement::RowWise,
        ..EmbeddingsConfig::default()
    };
    let plan = TablePlan::new(&graph, &shapes, &config, Reduction::Fast, 2).unwrap();
    let comms = SharedMemory::connect_threads(2, &Settings::default()).unwrap();
    std::thread::scope(|scope| {
        for comm in comms {
            let (plan, other) = (&plan, &other);
            scope.spawn(move || {
                let mesh = Mesh::new(Arc::new(comm), 1).unwrap();
                let (_, parameters, network) = rank(plan, mesh.world.rank());
                let exchange = EmbeddingExchange::new(
                    &mesh,
                    plan,
                    &parameters,
                    &network,
                    Reduction::Fast,
                    ROWS,
                );
                let batch = Batch::random(other, ROWS, 3);
                let Err(error) = exchange.unwrap().send_ids(&batch.input()) else {
                    panic!("ids up to 400 pass as rows of 40");
                };
                assert!(
                    error.to_string().contains("a row of `b`, below 40"),
                    "{error}"
                );
            });
        }
    });
}
