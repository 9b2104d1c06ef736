//! A steady step of training on a CPU takes no memory from the heap, on any of its threads.
//!
//! A single rank, with batches that are there already. The first steps take what they need and keep it; how much
//! memory is borrowed at once, and so how much is kept, depends on how threads meet, so that a later step may still take some.
//! Rayon's queue, through which a pass reaches the threads, takes a block of memory for every 63 passes by construction: fewer
//! than one for four steps. So the claim is that four steps in a row take none.

#[path = "../benches/clicks/mod.rs"]
mod clicks;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use clicks::Clicks;
use streamrec::config::model::{DcnV2Config, DlrmConfig, ModelConfig, Structure};
use streamrec::config::optimizer::{
    DenseOptimizerConfig, OptimizerConfig, ScheduleConfig, SparseOptimizerConfig,
};
use streamrec::config::{LossScaleConfig, Precision, Reduction};
use streamrec::model::{BucketSettings, GraphBuilder, models};
use streamrec::parallel::Mesh;
use streamrec::train::{Trainer, TrainerSettings};
use streamrec_allocations::{Counting, count};
use streamrec_artifact::Graph;
use streamrec_kernels::Context;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of one test are not to be another's.
static TURN: Mutex<()> = Mutex::new(());

const BF16_UNIT: &str = "STREAMREC_BF16_UNIT";
const BATCH: usize = 512;
const THREADS: usize = 2;
const STEADY_STEPS: usize = 4;
/// Steps among which steady ones are found.
const STEPS: u64 = 50;

const CLICKS: Clicks = Clicks {
    dense: 13,
    tables: &[5_000, 1_000, 1_000, 100, 100, 10],
    zipf_exponent: 1.05,
};

/// Layers of the benchmarks' models, narrower.
fn graph(model: &str) -> Graph {
    let schema = CLICKS.schema();
    let config = match model {
        "dlrm" => ModelConfig::Dlrm(DlrmConfig {
            embedding_dim: 32,
            dims: BTreeMap::new(),
            bottom: vec![128, 64, 32],
            top: vec![256, 128],
        }),
        "dcn_v2" => ModelConfig::DcnV2(DcnV2Config {
            embedding_dim: 32,
            dims: BTreeMap::new(),
            bottom: vec![32],
            cross_layers: 2,
            cross_rank: 32,
            deep: vec![256, 128],
            structure: Structure::Stacked,
        }),
        _ => {
            let mut graph = GraphBuilder::new(&schema);
            let embeddings = graph.embeddings("embeddings", |_| 32);
            let deep = graph.mlp("deep", embeddings, &[256, 128, 64]);
            let logits = graph.logits("logits", deep);
            return graph.finish(logits).unwrap();
        }
    };
    models::build(&config, &schema).unwrap()
}

/// Of tables, with that of dense weights.
fn optimizer(sparse: &str) -> OptimizerConfig {
    let (learning_rate, eps, weight_decay) = (0.01, 1e-8, 0.0);
    let (initial_accumulator, max_row_norm) = (0.0, None);
    let (beta1, beta2) = (0.9, 0.999);
    let adagrad = DenseOptimizerConfig::Adagrad {
        learning_rate,
        eps,
        initial_accumulator,
        weight_decay,
    };
    let (dense, sparse) = match sparse {
        "row_wise_adagrad" => (
            adagrad,
            SparseOptimizerConfig::RowWiseAdagrad {
                learning_rate,
                eps,
                initial_accumulator,
                weight_decay,
                max_row_norm,
            },
        ),
        "adagrad" => (
            adagrad,
            SparseOptimizerConfig::Adagrad {
                learning_rate,
                eps,
                initial_accumulator,
                weight_decay,
                max_row_norm,
            },
        ),
        _ => (
            DenseOptimizerConfig::Adam {
                learning_rate,
                beta1,
                beta2,
                eps,
                weight_decay,
            },
            SparseOptimizerConfig::LazyAdam {
                learning_rate,
                beta1,
                beta2,
                eps,
                weight_decay,
                max_row_norm,
            },
        ),
    };
    OptimizerConfig {
        dense,
        sparse,
        groups: Vec::new(),
        schedule: ScheduleConfig::default(),
        clip_norm: Some(1.0),
    }
}

fn trainer(model: &str, sparse: &str, [precision, table_precision]: [Precision; 2]) -> Trainer {
    let settings = TrainerSettings {
        seed: 1,
        batch_rows: BATCH,
        global_batch: BATCH,
        accumulate: 1,
        reduction: Reduction::Fast,
        precision,
        table_precision,
        loss_scale: LossScaleConfig::default(),
        label_weights: vec![1.0],
        partitions: BTreeMap::new(),
        tables: None,
        buckets: BucketSettings::default(),
    };
    let context = Context::cpu(THREADS, false).unwrap();
    let (mesh, schema) = (Mesh::single(), CLICKS.schema());
    let (graph, optimizer) = (graph(model), optimizer(sparse));
    Trainer::new(context, mesh, &graph, &schema, &optimizer, settings).unwrap()
}

#[track_caller]
fn steady_steps_take_no_memory(precision: Precision) {
    let batches = CLICKS.batches(BATCH, 2);
    let mut updates = vec![
        ("adagrad", precision),
        ("row_wise_adagrad", Precision::Fp32),
        ("lazy_adam", Precision::Fp32),
    ];
    // Emulated products take long, and what follows them is the same.
    if std::env::var(BF16_UNIT).is_ok_and(|unit| unit == "emulated") {
        updates.truncate(1);
    }
    for model in ["dlrm", "dcn_v2", "streamrec"] {
        for &(sparse, table_precision) in &updates {
            let mut trainer = trainer(model, sparse, [precision, table_precision]);
            let (mut steady, mut last) = (0, None);
            for step in 1..=STEPS {
                let batch = &batches[step as usize % batches.len()];
                let (outcome, taken) = count(|| trainer.step(batch, None, step, false));
                // A step that is skipped updates nothing.
                if taken.count == 0 && !outcome.unwrap().skipped {
                    steady += 1;
                } else {
                    (steady, last) = (0, Some(taken));
                }
                if steady == STEADY_STEPS {
                    break;
                }
            }
            if let (true, Some(taken)) = (steady < STEADY_STEPS, last) {
                panic!(
                    "{model} in {precision} with {sparse}, of the last step that took memory: {taken}"
                );
            }
        }
    }
}

#[test]
fn steady_steps_in_fp32_take_no_memory() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    steady_steps_take_no_memory(Precision::Fp32);
}

#[test]
fn steady_steps_in_bf16_take_no_memory() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    steady_steps_take_no_memory(Precision::Bf16);
}

#[test]
fn steady_steps_in_fp16_take_no_memory() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    steady_steps_take_no_memory(Precision::Fp16);
}

/// The unit is chosen once a process.
#[test]
fn steady_steps_in_bf16_by_other_units_take_no_memory() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for unit in ["float32", "emulated"] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "steady_steps_in_bf16_take_no_memory"]);
        let output = command.env(BF16_UNIT, unit).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let passed = output.status.success() && said.contains("test result: ok. 1 passed");
        assert!(passed, "{unit}: {said}");
    }
}

#[test]
fn memory_that_is_taken_is_counted() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let context = Context::cpu(THREADS, false).unwrap();
    let taken = || context.install(|| std::hint::black_box(vec![0u8; 100]).len());
    let (_, first) = count(taken);
    let (_, nothing) = count(|| ());
    assert!(first.count > 0);
    assert_eq!(nothing.count, 0);
}
