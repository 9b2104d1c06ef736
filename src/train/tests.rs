//! Steps of whole ranks: in half precision, and with what travels ahead.

use std::{collections::BTreeMap, sync::Arc};

use streamrec_artifact::{Encoded, FeatureSchema, Graph};
use streamrec_kernels::Context;

use super::{Predict, StepOutcome, TrainError, Trainer, TrainerSettings};
use crate::comm::{Communicator, Settings, SharedMemory, SingleRank};
use crate::config::{EmbeddingsConfig, LossScaleConfig, Placement, Precision, Reduction};
use crate::data::Batch;
use crate::model::{BucketSettings, GraphBuilder, tests::fixture};
use crate::parallel::{Mesh, TablePlan, TensorPlan};

const ROWS: usize = 12;
const DENSE: usize = 3;
const TABLES: [(&str, usize); 2] = [("a", 40), ("b", 16)];

fn model() -> (Graph, FeatureSchema) {
    let schema = fixture::schema(DENSE, &TABLES, 1);
    let mut graph = GraphBuilder::new(&schema);
    let (dense, embeddings) = (graph.dense(), graph.embeddings("embeddings", |_| 8));
    let x0 = graph.concat("x0", &[dense, embeddings]);
    let x1 = graph.cross_low_rank("cross", x0, x0, 4);
    let top = graph.mlp("top", x1, &[16]);
    let logits = graph.logits("logits", top);
    (graph.finish(logits).unwrap(), schema)
}

/// One id a bag.
fn batch(seed: u64) -> Batch {
    let mut random = fixture::Random(seed);
    let mut ids = Vec::new();
    for (_, rows) in TABLES {
        ids.extend((0..ROWS).map(|_| random.below(rows) as i64));
    }
    let dense = (0..ROWS * DENSE).map(|_| random.symmetric(1.0)).collect();
    Batch {
        rows: ROWS,
        filled: ROWS,
        encoded: Encoded {
            rows: ROWS,
            dense,
            ids,
            offsets: (0..=(TABLES.len() * ROWS) as i64).collect(),
        },
        labels: (0..ROWS).map(|_| random.below(2) as f32).collect(),
        weights: vec![1.0; ROWS],
        weight_sum: 2.0 * ROWS as f64,
        ..Batch::default()
    }
}

/// What differs between ranks that train.
#[derive(Clone, Copy)]
struct Plan {
    tp: usize,
    placement: Placement,
    precision: Precision,
    /// Of tables.
    tables: Precision,
    /// Pieces of a batch.
    pieces: usize,
    growth_steps: u64,
    /// Leaves the tables alone to notice an overflow.
    dense_frozen: bool,
}

impl Plan {
    fn trainer(&self, comm: Arc<dyn Communicator>) -> Trainer {
        let (graph, schema) = model();
        let optimizer = "[dense]\nkind = 'adam'\nlearning_rate = 0.01\n\
                         [sparse]\nkind = 'row_wise_adagrad'\nlearning_rate = 0.1\n";
        let groups = if self.dense_frozen {
            frozen(&graph)
        } else {
            String::new()
        };
        let ranks = comm.size();
        let mesh = Mesh::new(comm, self.tp).unwrap();
        let embeddings = EmbeddingsConfig {
            placement: self.placement,
            ..EmbeddingsConfig::default()
        };
        let shapes = graph.validate(&schema).unwrap();
        let reduction = Reduction::Fast;
        let tables = TablePlan::new(&graph, &shapes, &embeddings, reduction, ranks).unwrap();
        let settings = TrainerSettings {
            seed: 5,
            batch_rows: ROWS,
            global_batch: 2 * ROWS,
            accumulate: self.pieces,
            reduction,
            precision: self.precision,
            table_precision: self.tables,
            loss_scale: LossScaleConfig {
                growth_steps: self.growth_steps,
                ..LossScaleConfig::default()
            },
            label_weights: vec![1.0],
            partitions: match self.tp {
                1 => BTreeMap::new(),
                _ => TensorPlan::new(&graph, &BTreeMap::new()).partitions(),
            },
            tables: Some(tables),
            buckets: BucketSettings::default(),
        };
        let optimizer = toml::from_str(&format!("{optimizer}{groups}")).unwrap();
        let context = Context::cpu(1, false).unwrap();
        Trainer::new(context, mesh, &graph, &schema, &optimizer, settings).unwrap()
    }
}

/// A group that freezes each dense parameter.
fn frozen(graph: &Graph) -> String {
    let parameters = graph.nodes.iter().flat_map(|node| node.parameters());
    parameters
        .map(|parameter| {
            format!(
                "[[group]]\npattern = '{}'\nlearning_rate_scale = 0.0\n",
                parameter.name
            )
        })
        .collect()
}

type Tensors = Vec<(String, Vec<u32>)>;

fn tensors(trainer: &Trainer) -> Tensors {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect();
    let slices = trainer.named_slices();
    slices
        .map(|slice| (slice.name, bits(&slice.values.to_f32())))
        .collect()
}

/// Trains `ranks` threads; `disturb` changes the batch of a rank (dp index, step). Returns for each rank
/// and step what the step found, and all tensors after it.
fn train(
    ranks: usize,
    plan: Plan,
    steps: u64,
    disturb: impl Fn(usize, u64, &mut Batch) + Sync,
) -> Vec<Vec<(StepOutcome, Tensors)>> {
    let comms = SharedMemory::connect_threads(ranks, &Settings::default()).unwrap();
    let run = |comm: SharedMemory| {
        let mut trainer = plan.trainer(Arc::new(comm));
        let dp = trainer.mesh().dp.rank();
        let step = |step| {
            let mut batch = batch(100 * step + dp as u64);
            disturb(dp, step, &mut batch);
            let outcome = trainer.step(&batch, None, step, false).unwrap();
            (outcome, tensors(&trainer))
        };
        (1..=steps).map(step).collect()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = comms
            .into_iter()
            .map(|comm| scope.spawn(|| run(comm)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// In step 2 one sample of data-parallel rank 1 weighs so much that its gradients leave fp16.
fn overflow(dp: usize, step: u64, batch: &mut Batch) {
    if (dp, step) == (1, 2) {
        batch.weights[3] = 1e9;
    }
}

#[test]
fn an_overflow_on_one_rank_skips_that_step_on_all_tables_included() {
    let plan = |tp, placement, dense_frozen| Plan {
        tp,
        placement,
        precision: Precision::Fp16,
        tables: Precision::Fp32,
        pieces: 1,
        growth_steps: 2_000,
        dense_frozen,
    };
    let pieces = |plan| Plan { pieces: 3, ..plan };
    let halves = |plan| Plan {
        tables: Precision::Fp16,
        ..plan
    };
    for (ranks, plan) in [
        (2, plan(1, Placement::Replicated, false)),
        (2, plan(1, Placement::RowWise, false)),
        // Nothing but one owner's rows tells.
        (2, plan(1, Placement::RowWise, true)),
        (2, plan(1, Placement::TableWise, true)),
        (2, plan(1, Placement::ColumnWise, false)),
        (4, plan(2, Placement::RowWise, false)),
        (2, pieces(plan(1, Placement::RowWise, false))),
        (2, halves(plan(1, Placement::Replicated, false))),
        (2, halves(plan(1, Placement::RowWise, true))),
    ] {
        let of_ranks = train(ranks, plan, 4, overflow);
        for (rank, steps) in of_ranks.iter().enumerate() {
            let skipped: Vec<bool> = steps.iter().map(|(outcome, _)| outcome.skipped).collect();
            assert_eq!(skipped, [false, true, false, false], "rank {rank}");
            let [first, second, third, _] = steps.as_slice() else {
                unreachable!()
            };
            assert!(
                second.1 == first.1,
                "rank {rank}: nothing changes in a skipped step"
            );
            for (before, after) in second.1.iter().zip(&third.1) {
                let moves = before != after;
                let own = before.0.contains("embedding.") || !plan.dense_frozen;
                // Biases of a ReLU that is off may rest, and a rank may hold nothing of a table.
                let may_rest = before.0.contains("bias") || before.1.is_empty();
                assert!(moves || !own || may_rest, "{} rests", before.0);
            }
            assert!(steps.iter().all(|(outcome, _)| outcome.loss.is_finite()));
        }
    }
}

#[test]
fn scaled_gradients_update_like_unscaled_ones() {
    let plan = |precision, growth_steps| Plan {
        tp: 1,
        placement: Placement::Replicated,
        precision,
        tables: Precision::Fp32,
        pieces: 1,
        growth_steps,
        dense_frozen: false,
    };
    let undisturbed = |_: usize, _: u64, _: &mut Batch| {};
    let full = train(2, plan(Precision::Fp32, 1), 6, undisturbed);
    // A factor that changes after each step changes no update beyond rounding.
    for (precision, growth_steps) in [
        (Precision::Bf16, 1),
        (Precision::Fp16, 2_000),
        (Precision::Fp16, 1),
    ] {
        let half = train(2, plan(precision, growth_steps), 6, undisturbed);
        assert!(
            half[0][5].1 == half[1][5].1,
            "ranks stay identical to the bit"
        );
        for ((full, _), (half, _)) in full[0].iter().zip(&half[0]) {
            assert!(
                (full.loss - half.loss).abs() < 5e-3,
                "{precision}: {full:?}, {half:?}"
            );
            let ratio = half.gradient_norm / full.gradient_norm;
            assert!(
                (ratio - 1.0).abs() < 0.05,
                "{precision}: {full:?}, {half:?}"
            );
        }
    }
}

#[test]
fn a_loss_that_leaves_fp16_at_every_scale_ends_the_run_with_advice() {
    let plan = Plan {
        tp: 1,
        placement: Placement::Replicated,
        precision: Precision::Fp16,
        tables: Precision::Fp32,
        pieces: 1,
        growth_steps: 2_000,
        dense_frozen: false,
    };
    let mut trainer = plan.trainer(Arc::new(SingleRank));
    let mut batch = batch(1);
    // Beyond 65,504: the first product overflows whatever the loss is multiplied by.
    batch.encoded.dense.fill(1e6);
    let error = (1..=40).find_map(|step| trainer.step(&batch, None, step, false).err());
    let Some(error @ TrainError::LossScale { step: 17, .. }) = error else {
        panic!("{error:?}");
    };
    assert!(error.to_string().contains("bf16"), "{error}");
}

#[test]
fn vectors_that_travel_ahead_and_predictions_meanwhile_change_nothing() {
    let run = |comm: SharedMemory, plan: Plan, ahead: bool| {
        let mut trainer = plan.trainer(Arc::new(comm));
        let dp = trainer.mesh().dp.rank();
        let batch = |step: u64| batch(100 * step + dp as u64);
        let mut found = Vec::new();
        for step in 1..=4 {
            let next = batch(step + 1);
            let next = ahead.then_some(&next);
            let outcome = trainer.step(&batch(step), next, step, false).unwrap();
            let mut probabilities = Vec::new();
            trainer.predict(&batch(9), &mut probabilities).unwrap();
            let loss = outcome.loss.to_bits();
            found.push((loss, probabilities, tensors(&trainer)));
        }
        found
    };
    let [fp32, bf16, fp16] = [Precision::Fp32, Precision::Bf16, Precision::Fp16];
    for (ranks, tp, placement, [precision, tables], pieces) in [
        (2, 1, Placement::TableWise, [fp32, fp32], 1),
        (2, 1, Placement::RowWise, [bf16, fp32], 1),
        (2, 1, Placement::ColumnWise, [fp32, bf16], 1),
        (2, 1, Placement::RowWise, [fp16, fp32], 1),
        (4, 2, Placement::TableWise, [fp32, fp16], 1),
        (2, 1, Placement::TableWise, [fp32, fp32], 2),
        (2, 1, Placement::RowWise, [fp16, bf16], 3),
        (4, 2, Placement::ColumnWise, [fp32, fp32], 4),
    ] {
        let plan = Plan {
            tp,
            placement,
            precision,
            tables,
            pieces,
            growth_steps: 2_000,
            dense_frozen: false,
        };
        let of_ranks = |ahead| {
            let comms = SharedMemory::connect_threads(ranks, &Settings::default()).unwrap();
            std::thread::scope(|scope| {
                let spawn = |comm| scope.spawn(move || run(comm, plan, ahead));
                let threads: Vec<_> = comms.into_iter().map(spawn).collect();
                let joined = threads.into_iter().map(|thread| thread.join().unwrap());
                joined.collect::<Vec<_>>()
            })
        };
        assert!(
            of_ranks(true) == of_ranks(false),
            "{placement}, {precision}, {pieces} pieces"
        );
    }
}
