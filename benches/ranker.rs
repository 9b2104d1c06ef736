//! Training throughput of a ranker through the framework's own step, as one JSON line.
//!
//! Models, ids and windows are those of `benches/peers/pytorch_ranker.py`; `scripts/bench` runs both
//! sides in turn:
//!
//! | `STREAMREC_MODEL` | features | layers |
//! |---|---|---|
//! | `dlrm` | 13 dense, 26 tables of 100,000 x 64 | bottom 512-256-64, dot interaction, top 512-256-1 |
//! | `dcn_v2` | the same | dense features to 64, three cross layers of rank 128 over 1,728, 512-256-1 |
//! | `streamrec` | tables of 200,000, 50,000 and six of 1,000 x 32 | 256-128-64-1 |
//! | `dlrm_h200` | 13 dense, 26 tables of 1,000,000 x 128 | bottom 512-256-128, dot interaction, top 1024-1024-512-256-1 |
//! | `dcn_v2_h200` | the same | bottom 512-256-128, three cross layers of rank 512 over 3,456, 1024-1024-512-256-1 |
//!
//! Scrambled Zipf ids, Adagrad for all, batches made before the clock starts and cycled.
//! `STREAMREC_BATCH`, `STREAMREC_THREADS`, `STREAMREC_PRECISION` and `STREAMREC_TABLE_PRECISION` change the defaults: 8192,
//! all cores, fp32, fp32. `STREAMREC_DEVICE=cuda` trains on GPU 0 of this machine, `emulated` on the emulation of the tests, which
//! shows that it runs and times nothing. `STREAMREC_SCALE` divides rows and widths of the last two models.
//!
//! On a GPU `host_us_per_step` is the processor time that the thread which asks for steps spends on one, without waiting, and
//! `packing_us_per_step` that of all other threads, which check and pack the next batch. `STREAMREC_DEVICE=idle` takes both without
//! a device, but for the driver's calls, with `STREAMREC_PRECISION=fp16`.

mod clicks;
#[path = "ranker/device.rs"]
mod device;
#[path = "ranker/idle.rs"]
mod idle;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use streamrec::config::model::{DcnV2Config, DlrmConfig, ModelConfig, Structure};
use streamrec::config::optimizer::{
    DenseOptimizerConfig, OptimizerConfig, ScheduleConfig, SparseOptimizerConfig,
};
use streamrec::config::{LossScaleConfig, Precision, Reduction};
use streamrec::data::Batch;
use streamrec::model::{BucketSettings, GraphBuilder, models};
use streamrec::train::{Trainee, TrainerSettings};
use streamrec_artifact::Graph;

use clicks::Clicks;
use device::Device;

const ZIPF: f64 = 1.05;
const CRITEO: Clicks = Clicks {
    dense: 13,
    tables: &[100_000; 26],
    zipf_exponent: ZIPF,
};
const STREAMREC: Clicks = Clicks {
    dense: 0,
    tables: &[200_000, 50_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000],
    zipf_exponent: ZIPF,
};
const BATCHES: usize = 8;
const WARM_UP_STEPS: u64 = 5;
const WINDOWS: usize = 7;
/// Of the models for a GPU.
const TABLES: usize = 26;
const TABLE_ROWS: usize = 1_000_000;

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

/// A model by name, with what it reads.
fn model(name: &str, scale: usize) -> Result<(Clicks, Graph)> {
    // Widths stay multiples of 8, which products in half precision take.
    let width = |width: usize| (width / scale).max(8);
    let widths = |all: &[usize]| all.iter().map(|&own| width(own)).collect::<Vec<_>>();
    let large = || Clicks {
        dense: 13,
        tables: vec![(TABLE_ROWS / scale).max(1); TABLES].leak(),
        zipf_exponent: ZIPF,
    };
    let graph = |clicks: Clicks, model: ModelConfig| -> Result<(Clicks, Graph)> {
        Ok((clicks, models::build(&model, &clicks.schema())?))
    };
    match name {
        "dlrm" => graph(
            CRITEO,
            ModelConfig::Dlrm(DlrmConfig {
                embedding_dim: 64,
                dims: BTreeMap::new(),
                bottom: vec![512, 256, 64],
                top: vec![512, 256],
            }),
        ),
        "dcn_v2" => graph(
            CRITEO,
            ModelConfig::DcnV2(DcnV2Config {
                embedding_dim: 64,
                dims: BTreeMap::new(),
                bottom: vec![64],
                cross_layers: 3,
                cross_rank: 128,
                deep: vec![512, 256],
                structure: Structure::Stacked,
            }),
        ),
        "dlrm_h200" => graph(
            large(),
            ModelConfig::Dlrm(DlrmConfig {
                embedding_dim: width(128),
                dims: BTreeMap::new(),
                bottom: widths(&[512, 256, 128]),
                top: widths(&[1024, 1024, 512, 256]),
            }),
        ),
        "dcn_v2_h200" => graph(
            large(),
            ModelConfig::DcnV2(DcnV2Config {
                embedding_dim: width(128),
                dims: BTreeMap::new(),
                bottom: widths(&[512, 256, 128]),
                cross_layers: 3,
                cross_rank: width(512),
                deep: widths(&[1024, 1024, 512, 256]),
                structure: Structure::Stacked,
            }),
        ),
        "streamrec" => {
            let schema = STREAMREC.schema();
            let mut graph = GraphBuilder::new(&schema);
            let embeddings = graph.embeddings("embeddings", |_| 32);
            let deep = graph.mlp("deep", embeddings, &[256, 128, 64]);
            let logits = graph.logits("logits", deep);
            Ok((STREAMREC, graph.finish(logits)?))
        }
        _ => Err(format!(
            "STREAMREC_MODEL: expected dlrm, dcn_v2, streamrec, dlrm_h200 or dcn_v2_h200, got `{name}`"
        )
        .into()),
    }
}

/// That of a variable, fp32 where it is not set.
fn precision(variable: &str) -> Result<Precision> {
    let name = std::env::var(variable).unwrap_or_else(|_| "fp32".into());
    let all = [Precision::Fp32, Precision::Bf16, Precision::Fp16];
    let found = all
        .into_iter()
        .find(|precision| precision.to_string() == name);
    found.ok_or_else(|| format!("{variable}: expected fp32, bf16 or fp16, got `{name}`").into())
}

fn trainer(
    (clicks, graph): &(Clicks, Graph),
    batch: usize,
    threads: usize,
    [precision, table_precision]: [Precision; 2],
    device: &Device,
) -> Result<Box<dyn Trainee>> {
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
        precision,
        table_precision,
        loss_scale: LossScaleConfig::default(),
        label_weights: vec![1.0],
        partitions: BTreeMap::new(),
        tables: None,
        buckets: BucketSettings::default(),
    };
    device.trainer(threads, graph, &clicks.schema(), &optimizer, settings)
}

/// The processor's own name, where the system tells it.
fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|line| line.starts_with("model name"));
    let name = name.and_then(|line| line.split_once(": "));
    name.map_or(std::env::consts::ARCH, |(_, name)| name).into()
}

/// Trains for so many steps. A loss that is not finite is an error of the step.
fn train(
    trainee: &mut dyn Trainee,
    batches: &[Arc<Batch>],
    ahead: bool,
    step: &mut u64,
    steps: u64,
) -> Result<()> {
    for _ in 0..steps {
        *step += 1;
        let of = |step: u64| &batches[step as usize % batches.len()];
        let next = ahead.then(|| of(*step + 1));
        trainee.step_ahead(of(*step), next, *step, false)?;
    }
    // What a device still works on belongs to this window.
    trainee.settle()?;
    Ok(())
}

fn main() -> Result<()> {
    let rows = setting("STREAMREC_BATCH", 8192)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = setting("STREAMREC_THREADS", cores)?;
    let scale = setting("STREAMREC_SCALE", 1)?;
    let variable = |name: &str, default: &str| std::env::var(name).unwrap_or(default.into());
    let name = variable("STREAMREC_MODEL", "dlrm");
    let precisions = [
        precision("STREAMREC_PRECISION")?,
        precision("STREAMREC_TABLE_PRECISION")?,
    ];
    let device = Device::open(&variable("STREAMREC_DEVICE", "cpu"))?;
    let model = model(&name, scale)?;
    let mut trainer = trainer(&model, rows, threads, precisions, &device)?;
    let batches = model.0.batches(rows, BATCHES).into_iter();
    let batches: Vec<Arc<Batch>> = batches.map(Arc::new).collect();
    let (mut step, ahead) = (0, device.knows_the_next_batch());
    let mut train = |steps: u64| train(trainer.as_mut(), &batches, ahead, &mut step, steps);
    train(WARM_UP_STEPS)?;
    let (mut rates, window_steps) = (Vec::with_capacity(WINDOWS), device.window_steps());
    for _ in 0..WINDOWS {
        let began = Instant::now();
        train(window_steps)?;
        let rate = (window_steps as usize * rows) as f64 / began.elapsed().as_secs_f64();
        rates.push(rate.round());
    }
    let host_us_per_step = device.host_us_per_step(&mut train)?;
    let mut sorted = rates.clone();
    sorted.sort_by(f64::total_cmp);
    let line = serde_json::json!({
        "samples_per_s": sorted[WINDOWS / 2],
        "min": sorted[0],
        "max": sorted[WINDOWS - 1],
        "windows_samples_per_s": rates,
        "host_us_per_step": host_us_per_step.map(|[own, _]| own),
        "packing_us_per_step": host_us_per_step.map(|[_, others]| others),
        "device": device.to_string(),
        "threads": threads,
        "batch": rows,
        "model": name,
        "scale": scale,
        "precision": precisions[0].to_string(),
        "table_precision": precisions[1].to_string(),
        "zipf": ZIPF,
        "cpu": cpu(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    println!("{line}");
    Ok(())
}
