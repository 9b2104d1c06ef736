//! Placements that a training run chooses by itself, where its experiment says `auto`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use streamrec_artifact::Graph;

use super::super::RunError;
use super::super::features::Features;
use super::super::folder;
use super::super::rank::Rank;
use super::demand::{Demand, dense_bytes, first_batches};
use super::pasted;
use super::probe::{Host, Probe};
use crate::comm::{SingleRank, all_reduce_f64, broadcast_bytes};
use crate::config::{Experiment, TableConfig};
use crate::data::Dataset;
use crate::parallel::planner::{BatchSplit, Collectives, Machine, OperationTimes, Planner, Rates};

/// The share of the memory that is free now which the ranks of a host may fill.
const OF_FREE_MEMORY: f64 = 0.7;

/// What a job of some size chose, kept in its run so that it chooses the same when it starts again.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Chosen {
    /// Ranks of the job.
    world: usize,
    /// Ranks of a tensor-parallel group.
    tp: usize,
    tables: BTreeMap<String, TableConfig>,
}

/// The experiment with a placement for each table, for ranks that train on CPUs: its own, where none is left to the planner;
/// what an earlier start of a job of this size chose, from `path`; else what the planner chooses by what the ranks measure
/// of themselves. Collective.
pub(in crate::run) fn planned<'a>(
    rank: &Rank,
    experiment: &'a Experiment,
    dataset: &Dataset,
    features: &Features,
    graph: &Graph,
    path: &Path,
) -> Result<Cow<'a, Experiment>, RunError> {
    let (world, parallel) = (rank.mesh.world.as_ref(), &experiment.parallel);
    if world.size() == 1 || !parallel.embeddings.is_auto() {
        return Ok(Cow::Borrowed(experiment));
    }
    let mut chosen = Vec::new();
    let mut keep = |found: Vec<u8>| {
        chosen = found;
        !chosen.is_empty()
    };
    let earlier = match rank.is_first() {
        true => Chosen::earlier(path, world.size(), parallel.tp),
        false => Ok(Vec::new()),
    };
    if !rank.agree_with_first(earlier.map(&mut keep))? {
        let machine = measured(rank, experiment)?;
        let machine = calibrated(rank, machine, experiment, dataset, features, graph)?;
        let fresh = match rank.is_first() {
            true => choose(machine, experiment, dataset, features, graph, path),
            false => Ok(Vec::new()),
        };
        rank.agree_with_first(fresh.map(&mut keep))?;
    }
    let text = broadcast_bytes(world, chosen, 0)?;
    let chosen = Chosen::parse(&text, path)?;
    let mut planned = experiment.clone();
    planned.parallel.embeddings.tables = chosen.tables;
    Ok(Cow::Owned(planned))
}

/// The ranks of this job, each of them busy with the same. Collective.
fn measured(rank: &Rank, experiment: &Experiment) -> Result<Machine, RunError> {
    let world = rank.mesh.world.as_ref();
    let memory_bytes =
        free_memory_bytes() * OF_FREE_MEMORY / rank.environment.local_world_size as f64;
    let stored = experiment.train.table_precision;
    world.barrier().wait()?;
    Ok(Machine {
        ranks: world.size(),
        at_once: world.size(),
        memory_bytes: memory_bytes as u64,
        rates: Rates::measured(rank.threads, rank.threads, stored),
        collectives: Collectives::measured(world)?,
        group: Collectives::measured(match experiment.parallel.tp {
            1 => &SingleRank,
            _ => rank.mesh.tp.as_ref(),
        })?,
        hides: false,
    })
}

/// The machine with the rates that its ranks reach in this experiment: each trains alone for some steps, while all do.
/// Collective.
fn calibrated(
    rank: &Rank,
    machine: Machine,
    experiment: &Experiment,
    dataset: &Dataset,
    features: &Features,
    graph: &Graph,
) -> Result<Machine, RunError> {
    let world = rank.mesh.world.as_ref();
    let host = Host {
        threads: rank.threads,
        side_by_side: 1,
        ranks: rank.environment.local_world_size,
    };
    let dp = rank.mesh.dp.size();
    let mut probe = None;
    let made = Probe::new(experiment, dataset, features, graph, dp, host);
    rank.agree(made.map(|made| probe = Some(made)))?;
    let mut times = None;
    let found = probe
        .as_ref()
        .map_or(Ok(None), |probe| probe.times().map(Some));
    rank.agree(found.map(|found| times = found))?;
    let (Some(probe), Some(times)) = (probe, times) else {
        return Ok(machine);
    };
    let mut sums: Vec<f64> = times.iter().flat_map(OperationTimes::seconds).collect();
    all_reduce_f64(world, &mut sums)?;
    let ranks = world.size() as f64;
    let mean = |own: &[f64]| OperationTimes::of_seconds(std::array::from_fn(|i| own[i] / ranks));
    let (pooled, unique) = sums.split_at(sums.len() / 2);
    Ok(probe.calibrated(machine, &[mean(pooled), mean(unique)]))
}

/// Of this host; as good as unlimited where the system does not tell.
fn free_memory_bytes() -> f64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.map_or(1e15, |kib| kib * 1024.0)
}

/// Asks the planner, and keeps what it says in `path`.
fn choose(
    machine: Machine,
    experiment: &Experiment,
    dataset: &Dataset,
    features: &Features,
    graph: &Graph,
    path: &Path,
) -> Result<Vec<u8>, RunError> {
    let batches = first_batches(experiment, dataset, features, 1)?;
    let (schema, parallel) = (features.fitted.schema.clone(), &experiment.parallel);
    let demand = Demand::of_batch(experiment, graph.clone(), schema, &batches[0])?;
    let split = BatchSplit {
        batch: experiment.train.global_batch,
        ranks: machine.ranks,
        tp: parallel.tp,
    };
    let planner = Planner {
        machine: &machine,
        batch: split.batch,
        tp: split.tp,
        reduction: parallel.reduction,
        other_bytes: dense_bytes(experiment, &demand.dense(experiment, &split)) as u64,
    };
    let choices = planner
        .plan(&demand.tables, &parallel.embeddings)
        .map_err(|error| RunError::Usage(error.to_string()))?;
    let chosen = Chosen {
        world: split.ranks,
        tp: split.tp,
        tables: pasted::tables(choices.iter()),
    };
    let text = toml::to_string(&chosen).map_err(RunError::other("the plan has no TOML form"))?;
    folder::replace(path, text.as_bytes())?;
    tracing::info!(
        "the planner chose where tables lie; {} keeps it",
        path.display()
    );
    Ok(text.into_bytes())
}

impl Chosen {
    /// The text of what a job of this size chose; empty where none did.
    fn earlier(path: &Path, world: usize, tp: usize) -> Result<Vec<u8>, RunError> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(RunError::file("read", path)(error)),
        };
        let chosen = Self::parse(&text, path)?;
        Ok(if (chosen.world, chosen.tp) == (world, tp) {
            text
        } else {
            Vec::new()
        })
    }

    fn parse(text: &[u8], path: &Path) -> Result<Self, RunError> {
        toml::from_slice(text).map_err(|error| {
            RunError::Usage(format!(
                "{}: {error}; remove it to have tables placed anew",
                path.display()
            ))
        })
    }
}
