//! Training throughput of DLRM through the framework's own step, as one JSON line.
//!
//! The model, the ids and the windows are those of `benches/peers/pytorch_dlrm.py`: 13 dense
//! features, 26 tables of 100,000 rows x 64, bottom 512-256-64, dot interaction, top 512-256-1,
//! scrambled Zipf ids, Adagrad for all, fp32, batches made before the clock starts and cycled.
//! `scripts/bench` runs both sides in turn.
//!
//! `STREAMREC_BATCH` and `STREAMREC_THREADS` change the defaults, 8192 and all cores.

mod clicks;

use std::collections::BTreeMap;
use std::time::Instant;

use streamrec::config::Reduction;
use streamrec::config::model::{DlrmConfig, ModelConfig};
use streamrec::config::optimizer::{
    DenseOptimizerConfig, OptimizerConfig, ScheduleConfig, SparseOptimizerConfig,
};
use streamrec::model::{BucketSettings, models};
use streamrec::parallel::Mesh;
use streamrec::train::{Trainer, TrainerSettings};
use streamrec_kernels::Context;

use clicks::Clicks;

const CLICKS: Clicks = Clicks {
    dense: 13,
    tables: 26,
    rows: 100_000,
    zipf_exponent: 1.05,
};
const BATCHES: usize = 8;
const WARM_UP_STEPS: u64 = 5;
const WINDOWS: usize = 7;
const WINDOW_STEPS: u64 = 5;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn setting(name: &str, default: usize) -> Result<usize> {
    let Ok(value) = std::env::var(name) else {
        return Ok(default);
    };
    let problem = || format!("{name}: expected a number from 1, got `{value}`");
    let number = value.parse().map_err(|_| problem())?;
    if number == 0 {
        return Err(problem().into());
    }
    Ok(number)
}

fn trainer(batch: usize, threads: usize) -> Result<Trainer> {
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
        batch_rows: batch,
        global_batch: batch,
        accumulate: 1,
        reduction: Reduction::Fast,
        label_weights: vec![1.0],
        partitions: BTreeMap::new(),
        tables: None,
        buckets: BucketSettings::default(),
    };
    let graph = models::build(&model, &schema)?;
    let (context, mesh) = (Context::cpu(threads, true)?, Mesh::single());
    Ok(Trainer::new(
        context, mesh, &graph, &schema, &optimizer, settings,
    )?)
}

/// The processor's own name, where the system tells it.
fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|line| line.starts_with("model name"));
    let name = name.and_then(|line| line.split_once(": "));
    name.map_or(std::env::consts::ARCH, |(_, name)| name).into()
}

fn main() -> Result<()> {
    let rows = setting("STREAMREC_BATCH", 8192)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = setting("STREAMREC_THREADS", cores)?;
    let (mut trainer, batches) = (trainer(rows, threads)?, CLICKS.batches(rows, BATCHES));
    let mut step = 0;
    // A loss that is not finite is an error of the step.
    let mut train = |steps: u64| {
        (0..steps).try_for_each(|_| {
            step += 1;
            let batch = &batches[step as usize % BATCHES];
            trainer.step(batch, None, step, false).map(|_| ())
        })
    };
    train(WARM_UP_STEPS)?;
    let mut rates = Vec::with_capacity(WINDOWS);
    for _ in 0..WINDOWS {
        let began = Instant::now();
        train(WINDOW_STEPS)?;
        let rate = (WINDOW_STEPS as usize * rows) as f64 / began.elapsed().as_secs_f64();
        rates.push(rate.round());
    }
    let mut sorted = rates.clone();
    sorted.sort_by(f64::total_cmp);
    let line = serde_json::json!({
        "samples_per_s": sorted[WINDOWS / 2],
        "min": sorted[0],
        "max": sorted[WINDOWS - 1],
        "windows_samples_per_s": rates,
        "threads": threads,
        "batch": rows,
        "rows": CLICKS.rows,
        "zipf": CLICKS.zipf_exponent,
        "cpu": cpu(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    println!("{line}");
    Ok(())
}
