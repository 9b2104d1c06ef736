//! How much of the communication a step hides: `cargo bench --bench overlap`.
//!
//! Two ranks of one thread each, in this process, joined by a link that is slowed down (`Delayed`), train two models: a
//! DCN-v2 whose dense gradients are what travels, and a DLRM whose tables lie on either rank, so that ids, vectors and
//! their gradients travel too, of a whole batch and of one in pieces. With `C` the time of a step without delay and `M`
//! the time that the link takes for all that a step sends, it prints the time `T` of a step for a grid of `M / C`.
//!
//! A step takes at least `max(C, M + S)`: while `S` goes by there is nothing that could be sent, from the last that a step
//! sends to the first gradients of the next (docs/scaling.md derives it). `S` is of the step without delay too, which is
//! measured right before each step with a delay.

mod clicks;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use streamrec::comm::{
    Carried, CommError, Communicator, Delayed, LinkSpeed, Settings, SharedMemory,
};
use streamrec::config::model::{DcnV2Config, DlrmConfig, ModelConfig, Structure};
use streamrec::config::optimizer::{
    DenseOptimizerConfig, OptimizerConfig, ScheduleConfig, SparseOptimizerConfig,
};
use streamrec::config::{EmbeddingsConfig, LossScaleConfig, Placement, Precision, Reduction};
use streamrec::data::Batch;
use streamrec::model::{BucketSettings, models};
use streamrec::parallel::{Mesh, TablePlan};
use streamrec::train::{Profile, ProfileReport, Recorder, Trainer, TrainerSettings};
use streamrec_kernels::Context;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::prelude::*;

use clicks::Clicks;

const RANKS: usize = 2;
/// Samples of a rank.
const BATCH: usize = 2048;
const WARM_UP_STEPS: u64 = 5;
const STEPS: u64 = 20;
const LATENCY: Duration = Duration::from_micros(50);
/// `M / C`.
const RATIOS: [f64; 7] = [0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0];

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A model, and what of its step no exchange can hide behind.
struct Case {
    name: &'static str,
    clicks: Clicks,
    model: ModelConfig,
    placement: Placement,
    /// Pieces in which a batch is worked through.
    pieces: usize,
    /// The operations between the last exchange of a step and the first of the next step's gradients.
    alone: &'static [&'static str],
}

fn cases() -> [Case; 3] {
    [
        Case {
            name: "DCN-v2, tables on every rank",
            clicks: Clicks {
                dense: 64,
                tables: &[100; 8],
                zipf_exponent: 1.05,
            },
            model: ModelConfig::DcnV2(DcnV2Config {
                embedding_dim: 16,
                dims: BTreeMap::new(),
                bottom: Vec::new(),
                cross_layers: 3,
                cross_rank: 0,
                deep: vec![512; 6],
                structure: Structure::default(),
            }),
            placement: Placement::Replicated,
            pieces: 1,
            // Every weight waits for the last gradient, since their norm is of all.
            alone: &[
                "update dense weights",
                "forward",
                "loss",
                "backward logits",
                "backward deep.5",
            ],
        },
        dlrm("DLRM, each table on one rank", 1),
        dlrm("the same, a batch in 4 pieces", 4),
    ]
}

fn dlrm(name: &'static str, pieces: usize) -> Case {
    Case {
        name,
        clicks: Clicks {
            dense: 13,
            tables: &[20_000; 26],
            zipf_exponent: 1.05,
        },
        model: ModelConfig::Dlrm(DlrmConfig {
            embedding_dim: 64,
            dims: BTreeMap::new(),
            bottom: vec![512, 256, 64],
            top: vec![512, 256],
        }),
        placement: Placement::TableWise,
        pieces,
        alone: match pieces {
            // The vectors go last, and the layers below them meanwhile.
            1 => &[
                "forward embeddings",
                "forward interaction",
                "forward top",
                "forward logits",
                "loss",
                "backward logits",
                "backward top.1",
            ],
            // Vectors and gradients of other pieces are sent then.
            _ => &[],
        },
    }
}

fn optimizer() -> OptimizerConfig {
    OptimizerConfig {
        dense: DenseOptimizerConfig::Sgd {
            learning_rate: 1e-3,
            momentum: 0.0,
            nesterov: false,
            weight_decay: 0.0,
        },
        sparse: SparseOptimizerConfig::Sgd {
            learning_rate: 1e-3,
            weight_decay: 0.0,
            max_row_norm: None,
        },
        groups: Vec::new(),
        schedule: ScheduleConfig::default(),
        clip_norm: None,
    }
}

fn trainer(case: &Case, comm: Arc<dyn Communicator>) -> Result<Trainer> {
    let schema = case.clicks.schema();
    let graph = models::build(&case.model, &schema)?;
    let shapes = graph.validate(&schema)?;
    let embeddings = EmbeddingsConfig {
        placement: case.placement,
        ..EmbeddingsConfig::default()
    };
    let reduction = Reduction::Fast;
    let settings = TrainerSettings {
        seed: 1,
        batch_rows: BATCH,
        global_batch: BATCH * RANKS,
        accumulate: case.pieces,
        reduction,
        precision: Precision::Fp32,
        table_precision: Precision::Fp32,
        loss_scale: LossScaleConfig::default(),
        label_weights: vec![1.0],
        partitions: BTreeMap::new(),
        tables: Some(TablePlan::new(
            &graph,
            &shapes,
            &embeddings,
            reduction,
            RANKS,
        )?),
        buckets: BucketSettings {
            first_bucket_bytes: 256 << 10,
            bucket_bytes: 1 << 20,
        },
    };
    let (context, mesh) = (Context::cpu(1, false)?, Mesh::new(comm, 1)?);
    Ok(Trainer::new(
        context,
        mesh,
        &graph,
        &schema,
        &optimizer(),
        settings,
    )?)
}

/// The median seconds of a step.
fn measure(case: &Case, comm: Arc<dyn Communicator>, batches: &[Batch]) -> Result<f64> {
    let mut trainer = trainer(case, comm)?;
    let mut seconds = Vec::new();
    for step in 1..=WARM_UP_STEPS + STEPS {
        let batch = |step: u64| &batches[step as usize % batches.len()];
        let began = Instant::now();
        trainer.step(batch(step), Some(batch(step + 1)), step, false)?;
        if step > WARM_UP_STEPS {
            seconds.push(began.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}

/// Two ranks train; a link joins them where one is given. The time of the slower one's steps, and what the link of a rank
/// carried in a step.
fn train(case: &Case, speed: Option<LinkSpeed>, batches: &[Batch]) -> Result<(f64, Carried)> {
    let run = |rank: SharedMemory| -> Result<(f64, Carried)> {
        let Some(speed) = speed else {
            return Ok((measure(case, Arc::new(rank), batches)?, Carried::default()));
        };
        let link = Arc::new(Delayed::new(Arc::new(rank), speed)?);
        let seconds = measure(case, Arc::clone(&link) as _, batches)?;
        Ok((seconds, link.carried()))
    };
    let ranks = SharedMemory::connect_threads(RANKS, &Settings::default())?;
    std::thread::scope(|scope| {
        let spawn = |rank| scope.spawn(move || run(rank));
        let threads: Vec<_> = ranks.into_iter().map(spawn).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        let found = joined.map(|result| result.unwrap_or(Err(CommError::Abandoned.into())));
        let found = found.collect::<Result<Vec<_>>>()?;
        let slowest = found.iter().map(|(seconds, _)| *seconds);
        Ok((slowest.fold(0.0, f64::max), found[0].1))
    })
}

/// The share of a step that some operations take, of the time that the profiled threads were at work.
fn share(report: &ProfileReport, prefixes: &[&str]) -> f64 {
    let sum = |prefixes: &[&str]| -> f64 {
        let operations = report.operations.iter();
        let wanted = operations.filter(|(name, _)| prefixes.iter().any(|p| name.starts_with(p)));
        // Not the sum of none, which is -0.
        wanted.fold(0.0, |sum, (_, ms)| sum + ms)
    };
    sum(prefixes) / sum(&[""])
}

/// Prints a row for each ratio.
fn compare(case: &Case, profile: &Profile) -> Result<()> {
    let batches = case.clicks.batches(BATCH, 4);
    let fast = LinkSpeed {
        latency: Duration::ZERO,
        bytes_per_s: 1e12,
    };
    let (_, carried) = train(case, Some(fast), &batches)?;
    let steps = (WARM_UP_STEPS + STEPS) as f64;
    let (bytes, collectives) = (carried.bytes / steps, carried.collectives as f64 / steps);
    println!(
        "{}: {RANKS} ranks, {BATCH} samples each, send {:.1} MB a step in {collectives:.0} collectives",
        case.name,
        bytes / 1e6,
    );
    println!(
        "{:>6} {:>8} {:>8} {:>8} {:>8} {:>12} {:>14}",
        "M/C", "C ms", "M ms", "S ms", "T ms", "T/max(C,M)", "T/max(C,M+S)"
    );
    for ratio in RATIOS {
        profile.start();
        let (compute, _) = train(case, None, &batches)?;
        let alone = compute * share(&profile.finish(STEPS), case.alone);
        let send = ratio * compute;
        let latencies = collectives * LATENCY.as_secs_f64();
        let speed = LinkSpeed {
            latency: LATENCY,
            bytes_per_s: bytes / (send - latencies).max(1e-6),
        };
        let (step, _) = train(case, Some(speed), &batches)?;
        let ms = [compute, send, alone, step].map(|seconds| format!("{:.2}", seconds * 1e3));
        let [compute_ms, send_ms, alone_ms, step_ms] = ms;
        println!(
            "{ratio:>6.2} {compute_ms:>8} {send_ms:>8} {alone_ms:>8} {step_ms:>8} {:>12.3} {:>14.3}",
            step / compute.max(send),
            step / compute.max(send + alone)
        );
    }
    Ok(())
}

fn main() -> Result<()> {
    let profile = Profile::new();
    let recorder = profile.recorder().with_filter(filter_fn(Recorder::wants));
    tracing_subscriber::registry().with(recorder).init();
    for case in cases() {
        compare(&case, &profile)?;
    }
    Ok(())
}
