//! Steps as the planner estimates them, against steps that were taken: `cargo bench --bench scaling`.
//!
//! 1, 2 and 4 ranks, threads of this process with as many cores as there are, train a model over shared memory with
//! each placement of its tables. The estimate comes from one rank's operations and from collectives, both
//! measured beforehand, none from the steps that it is held against. `STREAMREC_ROUNDS` (3) rounds go over all of
//! it; the medians are printed.

mod clicks;

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::time::Instant;

use streamrec::comm::{CommError, Communicator, Settings, SharedMemory, SingleRank};
use streamrec::config::model::{DcnV2Config, DlrmConfig, ModelConfig, Structure};
use streamrec::config::optimizer::{
    DenseOptimizerConfig, OptimizerConfig, ScheduleConfig, SparseOptimizerConfig,
};
use streamrec::config::{
    EmbeddingsConfig, Exchange, LossScaleConfig, Placement, Precision, Reduction, TableConfig,
};
use streamrec::data::Batch;
use streamrec::model::{BucketSettings, models};
use streamrec::parallel::planner::{
    BatchSplit, Collectives, Cost, DenseLoad, Machine, OperationTimes, Planner, Rates,
    StepEstimate, TableLoad, totals,
};
use streamrec::parallel::{Mesh, TablePlan};
use streamrec::train::{Trainer, TrainerSettings, operation_times};
use streamrec_artifact::{FeatureSchema, Graph};
use streamrec_kernels::Context;

use clicks::Clicks;

const WARM_UP_STEPS: u64 = 2;
const STEPS: u64 = 8;
const BATCHES: usize = 4;
const WORLDS: [usize; 3] = [1, 2, 4];
/// The placement of all tables; the last is the planner's own.
const PLACEMENTS: [Placement; 5] = [
    Placement::Replicated,
    Placement::TableWise,
    Placement::RowWise,
    Placement::ColumnWise,
    Placement::Auto,
];

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A model, and the clicks that it learns.
struct Workload {
    name: &'static str,
    clicks: Clicks,
    model: ModelConfig,
    batch: usize,
}

fn workloads() -> [Workload; 2] {
    let dlrm = DlrmConfig {
        embedding_dim: 64,
        dims: BTreeMap::new(),
        bottom: vec![512, 256, 64],
        top: vec![512, 256],
    };
    let dcn = DcnV2Config {
        embedding_dim: 32,
        dims: BTreeMap::new(),
        bottom: Vec::new(),
        cross_layers: 3,
        cross_rank: 64,
        deep: vec![256, 128],
        structure: Structure::default(),
    };
    [
        Workload {
            name: "DLRM, 26 tables of 50,000 x 64",
            clicks: Clicks {
                dense: 13,
                tables: &[50_000; 26],
                zipf_exponent: 1.05,
            },
            model: ModelConfig::Dlrm(dlrm),
            batch: 8192,
        },
        Workload {
            name: "DCN-v2, 8 tables of 200,000 x 32",
            clicks: Clicks {
                dense: 16,
                tables: &[200_000; 8],
                zipf_exponent: 1.05,
            },
            model: ModelConfig::DcnV2(dcn),
            batch: 8192,
        },
    ]
}

fn optimizer() -> OptimizerConfig {
    OptimizerConfig {
        dense: DenseOptimizerConfig::Adagrad {
            learning_rate: 0.01,
            eps: 1e-10,
            initial_accumulator: 0.0,
            weight_decay: 0.0,
        },
        sparse: SparseOptimizerConfig::RowWiseAdagrad {
            learning_rate: 0.01,
            eps: 1e-10,
            initial_accumulator: 0.0,
            weight_decay: 0.0,
            max_row_norm: None,
        },
        groups: Vec::new(),
        schedule: ScheduleConfig::default(),
        clip_norm: None,
    }
}

/// One workload on some ranks.
struct Job<'a> {
    graph: &'a Graph,
    schema: &'a FeatureSchema,
    /// Of rank after rank.
    batches: &'a [Batch],
    split: BatchSplit,
    threads: usize,
}

impl Job<'_> {
    fn trainer(&self, comm: Arc<dyn Communicator>, tables: Option<TablePlan>) -> Result<Trainer> {
        let rows = self.batches[0].rows;
        let settings = TrainerSettings {
            seed: 1,
            batch_rows: rows,
            global_batch: rows * comm.size(),
            accumulate: 1,
            reduction: Reduction::Fast,
            precision: Precision::Fp32,
            table_precision: Precision::Fp32,
            loss_scale: LossScaleConfig::default(),
            label_weights: vec![1.0],
            partitions: BTreeMap::new(),
            tables,
            buckets: BucketSettings::default(),
        };
        let (context, mesh) = (Context::cpu(self.threads, false)?, Mesh::new(comm, 1)?);
        let trainer = Trainer::new(
            context,
            mesh,
            self.graph,
            self.schema,
            &optimizer(),
            settings,
        )?;
        Ok(trainer)
    }

    /// The machine with the rates of this job's operations.
    fn machine(&self, loads: &[TableLoad]) -> Result<Machine> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let ranks = self.split.ranks;
        let at_once = ranks.min(cores);
        let machine = Machine {
            ranks,
            at_once,
            memory_bytes: 8 << 30,
            rates: Rates::measured(self.threads, at_once * self.threads, Precision::Fp32),
            collectives: Collectives::of_threads(ranks)?,
            group: Collectives::ALONE,
            hides: false,
        };
        let alone = BatchSplit {
            batch: self.batches[0].rows,
            ranks: 1,
            tp: 1,
        };
        let cost = |exchange| Cost::exchanged_alone(loads, exchange, &alone);
        Ok(machine.calibrated(
            &self.dense(&alone)?,
            [&cost(Exchange::Pooled), &cost(Exchange::Unique)],
            [
                &self.times_alone(Exchange::Pooled, at_once)?,
                &self.times_alone(Exchange::Unique, at_once)?,
            ],
        ))
    }

    /// Of so many ranks side by side, each of which exchanges all tables with itself.
    fn times_alone(&self, exchange: Exchange, at_once: usize) -> Result<OperationTimes> {
        let shapes = self.graph.validate(self.schema)?;
        let tables = TablePlan::exchanged_alone(self.graph, &shapes, exchange);
        let alone = |_| self.trainer(Arc::new(SingleRank), Some(tables.clone()));
        let trainers = (0..at_once).map(alone).collect::<Result<Vec<_>>>()?;
        let together = Barrier::new(at_once);
        let times = std::thread::scope(|scope| {
            let together = &together;
            let probe = |mut trainer: Trainer| {
                scope.spawn(move || {
                    operation_times(&mut trainer, self.graph, &self.batches[..BATCHES], together)
                })
            };
            let probes: Vec<_> = trainers.into_iter().map(probe).collect();
            let joined = probes.into_iter().map(|own| own.join());
            joined
                .map(|own| Ok(own.map_err(|_| CommError::Abandoned)??))
                .collect::<Result<Vec<_>>>()
        })?;
        Ok(OperationTimes::mean(&times))
    }

    fn dense(&self, split: &BatchSplit) -> Result<DenseLoad> {
        let shapes = self.graph.validate(self.schema)?;
        Ok(DenseLoad::new(self.graph, &shapes, &BTreeMap::new(), split))
    }

    /// The estimate of a step, and the plan that it is of.
    fn estimate(
        &self,
        machine: &Machine,
        loads: &[TableLoad],
        placement: Placement,
    ) -> Result<(StepEstimate, TablePlan)> {
        let planner = Planner {
            machine,
            batch: self.split.batch,
            tp: 1,
            reduction: Reduction::Fast,
            other_bytes: 0,
        };
        let mut config = EmbeddingsConfig {
            placement,
            ..EmbeddingsConfig::default()
        };
        let choices = planner.plan(loads, &config)?;
        for choice in &choices {
            let own = TableConfig {
                placement: Some(choice.placement),
                exchange: Some(choice.exchange),
                rank: (choice.placement == Placement::TableWise).then_some(choice.owner),
            };
            config.tables.insert(choice.table.clone(), own);
        }
        let costs = totals(choices.iter(), self.split.ranks);
        let estimate = StepEstimate::new(machine, &self.dense(&self.split)?, &costs, 1);
        let shapes = self.graph.validate(self.schema)?;
        let plan = TablePlan::new(
            self.graph,
            &shapes,
            &config,
            Reduction::Fast,
            self.split.ranks,
        )?;
        Ok((estimate, plan))
    }

    /// The median seconds of a step.
    fn train(&self, plan: &TablePlan) -> Result<f64> {
        if self.split.ranks == 1 {
            return self.steps(Arc::new(SingleRank), plan);
        }
        let ranks = SharedMemory::connect_threads(self.split.ranks, &Settings::default())?;
        std::thread::scope(|scope| {
            let train = |rank| scope.spawn(move || self.steps(Arc::new(rank), plan));
            let threads: Vec<_> = ranks.into_iter().map(train).collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            let seconds = joined.map(|own| own.unwrap_or(Err(CommError::Abandoned.into())));
            let seconds = seconds.collect::<Result<Vec<f64>>>()?;
            Ok(seconds.into_iter().fold(0.0, f64::max))
        })
    }

    fn steps(&self, comm: Arc<dyn Communicator>, plan: &TablePlan) -> Result<f64> {
        let own = &self.batches[comm.rank() * BATCHES..][..BATCHES];
        let mut trainer = self.trainer(comm, Some(plan.clone()))?;
        let mut seconds = Vec::new();
        for step in 1..=WARM_UP_STEPS + STEPS {
            let batch = |step: u64| &own[step as usize % BATCHES];
            let began = Instant::now();
            trainer.step(batch(step), Some(batch(step + 1)), step, false)?;
            if step > WARM_UP_STEPS {
                seconds.push(began.elapsed().as_secs_f64());
            }
        }
        Ok(median(seconds))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Estimated and measured seconds, by placement.
fn round(workload: &Workload, ranks: usize) -> Result<Vec<(StepEstimate, f64)>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let schema = workload.clicks.schema();
    let graph = models::build(&workload.model, &schema)?;
    let rows = workload.batch / ranks;
    let job = Job {
        graph: &graph,
        schema: &schema,
        batches: &workload.clicks.batches(rows, BATCHES * ranks),
        split: BatchSplit {
            batch: workload.batch,
            ranks,
            tp: 1,
        },
        threads: (cores / ranks).max(1),
    };
    let whole = &workload.clicks.batches(workload.batch, 1)[0];
    let shapes = graph.validate(&schema)?;
    let (rule, config) = (optimizer().sparse, EmbeddingsConfig::default());
    let loads = TableLoad::of_batch(
        &graph,
        &shapes,
        &schema,
        whole,
        &rule,
        (&config, Precision::Fp32),
    );
    PLACEMENTS
        .iter()
        .take(if ranks == 1 { 1 } else { PLACEMENTS.len() })
        .map(|&placement| {
            // Anew for each, since a machine that others use too is not as fast a minute later.
            let machine = job.machine(&loads)?;
            let (estimate, plan) = job.estimate(&machine, &loads, placement)?;
            Ok((estimate, job.train(&plan)?))
        })
        .collect()
}

fn main() -> Result<()> {
    let rounds = std::env::var("STREAMREC_ROUNDS").map_or(Ok(3), |value| value.parse::<usize>())?;
    for workload in workloads() {
        println!("{}, batch {}", workload.name, workload.batch);
        println!(
            "{:>5} {:12} {:>12} {:>12} {:>8}   layers, tables, exchange, all-reduce, ms",
            "ranks", "placement", "estimate ms", "measured ms", "ratio"
        );
        for ranks in WORLDS {
            let all = (0..rounds).map(|_| round(&workload, ranks));
            let all = all.collect::<Result<Vec<_>>>()?;
            for (index, placement) in PLACEMENTS.iter().enumerate().take(all[0].len()) {
                let of = |value: &dyn Fn(&(StepEstimate, f64)) -> f64| {
                    1e3 * median(all.iter().map(|round| value(&round[index])).collect())
                };
                let (estimate, measured) = (of(&|own| own.0.seconds()), of(&|own| own.1));
                println!(
                    "{ranks:>5} {:12} {estimate:>12.2} {measured:>12.2} {:>8.3}   {:.1}, {:.1}, {:.1}, {:.1}",
                    placement.to_string(),
                    estimate / measured,
                    of(&|own| own.0.dense_s),
                    of(&|own| own.0.tables_s),
                    of(&|own| own.0.exchange_s),
                    of(&|own| own.0.all_reduce_s),
                );
            }
        }
    }
    Ok(())
}
