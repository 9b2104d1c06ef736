//! `streamrec plan`: where the tables of an experiment would lie on some ranks, and what a step would
//! take there. Nothing is trained but some probing steps, and no GPU is needed.
//!
//! Training plans by itself where a placement is `auto` ([`placement`]).

mod demand;
mod pasted;
pub(super) mod placement;
mod probe;
mod report;
mod shape;

use std::path::PathBuf;

use super::cli::PlanArgs;
use super::features::Features;
use super::rank::Rank;
use super::{RunError, folder, trainee};
use crate::config::{Experiment, Placement};
use crate::data::Dataset;
use crate::parallel::planner::{BatchSplit, Collectives, Gpu, Machine, Planner, Rates};

use super::bytes::parse_bytes;
use demand::{Demand, first_batches};
use probe::{Host, Probe};
use report::Report;

pub(super) fn run(args: &PlanArgs) -> Result<(), RunError> {
    let mut experiment = Experiment::load(&args.config, &args.set)?;
    // What is not pinned by name is the planner's to choose.
    experiment.parallel.embeddings.placement = Placement::Auto;
    let tp = experiment.parallel.tp;
    if args.world == 0 || !args.world.is_multiple_of(tp) {
        return Err(RunError::Usage(format!(
            "--world {}: expected a multiple of `parallel.tp` = {tp}, at least {tp}",
            args.world
        )));
    }
    let split = BatchSplit {
        batch: experiment.train.global_batch,
        ranks: args.world,
        tp,
    };
    let (demand, machine) = match &args.tables {
        Some(path) => (
            shape::demand(path, &experiment, &split)?,
            machine(args, &experiment, &split)?,
        ),
        None => of_data(args, &experiment, &split)?,
    };
    let dense = demand.dense(&experiment, &split);
    let planner = Planner {
        machine: &machine,
        batch: split.batch,
        tp,
        reduction: experiment.parallel.reduction,
        other_bytes: demand::dense_bytes(&experiment, &dense) as u64,
    };
    let choices = planner
        .plan(&demand.tables, &experiment.parallel.embeddings)
        .map_err(|error| RunError::Usage(error.to_string()))?;
    let report = Report {
        experiment: &experiment,
        planner: &planner,
        demand: &demand,
        dense: &dense,
        choices: &choices,
    };
    print!("{report}");
    print!("{}", pasted::advice(&choices)?);
    Ok(())
}

/// What the experiment asks of its own data, and of the machine that it would run on.
fn of_data(
    args: &PlanArgs,
    experiment: &Experiment,
    split: &BatchSplit,
) -> Result<(Demand, Machine), RunError> {
    let dataset = Dataset::open(&experiment.data.dataset)?;
    let features = fitted(experiment, &dataset)?;
    let batches = first_batches(experiment, &dataset, &features, 1)?;
    let schema = features.fitted.schema.clone();
    let graph = trainee::built_in(&experiment.model, &schema)?;
    let demand = Demand::of_batch(experiment, graph, schema, &batches[0])?;
    let machine = machine(args, experiment, split)?;
    if gpu(args).is_some() {
        return Ok((demand, machine));
    }
    let (dp, graph) = (split.ranks / split.tp, &demand.graph);
    let host = Host {
        threads: threads(split),
        side_by_side: machine.at_once,
        ranks: machine.at_once,
    };
    let probe = Probe::new(experiment, &dataset, &features, graph, dp, host)?;
    let times = probe.times()?;
    Ok((demand, probe.calibrated(machine, &times)))
}

/// The GPU that the arguments speak of.
fn gpu(args: &PlanArgs) -> Option<Gpu> {
    let default = args.gpu_memory.is_some().then_some(Gpu::H100);
    args.gpu.map(Gpu::from).or(default)
}

/// Threads of a rank of this machine.
fn threads(split: &BatchSplit) -> usize {
    (cores() / split.ranks).max(1)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The ranks that the arguments speak of.
fn machine(
    args: &PlanArgs,
    experiment: &Experiment,
    split: &BatchSplit,
) -> Result<Machine, RunError> {
    let (ranks, tp) = (split.ranks, split.tp);
    if let Some(gpu) = gpu(args) {
        let memory = match &args.gpu_memory {
            Some(memory) => parse_bytes("--gpu-memory", memory)?,
            None => gpu.memory_bytes(),
        };
        return Ok(Machine::of_gpus(gpu, ranks, tp, memory));
    }
    let memory_bytes = parse_bytes("--memory", &args.memory)?;
    tracing::info!("measuring memory, products and shared memory on this machine");
    let (threads, at_once) = (threads(split), ranks.min(cores()));
    let stored = experiment.train.table_precision;
    Ok(Machine {
        ranks,
        at_once,
        memory_bytes,
        rates: Rates::measured(threads, at_once * threads, stored),
        collectives: Collectives::of_threads(ranks)?,
        group: Collectives::of_threads(tp)?,
        hides: false,
    })
}

/// The experiment's features, fitted for this plan alone.
fn fitted(experiment: &Experiment, dataset: &Dataset) -> Result<Features, RunError> {
    let folder = std::env::temp_dir().join(format!("streamrec-plan-{}", std::process::id()));
    // What a killed plan of the same number left are other features.
    folder::remove(&folder)?;
    let folder = Removed(folder);
    let rank = Rank::alone()?;
    Features::fit_or_read(&rank, experiment, dataset, None, &folder.0)
}

/// A folder that goes when this does.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        // It is temporary: what cannot be removed stays in the system's folder for such.
        let _ = folder::remove(&self.0);
    }
}
