use std::sync::Arc;
use std::time::Duration;

use streamrec_artifact::{FeatureSchema, Graph};
use streamrec_kernels::Context;
use streamrec_kernels::cuda::{Executor, Group};

use super::outcomes::Outcomes;
use super::owned_lookups::OwnedLookups;
use super::predictions::Predictions;
use super::roll_call::RollCall;
use super::slots::{Cut, Slots};
use super::step::{DeviceLoss, DeviceStep};
use super::trainer::{DeviceTrainer, Newer};
use crate::comm::Settings;
use crate::config::{OptimizerConfig, Precision, Reduction};
use crate::model::device::{
    DeviceNetwork, DeviceSource, DeviceWeights, InputLayout, RowShards, ShardPart, Shards,
    TableRounds,
};
use crate::model::{ModelError, ParameterBuilder, ParameterStore, RemoteLookup, TensorParallel};
use crate::optim::device::DeviceOptimizer;
use crate::optim::{LossScaler, LossScalerState, Optimizer};
use crate::parallel::{DeviceBuckets, DeviceLookups, MICRO_SHARDS, Mesh, MicroShards, TablePlan};
use crate::train::{TrainError, TrainerSettings};

impl<E: Executor> DeviceTrainer<E> {
    /// A fresh model, on the device of one rank of a mesh. Collective.
    ///
    /// # Errors
    /// When the settings ask for what a device does not do yet, the graph is not valid, an optimiser's group matches no
    /// parameter, or the device fails.
    pub fn new(
        mut executor: E,
        context: &Context,
        mesh: &Mesh,
        graph: &Graph,
        schema: &FeatureSchema,
        optimizer: &OptimizerConfig,
        settings: &TrainerSettings,
    ) -> Result<Self, TrainError> {
        check(settings, mesh, &executor)?;
        let batch = settings.batch_rows;
        let (reduction, dp) = (settings.reduction, mesh.dp.as_ref());
        let pieces = MicroShards::new(reduction, dp, settings.global_batch, settings.accumulate)?;
        let (shared, plan, parameters) = parameters(context, mesh, (graph, schema), settings)?;
        let optimizer = Optimizer::new(context, optimizer, &parameters, mesh, reduction)?;
        let of = DeviceSource {
            context,
            graph,
            schema,
            parameters: &parameters,
            shared: &shared,
            batch,
        };
        let lookups = lookups(&of, mesh, &plan)?;
        let shards = lookups.as_ref();
        let shards = shards.map(|lookups| (lookups.shards(), lookups.row_shards()));
        let shards = shards.map(|shards| invariant_shards(shards, reduction));
        let shards = shards.transpose()?;
        // What ranks tell one another is not mixed with what else they exchange. The last thing that they do together: a
        // device that has no room fails alone from here on.
        let ranks = mesh.world.split(0, mesh.world.rank())?;
        let how = (settings, &pieces);
        let step = step(&mut executor, &of, &optimizer, shards.as_ref(), how)?;
        let owned = lookups.zip(shards).map(|(lookups, (shards, rows))| {
            let limit = |part: &ShardPart| parameters.table(part.lookup.table).rows();
            let limits = [&shards, &rows.shards].map(|of| of.own().iter().map(limit).collect());
            let batches = (batch, pieces.clone());
            OwnedLookups::new(context, lookups, (limits, rows), batches, mesh)
        });
        let features = [schema.dense.len(), schema.categorical.len()];
        let layout = InputLayout {
            rows: batch,
            dense: features[0],
            id_limits: step.network.id_limits(&of)?,
            labels: step.network.heads(),
            ids: 0,
        };
        let cut = Cut {
            pieces,
            features,
            labels: layout.labels,
        };
        let (outcomes, predictions) = replies(&mut executor, context, &step, &layout)?;
        Ok(Self {
            newer: Newer::Host,
            step,
            slots: Slots::new(context, layout, cut),
            owned,
            features,
            predictions,
            loss_scale: settings.loss_scale,
            scaler: scaler(settings),
            seed: settings.seed,
            last_step: 0,
            outcomes,
            predicted: 0..0,
            ranks: RollCall::new(ranks),
            timeout: Settings::default().timeout,
            parameters,
            optimizer,
            executor,
        })
    }

    /// Waits for the devices of other ranks up to so long.
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }
}

/// How ranks share layers and tables, and the parameters of which this one has its part. Collective.
fn parameters(
    context: &Context,
    mesh: &Mesh,
    (graph, schema): (&Graph, &FeatureSchema),
    settings: &TrainerSettings,
) -> Result<(TensorParallel, TablePlan, ParameterStore), ModelError> {
    let shapes = graph.validate(schema)?;
    let plan = match &settings.tables {
        Some(plan) => plan.clone(),
        None => TablePlan::replicated(graph, &shapes),
    };
    let shared = match mesh.tp.size() {
        1 => TensorParallel::none(),
        _ => TensorParallel::new(Arc::clone(&mesh.tp), graph, settings.partitions.clone())?,
    };
    let parameters = ParameterBuilder::new(settings.seed)
        .precision(settings.precision)
        .table_precision(settings.table_precision)
        .graph(graph, &shapes, &shared)
        .shard_tables(plan.extents(mesh.world.rank()))
        .build(context, mesh.dp.as_ref(), settings.buckets)?;
    Ok((shared, plan, parameters))
}

/// Where what became of steps comes to, and logits of predictions.
fn replies<E: Executor>(
    executor: &mut E,
    context: &Context,
    step: &DeviceStep,
    layout: &InputLayout,
) -> Result<(Outcomes<E>, Predictions<E>), ModelError> {
    let probabilities = layout.rows * layout.labels * size_of::<f32>();
    let outcomes = Outcomes::new(executor, step.optimizer.told().1 + probabilities)?;
    let predictions = Predictions::new(executor, context, layout.clone())?;
    Ok((outcomes, predictions))
}

/// Where the scaling of the loss begins, with fp16.
fn scaler(settings: &TrainerSettings) -> Option<LossScalerState> {
    let scaled = settings.precision == Precision::Fp16;
    scaled.then(|| LossScaler::new(settings.loss_scale).state())
}

/// How ids of sharded tables come to their owners; nothing where none is sharded. Collective.
fn lookups(
    of: &DeviceSource<'_>,
    mesh: &Mesh,
    plan: &TablePlan,
) -> Result<Option<DeviceLookups>, ModelError> {
    if plan.is_replicated() {
        return Ok(None);
    }
    let remote = RemoteLookup::of_graph(of.graph, of.schema, of.parameters)?;
    DeviceLookups::new(mesh, plan, of.parameters, &remote).map(Some)
}

/// What ranks hold, where sums are not to depend on their number: each id travels once, and nothing is rounded on its way.
fn invariant_shards(
    (shards, mut rows): (Shards, RowShards),
    reduction: Reduction,
) -> Result<(Shards, RowShards), TrainError> {
    if reduction == Reduction::Invariant {
        if shards.owners.iter().any(|owner| !owner.is_empty()) {
            let problem = "owners pool vectors, and `parallel.reduction` is \"invariant\", expected `exchange` = \"unique\"";
            return Err(refused(problem.to_owned()));
        }
        rows.shards.unrounded = true;
    }
    Ok((shards, rows))
}

/// All that a step works with.
fn step<E: Executor>(
    executor: &mut E,
    of: &DeviceSource<'_>,
    optimizer: &Optimizer,
    shards: Option<&(Shards, RowShards)>,
    (settings, pieces): (&TrainerSettings, &MicroShards),
) -> Result<DeviceStep, TrainError> {
    let parameters = of.parameters;
    let weights = DeviceWeights::new(executor, parameters)?;
    let network = DeviceNetwork::new(executor, of, &weights, shards.cloned())?;
    let is_frozen = |table| optimizer.is_frozen(table);
    let rounds = TableRounds::new(executor, of, &weights, is_frozen)?;
    let mut owned = [None, None];
    if let Some((shards, rows)) = shards {
        let needs_whole_rows = |table| optimizer.needs_whole_rows(table);
        for (own, shards) in owned.iter_mut().zip([shards, &rows.shards]) {
            *own = TableRounds::owned(executor, of, shards, is_frozen, needs_whole_rows)?;
        }
    }
    let on_device = DeviceOptimizer::new(
        executor,
        optimizer,
        parameters,
        &weights,
        (&rounds, owned.each_ref().map(Option::as_ref)),
        (
            scaler(settings).is_some(),
            pieces.reduction(),
            pieces.count(),
        ),
    )?;
    let loss = DeviceLoss::new(executor, (of.batch, pieces), &settings.label_weights)?;
    let (layout, gradients) = (parameters.layout(), weights.gradients());
    let buckets = DeviceBuckets::new(executor, layout, gradients, pieces);
    let buckets = buckets.map_err(ModelError::from)?;
    Ok(DeviceStep {
        network,
        weights,
        rounds,
        owned,
        optimizer: on_device,
        buckets,
        loss,
    })
}

/// Refuses what no device does yet.
fn check<E: Executor>(
    settings: &TrainerSettings,
    mesh: &Mesh,
    device: &E,
) -> Result<(), TrainError> {
    if settings.reduction == Reduction::Invariant {
        let (tp, rows) = (mesh.tp.size(), settings.global_batch);
        if tp > 1 {
            let problem = format!(
                "`parallel.reduction` = \"invariant\" goes with `parallel.tp` = 1, got {tp}"
            );
            return Err(refused(problem));
        }
        if rows < MICRO_SHARDS {
            let problem = format!(
                "`parallel.reduction` = \"invariant\" cuts a batch into {MICRO_SHARDS} pieces, and `train.global_batch` is \
                 {rows}, expected at least {MICRO_SHARDS}"
            );
            return Err(refused(problem));
        }
    }
    for (group, comm, what) in [
        (Group::World, &mesh.world, "the job"),
        (Group::DataParallel, &mesh.dp, "its data-parallel group"),
        (Group::TensorParallel, &mesh.tp, "its tensor-parallel group"),
    ] {
        let (own, theirs) = ([comm.rank(), comm.size()], device.rank(group));
        if own != theirs {
            let problem = format!(
                "this is rank {} of the {} of {what}, its device number {} of {}",
                own[0], own[1], theirs[0], theirs[1]
            );
            return Err(refused(problem));
        }
    }
    Ok(())
}

fn refused(problem: String) -> TrainError {
    TrainError::Device { problem }
}
