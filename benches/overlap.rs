//! How much of the communication a step hides: `cargo bench --bench overlap`.
//!
//! Two ranks of one thread each, in this process, joined by a link that is slowed down (`Delayed`). The model is a
//! DCN-v2 whose dense gradients are what travels: small tables, wide layers. For each speed of the link it prints the
//! time `L` that the link takes for a step's bytes, the time `T` of a step, `T / max(C, L)`, where `C` is the time of a
//! step without delay, and `T / max(C, F + L)`: gradients exist only after the forward pass and the loss, which take `F`.

mod clicks;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use streamrec::comm::{CommError, Communicator, Delayed, LinkSpeed, Settings, SharedMemory};
use streamrec::config::model::{DcnV2Config, ModelConfig, Structure};
use streamrec::config::optimizer::{
    DenseOptimizerConfig, OptimizerConfig, ScheduleConfig, SparseOptimizerConfig,
};
use streamrec::config::{LossScaleConfig, Precision, Reduction};
use streamrec::data::Batch;
use streamrec::model::{BucketSettings, models};
use streamrec::parallel::Mesh;
use streamrec::train::{Profile, ProfileReport, Recorder, Trainer, TrainerSettings};
use streamrec_kernels::Context;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::prelude::*;

use clicks::Clicks;

const CLICKS: Clicks = Clicks {
    dense: 64,
    tables: &[100; 8],
    zipf_exponent: 1.05,
};
const RANKS: usize = 2;
/// Samples of a rank.
const BATCH: usize = 1024;
const STEPS: u64 = 25;
const LATENCY: Duration = Duration::from_micros(50);
/// Times that the link takes for a step's gradients, of the time of a step without delay.
const SHARES: [f64; 6] = [0.25, 0.5, 0.75, 1.0, 1.5, 2.0];

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn model() -> ModelConfig {
    ModelConfig::DcnV2(DcnV2Config {
        embedding_dim: 16,
        dims: BTreeMap::new(),
        bottom: Vec::new(),
        cross_layers: 3,
        cross_rank: 0,
        deep: vec![512; 6],
        structure: Structure::default(),
    })
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

fn trainer(comm: Arc<dyn Communicator>) -> Result<Trainer> {
    let schema = CLICKS.schema();
    let graph = models::build(&model(), &schema)?;
    let settings = TrainerSettings {
        seed: 1,
        batch_rows: BATCH,
        global_batch: BATCH * RANKS,
        accumulate: 1,
        reduction: Reduction::Fast,
        precision: Precision::Fp32,
        loss_scale: LossScaleConfig::default(),
        label_weights: vec![1.0],
        partitions: BTreeMap::new(),
        tables: None,
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

/// The median seconds of a step, and the bytes of the dense gradients.
fn measure(comm: Arc<dyn Communicator>, batches: &[Batch]) -> Result<(f64, f64)> {
    let mut trainer = trainer(comm)?;
    let mut seconds = Vec::new();
    for step in 1..=STEPS + 5 {
        let began = Instant::now();
        let batch = &batches[step as usize % batches.len()];
        trainer.step(batch, None, step, false)?;
        if step > 5 {
            seconds.push(began.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    let layout = trainer.parameters().layout();
    let floats: usize = layout.buckets().iter().map(std::ops::Range::len).sum();
    Ok((seconds[seconds.len() / 2], 4.0 * floats as f64))
}

/// Two ranks train; a link joins them where one is given.
fn train(speed: Option<LinkSpeed>, batches: &[Batch]) -> Result<(f64, f64)> {
    let ranks = SharedMemory::connect_threads(RANKS, &Settings::default())?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = ranks
            .into_iter()
            .map(|rank| {
                scope.spawn(move || match speed {
                    None => measure(Arc::new(rank), batches),
                    Some(speed) => measure(Arc::new(Delayed::new(Arc::new(rank), speed)?), batches),
                })
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        let found = joined.map(|result| result.unwrap_or(Err(CommError::Abandoned.into())));
        let found = found.collect::<Result<Vec<_>>>()?;
        let slowest = found.iter().map(|(seconds, _)| *seconds);
        Ok((slowest.fold(0.0, f64::max), found[0].1))
    })
}

/// The share of a step that goes by before there is any gradient.
fn share_of_forward(report: &ProfileReport) -> f64 {
    let sum = |prefixes: &[&str]| -> f64 {
        let operations = report.operations.iter();
        let wanted = operations.filter(|(name, _)| prefixes.iter().any(|p| name.starts_with(p)));
        wanted.map(|(_, ms)| ms).sum()
    };
    sum(&["forward", "loss"]) / sum(&[""])
}

fn main() -> Result<()> {
    let profile = Profile::new();
    let recorder = profile.recorder().with_filter(filter_fn(Recorder::wants));
    tracing_subscriber::registry().with(recorder).init();
    let batches = CLICKS.batches(BATCH, 4);
    profile.start();
    let (alone, bytes) = train(None, &batches)?;
    let forward = alone * share_of_forward(&profile.finish(STEPS));
    println!(
        "{RANKS} ranks, {BATCH} samples each; {:.1} MB of dense gradients; C = {:.2} ms, F = {:.2} ms",
        bytes / 1e6,
        alone * 1e3,
        forward * 1e3
    );
    println!(
        "{:>10} {:>10} {:>10} {:>12} {:>14}",
        "link MB/s", "L ms", "T ms", "T/max(C,L)", "T/max(C,F+L)"
    );
    for share in SHARES {
        // An all-reduce of two ranks sends each byte once.
        let speed = LinkSpeed {
            latency: LATENCY,
            bytes_per_s: bytes / (alone * share),
        };
        let (seconds, _) = train(Some(speed), &batches)?;
        println!(
            "{:>10.0} {:>10.2} {:>10.2} {:>12.3} {:>14.3}",
            speed.bytes_per_s / 1e6,
            alone * share * 1e3,
            seconds * 1e3,
            seconds / alone.max(alone * share),
            seconds / alone.max(forward + alone * share)
        );
    }
    Ok(())
}
