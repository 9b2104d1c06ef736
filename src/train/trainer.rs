//! One rank's training step and its predictions.

mod ahead;
mod update;

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use streamrec_artifact::{FeatureSchema, Graph};
use tracing::trace_span;

use streamrec_kernels::Context;

use self::ahead::Ahead;
use super::{Predict, TrainError};
use crate::comm::{CommBuffer, CommError, Event, ReduceOp};
use crate::config::{LossScaleConfig, OptimizerConfig, Partition, Precision, Reduction};
use crate::data::Batch;
use crate::model::{
    BatchInput, BucketSettings, GradientSink, KeepGradients, Loss, MicroBatch, ModelError,
    NamedSlice, NamedSliceMut, Network, ParameterBuilder, ParameterStore, TensorParallel,
};
use crate::optim::{LossScaler, LossScalerState, Optimizer};
use crate::parallel::{
    EmbeddingExchange, GradientBuckets, GradientTree, Mesh, MicroShards, PendingGradients,
    SparseSync, TablePlan,
};

/// Pieces whose gradients are on their way to their owners while the next one is computed.
const PIECES_BEHIND: usize = 2;

/// What decides how a [`Trainer`] trains.
#[derive(Debug, Clone)]
pub struct TrainerSettings {
    /// Decides the first weights.
    pub seed: u64,
    /// The most rows of a rank's batch.
    pub batch_rows: usize,
    /// Rows of a global batch.
    pub global_batch: usize,
    /// Pieces in which a batch is worked through.
    pub accumulate: usize,
    /// How gradients are added up.
    pub reduction: Reduction,
    /// The type in which layers compute.
    pub precision: Precision,
    /// The type in which tables are stored.
    pub table_precision: Precision,
    /// How gradients are scaled in fp16.
    pub loss_scale: LossScaleConfig,
    /// Weight of each label's loss.
    pub label_weights: Vec<f32>,
    /// How a tensor-parallel group shares layers, by name.
    pub partitions: BTreeMap<String, Partition>,
    /// Where tables lie; replicated where none is given.
    pub tables: Option<TablePlan>,
    /// Sizes of the gradient buckets.
    pub buckets: BucketSettings,
}

/// A model in training, on one rank.
///
/// ```text
/// forward ▸ loss ──────► status in flight ──────────────────────────────► loss of all ranks, stop
///           backward ──► buckets in flight ─────────────────────────────► dense update
///           tables ────► (row, gradient) in flight ──► each touched row once
///           sharded ───► gradients to the owners ────► each touched row once ──► vectors of the next batch in flight
/// ```
///
/// Gradients of tables are final, and leave, before the layers below the embeddings go backward. What is updated first is
/// what others wait for: tables, whose vectors for the next batch travel while dense gradients are waited for (ADR 45).
pub struct Trainer {
    context: Context,
    mesh: Mesh,
    parameters: ParameterStore,
    network: Network,
    loss: Loss,
    buckets: GradientBuckets,
    tables: SparseSync,
    /// Of sharded tables, where there are any.
    exchange: Option<EmbeddingExchange>,
    ahead: Ahead,
    /// Of pieces of the batch in work, the oldest first.
    behind: VecDeque<PendingGradients>,
    optimizer: Optimizer,
    /// With fp16.
    scaler: Option<LossScaler>,
    micro_batch: MicroBatch,
    /// The rows of the batch that the last forward pass was of.
    predicted: Range<usize>,
    pieces: MicroShards,
    /// Where the reduction is invariant.
    tree: GradientTree,
    /// `[loss, ranks that were asked to stop]`, of the world; away while it is reduced.
    status: Option<CommBuffer>,
    features: [usize; 2],
    heads: usize,
}

/// What a step found, the same on every rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepOutcome {
    /// The loss of the global batch, before the update.
    pub loss: f64,
    /// Whether any rank was asked to stop.
    pub stop: bool,
    /// The norm of the dense gradients before clipping, without the loss scale.
    pub gradient_norm: f64,
    /// Whether a gradient of some rank was not finite in fp16, so that nothing was updated.
    pub skipped: bool,
    /// How long this rank waited for others: for vectors of sharded tables, then for gradients.
    /// Exchanges inside shared layers do not count.
    pub waited: Duration,
}

impl Trainer {
    /// A fresh model. Collective.
    ///
    /// # Errors
    /// When the graph is not valid, a layer cannot be shared as planned, or an optimiser's group
    /// matches no parameter.
    pub fn new(
        context: Context,
        mesh: Mesh,
        graph: &Graph,
        schema: &FeatureSchema,
        optimizer: &OptimizerConfig,
        settings: TrainerSettings,
    ) -> Result<Self, TrainError> {
        let shapes = graph.validate(schema).map_err(ModelError::from)?;
        let TrainerSettings {
            reduction,
            global_batch,
            accumulate,
            ..
        } = settings;
        let pieces = MicroShards::new(reduction, mesh.dp.as_ref(), global_batch, accumulate)?;
        let tp = Arc::clone(&mesh.tp);
        let shared = TensorParallel::new(tp, graph, settings.partitions)?;
        let plan = match &settings.tables {
            Some(plan) => plan.clone(),
            None => TablePlan::replicated(graph, &shapes),
        };
        let parameters = ParameterBuilder::new(settings.seed)
            .precision(settings.precision)
            .table_precision(settings.table_precision)
            .graph(graph, &shapes, &shared)
            .shard_tables(plan.extents(mesh.world.rank()))
            .build(&context, mesh.dp.as_ref(), settings.buckets)?;
        let rows = settings.batch_rows;
        let network = Network::new(&context, graph, schema, &parameters, &shared, rows)?;
        let scaler = match settings.precision {
            Precision::Fp16 => Some(LossScaler::new(settings.loss_scale)),
            Precision::Fp32 | Precision::Bf16 => None,
        };
        let exchange = match plan.is_replicated() {
            true => None,
            false => Some(
                EmbeddingExchange::new(&mesh, &plan, &parameters, &network, reduction, rows)?
                    .with_sums_first(scaler.is_some()),
            ),
        };
        let optimizer = Optimizer::new(&context, optimizer, &parameters, &mesh, reduction)?;
        Ok(Self {
            loss: Loss::new(&context, settings.batch_rows, settings.label_weights),
            buckets: GradientBuckets::new(Arc::clone(&mesh.dp), parameters.layout(), reduction),
            tables: SparseSync::new(Arc::clone(&mesh.dp), &parameters, reduction, |table| {
                optimizer.is_frozen(table)
            })
            .with_sums_first(scaler.is_some()),
            optimizer,
            scaler,
            exchange,
            ahead: Ahead::default(),
            behind: VecDeque::new(),
            micro_batch: MicroBatch::default(),
            predicted: 0..0,
            pieces,
            tree: GradientTree::default(),
            status: Some(mesh.world.allocate(2)?),
            features: [schema.dense.len(), schema.categorical.len()],
            heads: network.heads(),
            context,
            mesh,
            parameters,
            network,
        })
    }

    /// Where it computes.
    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// The ranks that train together.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// The weights.
    pub fn parameters(&self) -> &ParameterStore {
        &self.parameters
    }

    /// The weights, to load into before the first step: later, vectors of the next batch may be on their way.
    pub fn parameters_mut(&mut self) -> &mut ParameterStore {
        &mut self.parameters
    }

    /// The factor on learning rates in `step`.
    pub fn learning_rate_factor(&self, step: u64) -> f64 {
        self.optimizer.schedule().factor(step)
    }

    /// Where the scaling of gradients stands, with fp16.
    pub fn loss_scaler(&self) -> Option<LossScalerState> {
        self.scaler.map(|scaler| scaler.state())
    }

    /// Goes on with the scaling of gradients from a checkpoint.
    pub fn restore_loss_scaler(&mut self, state: LossScalerState) {
        if let Some(scaler) = &mut self.scaler {
            scaler.restore(state);
            self.optimizer.set_skipped_steps(state.skipped_steps);
        }
    }

    /// Weights and optimiser state, for checkpoints.
    pub fn named_slices(&self) -> impl Iterator<Item = NamedSlice<'_>> {
        self.parameters
            .named_slices()
            .chain(self.optimizer.named_slices())
    }

    /// Weights and optimiser state, to restore a checkpoint into.
    pub fn named_slices_mut(&mut self) -> impl Iterator<Item = NamedSliceMut<'_>> {
        self.parameters
            .named_slices_mut()
            .chain(self.optimizer.named_slices_mut())
    }

    /// Trains on this rank's part of a global batch. `next` is the batch after it, if there is one, so
    /// that its ids can travel meanwhile; `step` counts from 1; `stop` tells that this rank was asked to
    /// stop. Collective.
    ///
    /// # Errors
    /// When the batch does not fit the model, ranks cannot communicate, or the loss or a gradient is
    /// not finite.
    pub fn step(
        &mut self,
        batch: &Batch,
        next: Option<&Batch>,
        step: u64,
        stop: bool,
    ) -> Result<StepOutcome, TrainError> {
        self.parameters.refresh(&self.context)?;
        if let Some(scaler) = &self.scaler {
            self.loss.set_gradient_scale(scaler.scale());
        }
        let (mut local_loss, mut waited) = (0.0, Duration::ZERO);
        let mut status = None;
        self.send_ids(batch)?;
        let mut cut = mem::take(&mut self.micro_batch);
        for piece in 0..self.pieces.count() {
            let last = piece + 1 == self.pieces.count();
            let rows = self.pieces.rows(piece, batch.rows, batch.filled);
            let input = piece_of(batch, self.features, rows.clone(), &mut cut);
            let after = next.map(|next| (next, piece));
            let (loss, waited_for_vectors) = self.forward(batch, &input, rows, after)?;
            local_loss += loss;
            waited += waited_for_vectors;
            if last {
                status = self.send_status(local_loss, stop);
            }
            waited += self.backward(&input, piece)?;
        }
        self.micro_batch = cut;
        // The status went first, so it is there before any gradient.
        let (loss, stop) = match status {
            Some(event) => {
                let buffer = event.wait()?;
                let outcome = (f64::from(buffer[0]), buffer[1] > 0.0);
                self.status = Some(buffer);
                outcome
            }
            None => (local_loss, stop),
        };
        if !loss.is_finite() && self.scaler.is_none() {
            return Err(TrainError::NotFinite { step, loss });
        }
        let (updated, waited_for_gradients) = match self.scaler {
            None => self.update(step).map(|(norm, waited)| (Some(norm), waited)),
            Some(scaler) => self.update_if_finite(scaler, loss, step),
        }?;
        Ok(StepOutcome {
            loss,
            stop,
            gradient_norm: updated.unwrap_or(f64::NAN),
            skipped: updated.is_none(),
            waited: waited + waited_for_gradients,
        })
    }

    /// Sends the ids of a batch that is to be computed, unless they were sent during the batch before.
    fn send_ids(&mut self, batch: &Batch) -> Result<(), TrainError> {
        let Some(exchange) = &self.exchange else {
            return Ok(());
        };
        if !self.ahead.has_batch() {
            self.ahead.begin_next();
        }
        if !self.ahead.has_batch() {
            let mut cut = MicroBatch::default();
            for piece in 0..self.pieces.count() {
                let rows = self.pieces.rows(piece, batch.rows, batch.filled);
                let piece = piece_of(batch, self.features, rows, &mut cut);
                self.ahead.send_ids(exchange, &piece)?;
            }
            self.ahead.begin_next();
        }
        Ok(())
    }

    /// The loss of `input`, which is `rows` of a batch, and how long it waited for vectors of sharded
    /// tables; ids of a piece of the batch `after` it travel from then on.
    fn forward(
        &mut self,
        batch: &Batch,
        input: &BatchInput<'_>,
        rows: Range<usize>,
        after: Option<(&Batch, usize)>,
    ) -> Result<(f64, Duration), TrainError> {
        let (context, parameters) = (&self.context, &self.parameters);
        let mut waited = Duration::ZERO;
        let logits = match &mut self.exchange {
            None => self.network.forward(context, parameters, input)?,
            Some(exchange) => {
                self.ahead.send_vectors(exchange, context, parameters)?;
                let vectors = self.ahead.take().ok_or(CommError::Abandoned)?;
                self.ahead.send_vectors(exchange, context, parameters)?;
                if let Some((batch, piece)) = after {
                    let mut cut = MicroBatch::default();
                    let rows = self.pieces.rows(piece, batch.rows, batch.filled);
                    let after = piece_of(batch, self.features, rows, &mut cut);
                    self.ahead.send_ids(exchange, &after)?;
                }
                self.network.begin_forward(context, parameters, input)?;
                let vectors = exchange.receive(context, vectors)?;
                waited = vectors.1;
                let input = input.with_remote(vectors.0);
                self.network.finish_forward(context, parameters, &input)?
            }
        };
        let _span = trace_span!("loss").entered();
        let loss = self.loss.compute(
            &self.context,
            logits,
            &batch.labels[rows.start * self.heads..rows.end * self.heads],
            &batch.weights[rows.clone()],
            batch.weight_sum,
        )?;
        self.predicted = rows;
        Ok((loss, waited))
    }

    /// Sends this rank's loss, and whether it was asked to stop, to all ranks.
    fn send_status(&mut self, loss: f64, stop: bool) -> Option<Event<CommBuffer>> {
        self.status.take().map(|mut buffer| {
            // The ranks of a tensor-parallel group have the same loss: one speaks for all.
            buffer[0] = if self.mesh.tp.rank() == 0 {
                loss as f32
            } else {
                0.0
            };
            buffer[1] = f32::from(u8::from(stop));
            self.mesh.world.all_reduce(buffer, ReduceOp::Sum)
        })
    }

    /// The gradients of `input`, whose forward pass was last. Returns how long it waited for others'.
    fn backward(&mut self, input: &BatchInput<'_>, piece: usize) -> Result<Duration, TrainError> {
        let last = piece + 1 == self.pieces.count();
        let invariant = self.pieces.reduction() == Reduction::Invariant;
        let mut keep = KeepGradients;
        let sink: &mut dyn GradientSink = match last && !invariant {
            true => &mut self.buckets,
            false => &mut keep,
        };
        let (context, parameters) = (&self.context, &mut self.parameters);
        let (network, accumulate) = (&mut self.network, piece > 0 && !invariant);
        let d_logits = self.loss.d_logits();
        network.begin_backward(context, parameters, input, d_logits, accumulate, sink)?;
        // Gradients of tables travel while the layers before the embeddings go backward.
        trace_span!("sum table gradients")
            .in_scope(|| self.tables.collect(context, parameters, network, last))?;
        if last {
            self.tables.start();
        }
        if let Some(exchange) = &mut self.exchange {
            let gradients = exchange.send_gradients(context, network)?;
            self.behind.push_back(gradients);
        }
        network.finish_backward(context, parameters, input, accumulate, sink)?;
        if invariant {
            let gradients = self.parameters.gradients_mut();
            self.tree.add(piece, last, gradients)?;
            if last {
                self.buckets.start(gradients)?;
            }
        }
        let Some(exchange) = &mut self.exchange else {
            return Ok(Duration::ZERO);
        };
        let mut waited = Duration::ZERO;
        while self.behind.len() > PIECES_BEHIND || last {
            let Some(gradients) = self.behind.pop_front() else {
                break;
            };
            let last = last && self.behind.is_empty();
            waited += exchange.collect(context, gradients, last)?;
        }
        Ok(waited)
    }

    /// The probabilities that the last step's forward pass gave, `[rows, heads]`, and the rows of its
    /// batch that they are of: those of its last piece where a batch is worked through in several.
    pub fn last_probabilities(&self) -> (Range<usize>, &[f32]) {
        (self.predicted.clone(), self.loss.probabilities())
    }
}

impl Predict for Trainer {
    fn heads(&self) -> usize {
        self.heads
    }

    fn predict(&mut self, batch: &Batch, probabilities: &mut Vec<f32>) -> Result<(), TrainError> {
        probabilities.resize(batch.rows * self.heads, 0.0);
        self.parameters.refresh(&self.context)?;
        let input = BatchInput::of(&batch.encoded, self.features);
        let (context, parameters) = (&self.context, &self.parameters);
        let input = match &mut self.exchange {
            Some(exchange) => {
                let ids = exchange.send_ids(&input)?;
                let (vectors, _) = exchange.fetch(context, parameters, ids)?;
                input.with_remote(vectors)
            }
            None => input,
        };
        Ok(self
            .network
            .scores(context, parameters, &input, probabilities)?)
    }
}

/// Some rows of a batch.
fn piece_of<'a>(
    batch: &'a Batch,
    features: [usize; 2],
    rows: Range<usize>,
    cut: &'a mut MicroBatch,
) -> BatchInput<'a> {
    let whole = BatchInput::of(&batch.encoded, features);
    if rows == (0..batch.rows) {
        whole
    } else {
        cut.cut(&whole, rows)
    }
}
