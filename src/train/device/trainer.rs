use std::ops::Range;
use std::time::{Duration, Instant};

use streamrec_artifact::{FeatureSchema, Graph};
use streamrec_kernels::Context;
use streamrec_kernels::cuda::{DeviceError, Executor, step::StepInput};

use super::roll_call::{Report, RollCall};
use super::slots::{Slots, host_input};
use super::step::{DeviceLoss, DeviceStep};
use crate::comm::Settings;
use crate::config::{LossScaleConfig, OptimizerConfig, Precision, Reduction};
use crate::data::Batch;
use crate::model::device::{
    DeviceNetwork, DeviceSource, DeviceWeights, InputLayout, InputSlot, TableRounds,
    download_floats,
};
use crate::model::{
    ModelError, NamedSlice, NamedSliceMut, ParameterBuilder, ParameterStore, TensorParallel,
};
use crate::optim::device::DeviceOptimizer;
use crate::optim::{LossScaler, LossScalerState, OptimError, Optimizer};
use crate::parallel::{DeviceBuckets, Mesh};
use crate::train::{Predict, StepOutcome, TrainError, Trainee, TrainerSettings};

/// Which side has the weights and the state of the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Newer {
    Host,
    Device,
    Same,
}

/// How long a device may work on a step before its rank looks after the others.
const PATIENCE: Duration = Duration::from_millis(20);

/// A model in training on a device, the only one or one of several ranks that share batches. It starts from the weights that a
/// [`Trainer`](crate::train::Trainer) of the same settings starts from, follows the same rules, and gives weights and
/// state back under the same names, so that checkpoints and artifacts tell nothing of the device.
pub struct DeviceTrainer<E: Executor> {
    parameters: ParameterStore,
    optimizer: Optimizer,
    newer: Newer,
    step: DeviceStep,
    slots: Slots<E>,
    /// To predict.
    layout: InputLayout,
    predicting: Option<(usize, InputSlot<E::Feed>)>,
    loss_scale: LossScaleConfig,
    scaler: Option<LossScalerState>,
    seed: u64,
    probabilities: Vec<f32>,
    rows: usize,
    ranks: RollCall,
    /// How long devices may wait for one another.
    timeout: Duration,
    // Fields are dropped in their order: what works on memory before what holds it.
    executor: E,
}

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
        check(settings, mesh, executor.rank())?;
        let (batch, shapes) = (settings.batch_rows, graph.validate(schema));
        let shapes = shapes.map_err(ModelError::from)?;
        let parameters = ParameterBuilder::new(settings.seed)
            .precision(settings.precision)
            .graph(graph, &shapes, &TensorParallel::none())
            .build(context, mesh.dp.as_ref(), settings.buckets)?;
        let optimizer = Optimizer::new(context, optimizer, &parameters, mesh, Reduction::Fast)?;
        let scaler = scaler(settings);
        let weights = DeviceWeights::new(&mut executor, &parameters)?;
        let of = DeviceSource {
            context,
            graph,
            schema,
            parameters: &parameters,
            batch,
        };
        let network = DeviceNetwork::new(&mut executor, &of, &weights)?;
        let is_frozen = |table| optimizer.is_frozen(table);
        let rounds = TableRounds::new(&mut executor, &of, &weights, is_frozen)?;
        let device_optimizer = DeviceOptimizer::new(
            &mut executor,
            &optimizer,
            &parameters,
            &weights,
            &rounds,
            scaler.is_some(),
        )?;
        let loss = DeviceLoss::new(&mut executor, batch, &settings.label_weights)?;
        let layout = InputLayout {
            rows: batch,
            dense: schema.dense.len(),
            id_limits: network.id_limits(&of)?,
            labels: network.heads(),
            ids: 0,
        };
        let buckets = DeviceBuckets::new(parameters.layout(), weights.gradients());
        // What ranks tell one another is not mixed with what else they exchange.
        let ranks = mesh.world.split(0, mesh.world.rank())?;
        Ok(Self {
            newer: Newer::Host,
            step: DeviceStep {
                network,
                weights,
                rounds,
                optimizer: device_optimizer,
                buckets,
                loss,
            },
            slots: Slots::new(layout.clone()),
            layout,
            predicting: None,
            loss_scale: settings.loss_scale,
            scaler,
            seed: settings.seed,
            probabilities: Vec::new(),
            rows: 0,
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

    /// Brings what the host has newer to the device.
    fn refresh_device(&mut self) -> Result<(), TrainError> {
        if self.newer == Newer::Host {
            let (executor, step) = (&mut self.executor, &self.step);
            step.weights.upload(executor, &self.parameters)?;
            let scaling = self.scaler.map(|state| (self.loss_scale, state));
            step.optimizer.upload(executor, &self.optimizer, scaling)?;
            self.newer = Newer::Same;
        }
        Ok(())
    }

    /// Brings what the device has newer to the host.
    fn refresh_host(&mut self) -> Result<(), TrainError> {
        if self.newer == Newer::Device {
            let (executor, step) = (&mut self.executor, &self.step);
            step.weights.download(executor, &mut self.parameters)?;
            step.optimizer.download(executor, &mut self.optimizer)?;
            self.newer = Newer::Same;
        }
        Ok(())
    }

    fn step_input(&self, number: u64) -> StepInput {
        let [dense, sparse] = self.optimizer.learning_rates(number);
        StepInput {
            learning_rate: dense as f32,
            sparse_learning_rate: sparse as f32,
            number,
            seed: self.seed,
        }
    }

    fn take_step(
        &mut self,
        batch: &Batch,
        next: Option<&Batch>,
        step: u64,
        stop: bool,
    ) -> Result<StepOutcome, TrainError> {
        self.refresh_device()?;
        let own = (batch, self.step_input(step));
        let next = next.map(|next| (next, self.step_input(step + 1)));
        for (batch, input) in [Some(own), next].into_iter().flatten() {
            self.slots.check(batch, input)?;
        }
        let ids = |batch: &Batch| batch.encoded.ids.len();
        let most = ids(batch).max(next.map_or(0, |(next, _)| ids(next)));
        let of_ranks = self.ranks.arrive(Report {
            step,
            ids: most as u64,
            stop: u32::from(stop),
            ahead: u32::from(next.is_some()),
        })?;
        self.reserve(ids(batch), of_ranks)?;
        let executor = &mut self.executor;
        let input = self
            .slots
            .take(executor, own, next)
            .map_err(ModelError::from)?;
        self.newer = Newer::Device;
        self.rows = batch.rows;
        self.slots.run(executor, &self.step, &input)?;
        self.wait(step)?;
        self.ranks.leave();
        let stop = self.ranks.stops()?;
        self.outcome(step, stop)
    }

    /// Makes room for the ids of a batch: the same room on all ranks.
    fn reserve(&mut self, own: usize, of_ranks: usize) -> Result<(), TrainError> {
        let ids = match self.ranks.ranks() {
            1 => own.max(of_ranks),
            _ if own > of_ranks => {
                return Err(ModelError::Batch {
                    what: "the number of ids",
                    expected: format!("at most {of_ranks}, as the ranks told a step before"),
                    got: own.to_string(),
                }
                .into());
            }
            _ => of_ranks,
        };
        let room = self.slots.reserve(&mut self.executor, ids);
        if let Some(room) = room.map_err(ModelError::from)? {
            let optimizer = &mut self.step.optimizer;
            optimizer
                .reserve(&mut self.executor, room)
                .map_err(ModelError::from)?;
        }
        Ok(())
    }

    /// Waits for the device, and looks after the other ranks meanwhile: it would wait for one that is gone for ever.
    fn wait(&mut self, step: u64) -> Result<(), TrainError> {
        if self.ranks.ranks() == 1 {
            return Ok(());
        }
        let began = Instant::now();
        while !self.executor.is_done().map_err(ModelError::from)? {
            let waited = began.elapsed();
            if waited < PATIENCE {
                std::thread::yield_now();
                continue;
            }
            self.ranks.leave();
            self.ranks.look()?;
            if waited > self.timeout {
                let what = self.executor.last_begun();
                self.executor.abandon();
                return Err(TrainError::Stuck {
                    what: what.unwrap_or("the work"),
                    step,
                    steps: self.ranks.steps().to_vec(),
                    waited_s: waited.as_secs_f64(),
                });
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    /// Says which ranks are missing, where a failure is that of a collective; and lets nothing wait any more.
    fn explain(&mut self, error: TrainError, step: u64) -> TrainError {
        if self.ranks.ranks() == 1 || !is_of_collectives(&error) {
            return error;
        }
        let what = self.executor.last_begun();
        self.executor.abandon();
        let missing = match error {
            TrainError::Comm(source) => source,
            error => match self.ranks.missing() {
                Some(source) => source,
                None => return error,
            },
        };
        TrainError::Collective {
            what: what.unwrap_or("the first collective"),
            step,
            steps: self.ranks.steps().to_vec(),
            source: Box::new(missing),
        }
    }

    /// What became of the step that was asked for. Waits for it.
    fn outcome(&mut self, number: u64, stop: bool) -> Result<StepOutcome, TrainError> {
        let (executor, step) = (&mut self.executor, &self.step);
        let verdict = step.optimizer.verdict(executor).map_err(ModelError::from)?;
        let heads = step.network.heads();
        self.probabilities.resize(self.rows * heads, 0.0);
        let (from, to) = (step.loss.probabilities, &mut self.probabilities);
        download_floats(executor, from, to).map_err(ModelError::from)?;
        let loss = verdict.loss;
        if let Some(scaler) = &mut self.scaler {
            *scaler = verdict.scaler;
            if verdict.skipped && scaler.scale < 1.0 {
                return Err(TrainError::LossScale { step: number, loss });
            }
        } else if verdict.skipped || verdict.row_not_finite {
            return Err(match (loss.is_finite(), verdict.norm.is_finite()) {
                (false, _) => TrainError::NotFinite { step: number, loss },
                (true, false) => OptimError::NotFinite {
                    norm: verdict.norm,
                    step: number,
                }
                .into(),
                (true, true) => OptimError::RowNotFinite { step: number }.into(),
            });
        }
        Ok(StepOutcome {
            loss,
            stop,
            gradient_norm: if verdict.skipped {
                f64::NAN
            } else {
                verdict.norm
            },
            skipped: verdict.skipped,
            waited: Duration::ZERO,
        })
    }

    /// How many steps have been recorded.
    #[cfg(test)]
    pub(super) fn recorded(&self) -> usize {
        self.slots.recorded()
    }
}

/// Whether other ranks are behind a failure.
fn is_of_collectives(error: &TrainError) -> bool {
    if matches!(error, TrainError::Comm(_)) {
        return true;
    }
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if matches!(error.downcast_ref(), Some(DeviceError::Collective { .. })) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Where the scaling of the loss begins, with fp16.
fn scaler(settings: &TrainerSettings) -> Option<LossScalerState> {
    let scaled = settings.precision == Precision::Fp16;
    scaled.then(|| LossScaler::new(settings.loss_scale).state())
}

/// Refuses what no device does yet.
fn check(settings: &TrainerSettings, mesh: &Mesh, device: [usize; 2]) -> Result<(), TrainError> {
    let world = [mesh.world.rank(), mesh.world.size()];
    let problem = match settings {
        TrainerSettings { accumulate, .. } if *accumulate > 1 => {
            format!("`train.accumulate` = {accumulate}, expected 1")
        }
        TrainerSettings {
            reduction: Reduction::Invariant,
            ..
        } => "`parallel.reduction` = \"invariant\", expected \"fast\"".to_owned(),
        TrainerSettings {
            tables: Some(plan), ..
        } if !plan.is_replicated() => {
            "`parallel.embeddings` shards tables, expected \"replicated\"".to_owned()
        }
        _ if mesh.tp.size() > 1 => {
            format!("`parallel.tp` = {}, expected 1", mesh.tp.size())
        }
        _ if device != world => format!(
            "this is rank {} of {}, its device number {} of {}",
            world[0], world[1], device[0], device[1]
        ),
        _ => return Ok(()),
    };
    Err(TrainError::Device { problem })
}

impl<E: Executor> Predict for DeviceTrainer<E> {
    fn heads(&self) -> usize {
        self.step.network.heads()
    }

    fn predict(&mut self, batch: &Batch, probabilities: &mut Vec<f32>) -> Result<(), TrainError> {
        self.refresh_device()?;
        let input = crate::model::device::HostInput {
            labels: &[],
            weights: &[],
            ..host_input(batch, self.step_input(1))
        };
        self.layout.check(&input)?;
        let (executor, ids) = (&mut self.executor, input.ids.len());
        if self.predicting.as_ref().is_none_or(|(room, _)| *room < ids) {
            let layout = InputLayout {
                ids: ids + ids / 4,
                ..self.layout.clone()
            };
            let slot = InputSlot::new(executor, &layout).map_err(ModelError::from)?;
            self.predicting = Some((layout.ids, slot));
        }
        let Some((_, slot)) = &mut self.predicting else {
            return Ok(());
        };
        slot.send(executor, &input).map_err(ModelError::from)?;
        slot.receive(executor).map_err(ModelError::from)?;
        let step = &self.step;
        let logits = step
            .network
            .forward(executor, &step.weights, &slot.input(batch.rows))?;
        probabilities.resize(batch.rows * step.network.heads(), 0.0);
        Ok(step
            .network
            .download_scores(executor, &logits, probabilities)?)
    }
}

impl<E: Executor> Trainee for DeviceTrainer<E> {
    fn parameters(&self) -> &ParameterStore {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> Result<&mut ParameterStore, TrainError> {
        self.refresh_host()?;
        self.newer = Newer::Host;
        Ok(&mut self.parameters)
    }

    fn learning_rate_factor(&self, step: u64) -> f64 {
        self.optimizer.schedule().factor(step)
    }

    fn loss_scaler(&self) -> Option<LossScalerState> {
        self.scaler
    }

    fn restore_loss_scaler(&mut self, state: LossScalerState) {
        if self.scaler.is_some() && self.newer != Newer::Device {
            (self.scaler, self.newer) = (Some(state), Newer::Host);
        }
    }

    fn named_slices(&mut self) -> Result<Vec<NamedSlice<'_>>, TrainError> {
        self.refresh_host()?;
        let weights = self.parameters.named_slices();
        Ok(weights.chain(self.optimizer.named_slices()).collect())
    }

    fn named_slices_mut(&mut self) -> Result<Vec<NamedSliceMut<'_>>, TrainError> {
        self.refresh_host()?;
        self.newer = Newer::Host;
        let weights = self.parameters.named_slices_mut();
        Ok(weights.chain(self.optimizer.named_slices_mut()).collect())
    }

    fn step(
        &mut self,
        batch: &Batch,
        next: Option<&Batch>,
        step: u64,
        stop: bool,
    ) -> Result<StepOutcome, TrainError> {
        self.take_step(batch, next, step, stop)
            .map_err(|error| self.explain(error, step))
    }

    fn last_probabilities(&self) -> (Range<usize>, &[f32]) {
        (0..self.rows, &self.probabilities)
    }
}
