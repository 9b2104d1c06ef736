//! Data-parallel training of DLRM on the ranks of one host, as one JSON line: samples a second of all
//! ranks together, and the peak memory of the process.
//!
//! The model, the ids and the windows are those of `benches/ranker.rs`. `STREAMREC_RANKS` ranks (2) of
//! `STREAMREC_THREADS` threads each (1) share global batches of `STREAMREC_BATCH` (8192); they are
//! threads of this process, over shared memory. With one rank, `peak_mib` is to be held against
//! `state_mib`, the parameters with their optimiser state.

mod clicks;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use streamrec::comm::{CommError, Communicator, Settings, SharedMemory, SingleRank};
use streamrec::config::model::{DlrmConfig, ModelConfig};
use streamrec::config::optimizer::{
    DenseOptimizerConfig, OptimizerConfig, ScheduleConfig, SparseOptimizerConfig,
};
use streamrec::config::{LossScaleConfig, Precision, Reduction};
use streamrec::data::Batch;
use streamrec::model::{BucketSettings, models};
use streamrec::parallel::Mesh;
use streamrec::train::{Trainer, TrainerSettings};
use streamrec_kernels::Context;

use clicks::Clicks;

const CLICKS: Clicks = Clicks {
    dense: 13,
    tables: &[100_000; 26],
    zipf_exponent: 1.05,
};
const BATCHES: usize = 4;
const WARM_UP_STEPS: u64 = 5;
const WINDOWS: usize = 7;
const WINDOW_STEPS: u64 = 5;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn setting(name: &str, default: usize) -> Result<usize> {
    let Ok(value) = std::env::var(name) else {
        return Ok(default);
    };
    match value.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{name}: expected a number from 1, got `{value}`").into()),
    }
}

fn trainer(comm: Arc<dyn Communicator>, threads: usize, batch: usize) -> Result<Trainer> {
    let schema = CLICKS.schema();
    let model = ModelConfig::Dlrm(DlrmConfig {
        embedding_dim: 64,
        dims: BTreeMap::new(),
        bottom: vec![512, 256, 64],
        top: vec![512, 256],
    });
    let optimizer = OptimizerConfig {
        dense: DenseOptimizerConfig::Adagrad {
            learning_rate: 0.01,
            eps: 1e-10,
            initial_accumulator: 0.0,
            weight_decay: 0.0,
        },
        sparse: SparseOptimizerConfig::Adagrad {
            learning_rate: 0.01,
            eps: 1e-10,
            initial_accumulator: 0.0,
            weight_decay: 0.0,
            max_row_norm: None,
        },
        groups: Vec::new(),
        schedule: ScheduleConfig::default(),
        clip_norm: None,
    };
    let settings = TrainerSettings {
        seed: 1,
        batch_rows: batch.div_ceil(comm.size()),
        global_batch: batch,
        accumulate: 1,
        reduction: Reduction::Fast,
        precision: Precision::Fp32,
        table_precision: Precision::Fp32,
        loss_scale: LossScaleConfig::default(),
        label_weights: vec![1.0],
        partitions: BTreeMap::new(),
        tables: None,
        buckets: BucketSettings::default(),
    };
    let graph = models::build(&model, &schema)?;
    let (context, mesh) = (
        Context::cpu(threads, comm.size() == 1)?,
        Mesh::new(comm, 1)?,
    );
    Ok(Trainer::new(
        context, mesh, &graph, &schema, &optimizer, settings,
    )?)
}

/// Seconds of each window, and the MiB of parameters and optimiser state.
fn measure(comm: Arc<dyn Communicator>, threads: usize, batch: usize) -> Result<(Vec<f64>, f64)> {
    let (rank, ranks) = (comm.rank(), comm.size());
    let own = |batch: &Batch| batch.clone();
    // Each rank draws the rows of all, and keeps its own part of each batch.
    let rows = batch / ranks;
    let batches: Vec<Batch> = CLICKS
        .batches(rows, BATCHES * ranks)
        .iter()
        .skip(rank)
        .step_by(ranks)
        .map(own)
        .map(|mut part| {
            part.weight_sum = batch as f64;
            part
        })
        .collect();
    let mut trainer = trainer(comm, threads, batch)?;
    let mut step = 0;
    let mut train = |steps: u64| {
        (0..steps).try_for_each(|_| {
            step += 1;
            let batch = &batches[step as usize % BATCHES];
            trainer.step(batch, None, step, false).map(|_| ())
        })
    };
    train(WARM_UP_STEPS)?;
    let mut windows = Vec::with_capacity(WINDOWS);
    for _ in 0..WINDOWS {
        let began = Instant::now();
        train(WINDOW_STEPS)?;
        windows.push(began.elapsed().as_secs_f64());
    }
    let floats: usize = trainer
        .named_slices_mut()
        .map(|slice| slice.extent.len())
        .sum();
    Ok((windows, floats as f64 * 4.0 / f64::from(1 << 20)))
}

/// The most memory that this process had.
fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some((kib / 1024.0).round())
}

fn main() -> Result<()> {
    let ranks = setting("STREAMREC_RANKS", 2)?;
    let threads = setting("STREAMREC_THREADS", 1)?;
    let batch = setting("STREAMREC_BATCH", 8192)?;
    let found = if ranks == 1 {
        vec![measure(Arc::new(SingleRank), threads, batch)?]
    } else {
        let connected = SharedMemory::connect_threads(ranks, &Settings::default())?;
        std::thread::scope(|scope| {
            let spawn = |rank| scope.spawn(move || measure(Arc::new(rank), threads, batch));
            let running: Vec<_> = connected.into_iter().map(spawn).collect();
            let joined = running.into_iter().map(|thread| thread.join());
            let found = joined.map(|result| result.unwrap_or(Err(CommError::Abandoned.into())));
            found.collect::<Result<Vec<_>>>()
        })?
    };
    let slowest = |window: usize| {
        found
            .iter()
            .map(|(windows, _)| windows[window])
            .fold(0.0, f64::max)
    };
    let samples = (WINDOW_STEPS as usize * batch) as f64;
    let rates: Vec<f64> = (0..WINDOWS)
        .map(|window| (samples / slowest(window)).round())
        .collect();
    let mut sorted = rates.clone();
    sorted.sort_by(f64::total_cmp);
    let line = serde_json::json!({
        "samples_per_s": sorted[WINDOWS / 2], "windows_samples_per_s": rates,
        "ranks": ranks, "threads": threads, "batch": batch,
        "state_mib": found[0].1.round(), "peak_mib": peak_mib(),
    });
    println!("{line}");
    Ok(())
}
