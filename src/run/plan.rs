//! `streamrec plan`: where the tables of an experiment would lie on some ranks, and what a step would
//! take there. Nothing is trained, and no GPU is needed.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::path::PathBuf;

use serde::Serialize;
use streamrec_artifact::{FeatureSchema, Graph, LookupSpec, Op};

use super::RunError;
use super::bytes::parse_bytes;
use super::cli::PlanArgs;
use super::features::Features;
use super::rank::Rank;
use super::{folder, readers, trainee};
use crate::comm::SingleRank;
use crate::config::optimizer::{DenseOptimizerConfig, SparseOptimizerConfig};
use crate::config::{Experiment, Placement, TableConfig};
use crate::data::{Batch, Dataset};
use crate::model::ModelError;
use crate::parallel::TensorPlan;
use crate::parallel::planner::{Choice, Cost, Distinct, Machine, Planner, TableLoad};

const FLOAT: f64 = 4.0;

pub(super) fn run(args: &PlanArgs) -> Result<(), RunError> {
    let experiment = Experiment::load(&args.config, &args.set)?;
    let tp = experiment.parallel.tp;
    if args.world == 0 || !args.world.is_multiple_of(tp) {
        return Err(RunError::Usage(format!(
            "--world {}: expected a multiple of `parallel.tp` = {tp}, at least {tp}",
            args.world
        )));
    }
    let machine = machine(args)?;
    let dataset = Dataset::open(&experiment.data.dataset)?;
    let features = fitted(&experiment, &dataset)?;
    let schema = &features.fitted.schema;
    let graph = trainee::built_in(&experiment.model, schema)?;
    let mut reader = readers::training(&experiment, &dataset, &features.encoder, &SingleRank)?;
    reader.start(0, 0)?;
    let Some(batch) = reader.next()? else {
        return Err(RunError::Usage(format!(
            "the training split of {} has no rows to measure: import or generate data first",
            dataset.folder.display()
        )));
    };
    let loads = loads(&experiment, &graph, schema, &batch)?;
    let dense = Dense::of(&experiment, &graph, schema, args.world)?;
    let planner = Planner {
        machine: &machine,
        batch: experiment.train.global_batch,
        reduction: experiment.parallel.reduction,
        other_bytes: dense.bytes as u64,
    };
    let choices = planner
        .plan(&loads, &experiment.parallel.embeddings)
        .map_err(|error| RunError::Usage(error.to_string()))?;
    print!(
        "{}",
        report(&experiment, &graph, &planner, &loads, &choices, &dense)?
    );
    Ok(())
}

/// The ranks that the arguments speak of.
fn machine(args: &PlanArgs) -> Result<Machine, RunError> {
    if let Some(memory) = &args.gpu_memory {
        return Ok(Machine::gpu(
            args.world,
            parse_bytes("--gpu-memory", memory)?,
        ));
    }
    let memory = parse_bytes("--memory", &args.memory)?;
    tracing::info!("measuring memory, shared memory and products on this machine");
    Ok(Machine::measured(args.world, memory)?)
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

/// What a batch asks of each table.
fn loads(
    experiment: &Experiment,
    graph: &Graph,
    schema: &FeatureSchema,
    batch: &Batch,
) -> Result<Vec<TableLoad>, RunError> {
    let shapes = graph.validate(schema).map_err(ModelError::from)?;
    let lookups: Vec<&LookupSpec> = graph
        .nodes
        .iter()
        .filter_map(|node| match &node.op {
            Op::EmbeddingBag { lookups } => Some(lookups),
            _ => None,
        })
        .flatten()
        .collect();
    let loads = graph.tables.iter().zip(&shapes.table_rows);
    let exchange = &experiment.parallel.embeddings;
    let load = |(table, &rows): (&streamrec_artifact::GraphTable, &usize)| {
        let own = lookups.iter().filter(|lookup| lookup.table == table.name);
        let features: Vec<usize> = own
            .filter_map(|lookup| schema.categorical(&lookup.feature))
            .collect();
        let filled = batch.filled.max(1);
        let ids = |samples: usize| -> Vec<i64> {
            let of = |&feature: &usize| {
                let offsets = &batch.encoded.offsets[feature * batch.rows..];
                &batch.encoded.ids[offsets[0] as usize..offsets[samples] as usize]
            };
            features.iter().flat_map(of).copied().collect()
        };
        let distinct = |samples| ids(samples).into_iter().collect::<HashSet<_>>().len();
        let part = (filled / 8).max(1);
        TableLoad {
            name: table.name.clone(),
            rows,
            dim: table.dim,
            lookups: features.len(),
            ids_per_sample: ids(filled).len() as f64 / filled as f64,
            distinct: Distinct::new((part, distinct(part)), (filled, distinct(filled))),
            state_bytes: state_bytes(&experiment.optimizer.sparse, table.dim),
            payloads: [exchange.vectors, exchange.gradients],
        }
    };
    Ok(loads.map(load).collect())
}

/// Bytes of optimiser state a row.
fn state_bytes(rule: &SparseOptimizerConfig, dim: usize) -> usize {
    let values = match rule {
        SparseOptimizerConfig::Sgd { .. } => 0,
        SparseOptimizerConfig::RowWiseAdagrad { .. } => 1,
        SparseOptimizerConfig::Adagrad { .. } => dim,
        SparseOptimizerConfig::LazyAdam { .. } => 2 * dim,
    };
    values * size_of::<f32>()
}

/// What a rank has besides tables.
struct Dense {
    parameters: f64,
    /// Weights, gradients, optimiser state, values and their gradients.
    bytes: f64,
    /// Float operations a sample, forward and backward.
    flops: f64,
}

impl Dense {
    fn of(
        experiment: &Experiment,
        graph: &Graph,
        schema: &FeatureSchema,
        world: usize,
    ) -> Result<Self, RunError> {
        let shapes = graph.validate(schema).map_err(ModelError::from)?;
        let parameters: usize = graph.parameters().iter().map(|p| p.len()).sum();
        let copies = match experiment.optimizer.dense {
            DenseOptimizerConfig::Sgd { momentum: 0.0, .. } => 2.0,
            DenseOptimizerConfig::Sgd { .. } | DenseOptimizerConfig::Adagrad { .. } => 3.0,
            DenseOptimizerConfig::Adam { .. } | DenseOptimizerConfig::AdamW { .. } => 4.0,
        };
        let dp = world / experiment.parallel.tp;
        let rows = experiment.train.global_batch.div_ceil(dp);
        let width: usize = shapes.widths.iter().sum();
        let interactions = graph.nodes.iter().map(|node| match node.op {
            Op::DotInteraction { features, dim } => (features * features * dim) as f64,
            _ => 0.0,
        });
        Ok(Self {
            parameters: parameters as f64,
            bytes: parameters as f64 * FLOAT * copies + (2 * rows * width) as f64 * FLOAT,
            // A product forward and two backward, a multiplication and an addition each.
            flops: 6.0 * (parameters as f64 + interactions.sum::<f64>()),
        })
    }
}

fn report(
    experiment: &Experiment,
    graph: &Graph,
    planner: &Planner<'_>,
    loads: &[TableLoad],
    choices: &[Choice],
    dense: &Dense,
) -> Result<String, RunError> {
    let machine = planner.machine;
    let mut text = String::new();
    // Writing into a string cannot fail.
    let out = &mut text;
    let _ = writeln!(
        out,
        "{} ranks (dp {} x tp {}), global batch {}; a rank: {:.1} GiB, memory {:.1} GB/s, link {:.1} GB/s, \
         products {:.0} GFLOP/s\n",
        machine.ranks,
        machine.ranks / experiment.parallel.tp,
        experiment.parallel.tp,
        planner.batch,
        machine.memory_bytes as f64 / 1024f64.powi(3),
        machine.memory_bytes_per_s / 1e9,
        machine.link_bytes_per_s / 1e9,
        machine.flops_per_s / 1e9,
    );
    let _ = writeln!(
        out,
        "{:24} {:>16} {:>8} {:>9}  {:34} {:>11} {:>9}  next best",
        "table", "rows x dim", "ids", "distinct", "placement", "most MiB", "ms"
    );
    for (load, choice) in loads.iter().zip(choices) {
        let pinned = experiment.parallel.embeddings.tables.get(&load.name);
        let mut others = planner.candidates(load, pinned);
        others.retain(|other| {
            (other.placement, other.exchange) != (choice.placement, choice.exchange)
        });
        let ms = |choice: &Choice| choice.seconds(machine) * 1e3;
        others.sort_by(|a, b| ms(a).total_cmp(&ms(b)));
        let next = others.first().map_or_else(String::new, |other| {
            format!("{} {:.3} ms", name(other), ms(other))
        });
        let _ = writeln!(
            out,
            "{:24} {:>16} {:>8.2} {:>9.0}  {:34} {:>11.1} {:>9.3}  {next}",
            load.name,
            format!("{} x {}", load.rows, load.dim),
            load.ids_per_sample,
            load.distinct_rows(planner.batch as f64),
            name(choice),
            choice.memory_bytes() / 1024f64.powi(2),
            ms(choice),
        );
    }
    totals(out, experiment, graph, planner, choices, dense);
    let sharded = |choice: &&Choice| choice.placement != Placement::Replicated;
    let sharded: Vec<&Choice> = choices.iter().filter(sharded).collect();
    if sharded.is_empty() {
        out.push_str("\nEvery table is replicated, which is what an experiment does by itself.\n");
        return Ok(text);
    }
    let toml = toml::to_string(&Pasted::of(&sharded))
        .map_err(RunError::other("the plan has no TOML form"))?;
    let _ = write!(
        out,
        "\nTo train so, put this into the experiment:\n\n{toml}"
    );
    Ok(text)
}

fn name(choice: &Choice) -> String {
    match choice.placement {
        Placement::Replicated => "replicated".into(),
        Placement::TableWise => format!("table-wise on rank {}, {}", choice.owner, choice.exchange),
        placement => format!("{placement}, {}", choice.exchange),
    }
}

/// Memory and time of whole ranks.
fn totals(
    out: &mut String,
    experiment: &Experiment,
    graph: &Graph,
    planner: &Planner<'_>,
    choices: &[Choice],
    dense: &Dense,
) {
    let machine = planner.machine;
    let ranks: Vec<Cost> = (0..machine.ranks)
        .map(|rank| {
            let of_rank = choices.iter().map(|choice| choice.costs[rank]);
            of_rank.fold(Cost::default(), Cost::plus)
        })
        .collect();
    let held = ranks
        .iter()
        .map(|rank| (rank.memory_bytes + dense.bytes) / 1024f64.powi(2));
    let (least, most) = held.fold((f64::INFINITY, 0.0f64), |(least, most), own| {
        (least.min(own), most.max(own))
    });
    let seconds: Vec<f64> = ranks.iter().map(|rank| rank.seconds(machine)).collect();
    let busiest = seconds.iter().copied().fold(0.0, f64::max);
    let mean = seconds.iter().sum::<f64>() / seconds.len() as f64;
    let sent = ranks.iter().map(|rank| rank.sent_bytes).fold(0.0, f64::max);
    let products = dense.flops * planner.batch as f64 / machine.ranks as f64 / machine.flops_per_s;
    let reduced = if machine.ranks > experiment.parallel.tp {
        2.0 * dense.parameters * FLOAT / machine.link_bytes_per_s
    } else {
        0.0
    };
    let _ = writeln!(
        out,
        "\nmemory of a rank: {least:.1} to {most:.1} MiB, {:.1} of it dense weights, their state and values",
        dense.bytes / 1024f64.powi(2)
    );
    let _ = writeln!(
        out,
        "step: about {:.2} ms if nothing hides: products {:.2}, tables {:.2} on the busiest rank ({:.2} on the \
         mean one; at most {:.2} MiB sent), dense gradients {:.2}",
        (products + busiest + reduced) * 1e3,
        products * 1e3,
        busiest * 1e3,
        mean * 1e3,
        sent / 1024f64.powi(2),
        reduced * 1e3,
    );
    if experiment.parallel.tp > 1 {
        let plan = TensorPlan::new(graph, &experiment.parallel.layers);
        let _ = writeln!(
            out,
            "\n{} ranks share each layer:\n{plan}",
            experiment.parallel.tp
        );
    }
}

/// The section of an experiment that fixes a plan.
#[derive(Serialize)]
struct Pasted {
    parallel: PastedParallel,
}

#[derive(Serialize)]
struct PastedParallel {
    embeddings: PastedEmbeddings,
}

#[derive(Serialize)]
struct PastedEmbeddings {
    tables: BTreeMap<String, TableConfig>,
}

impl Pasted {
    /// Of the tables that are not replicated.
    fn of(choices: &[&Choice]) -> Self {
        let table = |choice: &&Choice| {
            let config = TableConfig {
                placement: Some(choice.placement),
                exchange: Some(choice.exchange),
                rank: (choice.placement == Placement::TableWise).then_some(choice.owner),
            };
            (choice.table.clone(), config)
        };
        let tables = choices.iter().map(table).collect();
        Self {
            parallel: PastedParallel {
                embeddings: PastedEmbeddings { tables },
            },
        }
    }
}
