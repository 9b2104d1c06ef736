//! Training throughput of DLRM through the framework's own step, as one JSON line.
//!
//! The model, the ids and the windows are those of `benches/peers/pytorch_dlrm.py`: 13 dense
//! features, 26 tables of 100,000 rows x 64, bottom 512-256-64, dot interaction, top 512-256-1,
//! scrambled Zipf ids, Adagrad for all, fp32, batches made before the clock starts and cycled.
//! `scripts/bench` runs both sides in turn.
//!
//! `STREAMREC_BATCH` and `STREAMREC_THREADS` change the defaults, 8192 and all cores.

use std::collections::BTreeMap;
use std::time::Instant;

use streamrec::config::Reduction;
use streamrec::config::model::{DlrmConfig, ModelConfig};
use streamrec::config::optimizer::{
    DenseOptimizerConfig, OptimizerConfig, ScheduleConfig, SparseOptimizerConfig,
};
use streamrec::data::Batch;
use streamrec::data::counter::Stream;
use streamrec::model::{BucketSettings, models};
use streamrec::parallel::Mesh;
use streamrec::train::{Trainer, TrainerSettings};
use streamrec_artifact::{
    CategoricalFeature, ColumnKind, DenseFeature, DenseSource, Encoded, Encoding, FeatureSchema,
    InputColumn, Pooling, SourceType, TableSchema,
};
use streamrec_kernels::Context;

const DENSE: usize = 13;
const TABLES: usize = 26;
const ROWS: usize = 100_000;
const ZIPF_EXPONENT: f64 = 1.05;
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

fn schema() -> FeatureSchema {
    let input = |name: String, kind, source| InputColumn {
        name,
        kind,
        source,
        unit: None,
        range: None,
        required: true,
    };
    let dense = |index| format!("dense_{index}");
    let id = |index| format!("id_{index}");
    let dense_inputs =
        (0..DENSE).map(|index| input(dense(index), ColumnKind::Dense, SourceType::Float));
    let id_inputs = (0..TABLES).map(|index| input(id(index), ColumnKind::Key, SourceType::Integer));
    FeatureSchema {
        inputs: dense_inputs.chain(id_inputs).collect(),
        dense: (0..DENSE)
            .map(|index| DenseFeature {
                name: dense(index),
                source: DenseSource::Column(dense(index)),
                steps: Vec::new(),
                fill: 0.0,
            })
            .collect(),
        categorical: (0..TABLES)
            .map(|index| CategoricalFeature {
                name: id(index),
                input: id(index),
                encoding: Encoding::Hash { rows: ROWS },
                table: id(index),
                pooling: Pooling::Sum,
                max_length: None,
            })
            .collect(),
        tables: (0..TABLES)
            .map(|index| TableSchema {
                name: id(index),
                rows: ROWS,
                dim: None,
            })
            .collect(),
        labels: vec!["click".into()],
    }
}

fn trainer(batch: usize, threads: usize) -> Result<Trainer> {
    let schema = schema();
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

/// Ids with P(rank r) ~ r^-exponent, the ranks scrambled by each table's own permutation.
fn ids(table: usize, count: usize) -> Vec<i64> {
    let mut random = Stream::new(&[7, table as u64]);
    let mut cumulative: Vec<f64> = (1..=ROWS)
        .map(|rank| (rank as f64).powf(-ZIPF_EXPONENT))
        .collect();
    for rank in 1..ROWS {
        cumulative[rank] += cumulative[rank - 1];
    }
    let mut scrambled: Vec<i64> = (0..ROWS as i64).collect();
    for last in (1..ROWS).rev() {
        scrambled.swap(last, random.below(last as u64 + 1) as usize);
    }
    let total = cumulative[ROWS - 1];
    let draw = |_| {
        let at = random.uniform() * total;
        scrambled[cumulative.partition_point(|&sum| sum <= at).min(ROWS - 1)]
    };
    (0..count).map(draw).collect()
}

fn batches(rows: usize) -> Vec<Batch> {
    let of_tables: Vec<Vec<i64>> = (0..TABLES)
        .map(|table| ids(table, rows * BATCHES))
        .collect();
    let mut random = Stream::new(&[11]);
    let batch = |index: usize| {
        let part = index * rows..(index + 1) * rows;
        let encoded = Encoded {
            rows,
            dense: (0..rows * DENSE).map(|_| random.normal() as f32).collect(),
            ids: of_tables
                .iter()
                .flat_map(|ids| ids[part.clone()].iter().copied())
                .collect(),
            offsets: (0..=(TABLES * rows) as i64).collect(),
        };
        Batch {
            rows,
            filled: rows,
            encoded,
            labels: (0..rows)
                .map(|_| f32::from(u8::from(random.chance(0.25))))
                .collect(),
            weights: vec![1.0; rows],
            weight_sum: rows as f64,
            ..Batch::default()
        }
    };
    (0..BATCHES).map(batch).collect()
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
    let (mut trainer, batches) = (trainer(rows, threads)?, batches(rows));
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
        "rows": ROWS,
        "zipf": ZIPF_EXPONENT,
        "cpu": cpu(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    println!("{line}");
    Ok(())
}
