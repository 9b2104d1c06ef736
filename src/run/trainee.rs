//! A run's model: built from its experiment, and restored from its checkpoints.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use streamrec_artifact::{Artifact, FeatureSchema, Graph, Weights};
use streamrec_kernels::{Context, cuda::Executor};

use super::RunError;
use super::device::{self, Device};
use super::rank::Rank;
use crate::checkpoint::{Checkpoint, CheckpointFolder};
use crate::config::{Experiment, ModelConfig, Partition, Reduction};
use crate::model::{BucketSettings, ModelError, NamedSliceMut, ParameterStore, models};
use crate::parallel::{Mesh, TablePlan, TensorPlan};
use crate::train::{DeviceTrainer, SelfCheck, Trainee, Trainer, TrainerSettings};

/// Where a run's graph comes from: `model` of its experiment, or a user's own code.
pub(super) type GraphSource<'a> =
    dyn Fn(&ModelConfig, &FeatureSchema) -> Result<Graph, ModelError> + 'a;

/// The models that an experiment can name.
pub(super) fn built_in(config: &ModelConfig, schema: &FeatureSchema) -> Result<Graph, ModelError> {
    models::build(config, schema)
}

/// A fresh model over the rank's communicator, for batches of up to `batch_rows` rows: on the device, or on the CPU, where
/// tables lie as `planned` tells. Collective.
pub(super) fn trainer<'a>(
    rank: &Rank,
    device: Device,
    experiment: &Experiment,
    model: (&Graph, &FeatureSchema),
    batch_rows: usize,
    planned: impl FnOnce() -> Result<Cow<'a, Experiment>, RunError>,
) -> Result<Box<dyn Trainee>, RunError> {
    let context = rank.context()?;
    let made = match device {
        Device::Cpu => None,
        Device::Cuda(executor) => {
            let made = on_device(rank, *executor, &context, experiment, model, batch_rows);
            device::made_by_all(rank, experiment, made)?
        }
        #[cfg(test)]
        Device::Emulated(executor) => {
            let made = on_device(rank, *executor, &context, experiment, model, batch_rows);
            device::made_by_all(rank, experiment, made)?
        }
    };
    if let Some(made) = made {
        return Ok(made);
    }
    let (planned, (graph, schema)) = (planned()?, model);
    let experiment = planned.as_ref();
    let settings = TrainerSettings {
        partitions: partitions(rank, experiment, graph),
        tables: Some(tables(rank, experiment, graph, schema)?),
        ..settings(experiment, batch_rows)?
    };
    let (mesh, optimizer) = (rank.mesh.clone(), &experiment.optimizer);
    let trainer = Trainer::new(context, mesh, graph, schema, optimizer, settings)?;
    Ok(Box::new(trainer))
}

/// Likewise on a device.
fn on_device<E: Executor + 'static>(
    rank: &Rank,
    executor: E,
    context: &Context,
    experiment: &Experiment,
    (graph, schema): (&Graph, &FeatureSchema),
    batch_rows: usize,
) -> Result<Box<dyn Trainee>, RunError> {
    let settings = TrainerSettings {
        partitions: partitions(rank, experiment, graph),
        tables: Some(tables(rank, experiment, graph, schema)?),
        ..settings(experiment, batch_rows)?
    };
    let (mesh, optimizer) = (&rank.mesh, &experiment.optimizer);
    let trainer = DeviceTrainer::new(executor, context, mesh, graph, schema, optimizer, &settings)?;
    let timeout = Duration::from_secs_f64(experiment.parallel.timeout_s);
    Ok(Box::new(trainer.with_timeout(timeout)))
}

/// Likewise, of a rank that is alone.
pub(super) fn alone(
    context: Context,
    experiment: &Experiment,
    graph: &Graph,
    schema: &FeatureSchema,
    batch_rows: usize,
    tables: Option<TablePlan>,
) -> Result<Trainer, RunError> {
    let (mesh, optimizer) = (Mesh::single(), &experiment.optimizer);
    let mut settings = settings(experiment, batch_rows)?;
    settings.tables = tables;
    Ok(Trainer::new(
        context, mesh, graph, schema, optimizer, settings,
    )?)
}

/// What a device has to train as the CPU does before it trains a run's model.
pub(super) fn self_check(
    experiment: &Experiment,
    graph: &Graph,
    schema: &FeatureSchema,
    batch_rows: usize,
) -> Result<SelfCheck, RunError> {
    let settings = settings(experiment, batch_rows)?;
    let optimizer = &experiment.optimizer;
    Ok(SelfCheck::new(graph, schema, optimizer, &settings))
}

/// Of ranks that share nothing yet.
fn settings(experiment: &Experiment, batch_rows: usize) -> Result<TrainerSettings, RunError> {
    let labels = experiment.data.labels.len();
    let mut label_weights = experiment.train.label_weights.clone();
    if label_weights.is_empty() {
        label_weights = vec![1.0; labels];
    }
    if label_weights.len() != labels {
        return Err(RunError::Usage(format!(
            "`train.label_weights`: expected one for each of the {labels} labels, got {}",
            label_weights.len()
        )));
    }
    if experiment.parallel.reduction == Reduction::Invariant && experiment.train.accumulate > 1 {
        return Err(RunError::Usage(format!(
            "`train.accumulate` = {}: with `parallel.reduction` = \"invariant\" a batch is worked through \
             in micro-shards anyway; leave it out",
            experiment.train.accumulate
        )));
    }
    Ok(TrainerSettings {
        seed: experiment.seed,
        batch_rows,
        global_batch: experiment.train.global_batch,
        accumulate: experiment.train.accumulate,
        reduction: experiment.parallel.reduction,
        precision: experiment.train.precision,
        table_precision: experiment.train.table_precision,
        loss_scale: experiment.train.loss_scale.unwrap_or_default(),
        label_weights,
        partitions: BTreeMap::new(),
        tables: None,
        buckets: BucketSettings {
            first_bucket_bytes: experiment.parallel.first_bucket_bytes,
            bucket_bytes: experiment.parallel.bucket_bytes,
        },
    })
}

/// How a tensor-parallel group shares the layers.
fn partitions(rank: &Rank, experiment: &Experiment, graph: &Graph) -> BTreeMap<String, Partition> {
    let ranks = rank.mesh.tp.size();
    if ranks == 1 {
        return BTreeMap::new();
    }
    let plan = TensorPlan::new(graph, &experiment.parallel.layers);
    if rank.is_first() {
        tracing::info!("{ranks} ranks share each layer:\n{plan}");
    }
    plan.partitions()
}

/// Where the embedding tables lie.
fn tables(
    rank: &Rank,
    experiment: &Experiment,
    graph: &Graph,
    schema: &FeatureSchema,
) -> Result<TablePlan, RunError> {
    let shapes = graph.validate(schema).map_err(ModelError::from)?;
    let config = &experiment.parallel.embeddings;
    let (reduction, ranks) = (experiment.parallel.reduction, rank.mesh.world.size());
    let plan = TablePlan::new(graph, &shapes, config, reduction, ranks)?;
    if rank.is_first() && !plan.is_replicated() {
        tracing::info!("{} ranks share the embedding tables:\n{plan}", plan.ranks());
    }
    Ok(plan)
}

/// The checkpoint to use of a run: that of `step`, else the best, else the latest.
pub(super) fn chosen(folder: &CheckpointFolder, step: Option<u64>) -> Result<Checkpoint, RunError> {
    let best = folder.best()?.map(|best| best.step);
    let complete = folder.complete()?;
    if let Some(gone) = best.filter(|step| complete.binary_search(step).is_err()) {
        tracing::warn!(
            step = gone,
            "the best checkpoint is gone; the newest takes its place"
        );
    }
    let best = best.filter(|step| complete.binary_search(step).is_ok());
    let step = match step.or(best) {
        Some(step) => step,
        None => folder
            .latest()?
            .ok_or_else(|| crate::checkpoint::CheckpointError::Missing {
                folder: folder.root().to_owned(),
            })?,
    };
    Ok(Checkpoint::open(folder, step)?)
}

/// Restores weights and optimiser state.
pub(super) fn restore(trainer: &mut dyn Trainee, checkpoint: &Checkpoint) -> Result<(), RunError> {
    for slice in trainer.named_slices_mut()? {
        checkpoint.read(&slice.name, &slice.extent, slice.values)?;
    }
    Ok(())
}

/// Restores the weights alone, to predict.
pub(super) fn restore_weights(
    parameters: &mut ParameterStore,
    checkpoint: &Checkpoint,
) -> Result<(), RunError> {
    for slice in parameters.named_slices_mut() {
        checkpoint.read(&slice.name, &slice.extent, slice.values)?;
    }
    Ok(())
}

/// Takes the weights of an earlier artifact. Tables may have grown: rows that exist keep their
/// values, new rows keep their first ones. Returns how many rows are new.
pub(super) fn warm_start(
    parameters: &mut ParameterStore,
    artifact: &Artifact,
) -> Result<usize, RunError> {
    let mut new_rows = 0;
    for NamedSliceMut {
        name,
        extent,
        mut values,
    } in parameters.named_slices_mut()
    {
        let earlier = fitting(&artifact.weights, &name, &extent.shape)?;
        let width = extent.width();
        let earlier_rows = earlier.len().checked_div(width).unwrap_or(0);
        new_rows += extent.shape.first().map_or(0, |rows| rows - earlier_rows);
        for (index, row) in extent.rows.clone().enumerate() {
            if row < earlier_rows {
                let from = &earlier[row * width..(row + 1) * width];
                let mut into = values.reborrow().rows(index..index + 1);
                into.set_f32(&from[extent.columns.clone()]);
            }
        }
    }
    Ok(new_rows)
}

/// The earlier values of a parameter, if it is the same but for rows that were added to a table.
fn fitting<'a>(weights: &'a Weights, name: &str, shape: &[usize]) -> Result<&'a [f32], RunError> {
    let refuse = |problem: String| {
        RunError::Usage(format!(
            "--warm-start: parameter `{name}` {problem}; the model must be the one of the \
             artifact: only vocabularies may grow"
        ))
    };
    let earlier = weights
        .get(name)
        .ok_or_else(|| refuse("is not in the artifact".into()))?;
    let grown = name.starts_with("embedding.")
        && earlier.shape.get(1..) == shape.get(1..)
        && earlier.shape.first() <= shape.first();
    if grown || earlier.shape == shape {
        Ok(&earlier.values)
    } else {
        Err(refuse(format!(
            "has shape {:?} there, {shape:?} here",
            earlier.shape
        )))
    }
}
