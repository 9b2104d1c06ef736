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
//!
//! Scrambled Zipf ids, Adagrad for all, batches made before the clock starts and cycled.
//! `STREAMREC_BATCH`, `STREAMREC_THREADS` and `STREAMREC_PRECISION` change the defaults: 8192, all
//! cores, fp32.

mod clicks;

use std::collections::BTreeMap;
use std::time::Instant;

use streamrec::config::model::{DcnV2Config, DlrmConfig, ModelConfig, Structure};
use streamrec::config::optimizer::{
    DenseOptimizerConfig, OptimizerConfig, ScheduleConfig, SparseOptimizerConfig,
};
use streamrec::config::{LossScaleConfig, Precision, Reduction};
use streamrec::model::{BucketSettings, GraphBuilder, models};
use streamrec::parallel::Mesh;
use streamrec::train::{Trainer, TrainerSettings};
use streamrec_artifact::Graph;
use streamrec_kernels::Context;

use clicks::Clicks;

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

/// A model by name, with what it reads.
fn model(name: &str) -> Result<(Clicks, Graph)> {
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
        "streamrec" => {
            let schema = STREAMREC.schema();
            let mut graph = GraphBuilder::new(&schema);
            let embeddings = graph.embeddings("embeddings", |_| 32);
            let deep = graph.mlp("deep", embeddings, &[256, 128, 64]);
            let logits = graph.logits("logits", deep);
            Ok((STREAMREC, graph.finish(logits)?))
        }
        _ => {
            Err(format!("STREAMREC_MODEL: expected dlrm, dcn_v2 or streamrec, got `{name}`").into())
        }
    }
}

fn precision(name: &str) -> Result<Precision> {
    let all = [Precision::Fp32, Precision::Bf16, Precision::Fp16];
    let found = all
        .into_iter()
        .find(|precision| precision.to_string() == name);
    found.ok_or_else(|| {
        format!("STREAMREC_PRECISION: expected fp32, bf16 or fp16, got `{name}`").into()
    })
}

fn trainer(
    (clicks, graph): &(Clicks, Graph),
    batch: usize,
    threads: usize,
    precision: Precision,
) -> Result<Trainer> {
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
        loss_scale: LossScaleConfig::default(),
        label_weights: vec![1.0],
        partitions: BTreeMap::new(),
        tables: None,
        buckets: BucketSettings::default(),
    };
    let (context, mesh, schema) = (
        Context::cpu(threads, true)?,
        Mesh::single(),
        clicks.schema(),
    );
    Ok(Trainer::new(
        context, mesh, graph, &schema, &optimizer, settings,
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
    let variable = |name: &str, default: &str| std::env::var(name).unwrap_or(default.into());
    let name = variable("STREAMREC_MODEL", "dlrm");
    let precision = precision(&variable("STREAMREC_PRECISION", "fp32"))?;
    let model = model(&name)?;
    let mut trainer = trainer(&model, rows, threads, precision)?;
    let batches = model.0.batches(rows, BATCHES);
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
        "model": name,
        "precision": precision.to_string(),
        "zipf": ZIPF,
        "cpu": cpu(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    println!("{line}");
    Ok(())
}
