use std::ops::Range;
use std::time::Duration;

use streamrec_artifact::{FeatureSchema, Graph};
use streamrec_kernels::Context;
use streamrec_kernels::cuda::{Executor, step::StepInput};

use super::slots::{Slots, host_input};
use super::step::{DeviceLoss, DeviceStep};
use crate::comm::SingleRank;
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
use crate::parallel::Mesh;
use crate::train::{Predict, StepOutcome, TrainError, Trainee, TrainerSettings};

/// Which side has the weights and the state of the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Newer {
    Host,
    Device,
    Same,
}

/// A model in training on a device, on one rank. It starts from the weights that a
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
    // Fields are dropped in their order: what works on memory before what holds it.
    executor: E,
}

impl<E: Executor> DeviceTrainer<E> {
    /// A fresh model.
    ///
    /// # Errors
    /// When the settings ask for what a device does not do yet, the graph is not valid, an optimiser's group matches no
    /// parameter, or the device fails.
    pub fn new(
        mut executor: E,
        context: &Context,
        graph: &Graph,
        schema: &FeatureSchema,
        optimizer: &OptimizerConfig,
        settings: &TrainerSettings,
    ) -> Result<Self, TrainError> {
        check(settings)?;
        let (shapes, batch) = (
            graph.validate(schema).map_err(ModelError::from)?,
            settings.batch_rows,
        );
        let parameters = ParameterBuilder::new(settings.seed)
            .precision(settings.precision)
            .graph(graph, &shapes, &TensorParallel::none())
            .build(context, &SingleRank, settings.buckets)?;
        let mesh = Mesh::single();
        let optimizer = Optimizer::new(context, optimizer, &parameters, &mesh, Reduction::Fast)?;
        let scaler = match settings.precision {
            Precision::Fp16 => Some(LossScaler::new(settings.loss_scale).state()),
            Precision::Fp32 | Precision::Bf16 => None,
        };
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
        Ok(Self {
            newer: Newer::Host,
            step: DeviceStep {
                network,
                weights,
                rounds,
                optimizer: device_optimizer,
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
            parameters,
            optimizer,
            executor,
        })
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

/// Refuses what no device does yet.
fn check(settings: &TrainerSettings) -> Result<(), TrainError> {
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
        self.refresh_device()?;
        let own = (batch, self.step_input(step));
        let next = next.map(|next| (next, self.step_input(step + 1)));
        for (batch, input) in [Some(own), next].into_iter().flatten() {
            self.slots.check(batch, input)?;
        }
        let ids = |batch: &Batch| batch.encoded.ids.len();
        let most = ids(batch).max(next.map_or(0, |(next, _)| ids(next)));
        let executor = &mut self.executor;
        let room = self
            .slots
            .reserve(executor, most)
            .map_err(ModelError::from)?;
        if let Some(room) = room {
            let optimizer = &mut self.step.optimizer;
            optimizer
                .reserve(executor, room)
                .map_err(ModelError::from)?;
        }
        let input = self
            .slots
            .take(executor, own, next)
            .map_err(ModelError::from)?;
        self.newer = Newer::Device;
        self.rows = batch.rows;
        self.slots.run(executor, &self.step, &input)?;
        self.outcome(step, stop)
    }

    fn last_probabilities(&self) -> (Range<usize>, &[f32]) {
        (0..self.rows, &self.probabilities)
    }
}
