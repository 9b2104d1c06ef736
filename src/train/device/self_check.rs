//! Whether a device trains as the CPU does, before it is trusted.

mod batches;
mod error;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use streamrec_artifact::{FeatureSchema, Graph};
use streamrec_kernels::Context;
use streamrec_kernels::cuda::{DeviceError, Executor};

pub use self::error::SelfCheckError;
use super::DeviceTrainer;
use super::difference::{Difference, Tensors, tensors, tolerance};
use crate::config::optimizer::{
    DenseOptimizerConfig, OptimizerConfig, ScheduleConfig, SparseOptimizerConfig,
};
use crate::config::{LossScaleConfig, Precision};
use crate::data::Batch;
use crate::optim::OptimError;
use crate::parallel::Mesh;
use crate::train::{StepOutcome, TrainError, Trainee, Trainer, TrainerSettings};

/// Samples of a batch.
const ROWS: usize = 64;
/// The most rows of a table, so that batches look up some of them often and some never.
const TABLE_ROWS: usize = 50;
/// Each slot's step is recorded in the second and third, and replayed in the two after.
const STEPS: u64 = 5;
/// Piece by piece, recorded, replayed.
const PREDICTIONS: usize = 3;
/// Where the input of a ReLU is within rounding of 0, two correct devices may differ by more than rounding. A device that is
/// wrong differs with other numbers, too.
const ATTEMPTS: u64 = 3;

/// Whether a device trains as the CPU does: a model in small, trained on both for some steps that a device takes piece by
/// piece, records and replays, with predictions behind them. Nothing is exchanged with other ranks.
#[derive(Debug, Clone)]
pub struct SelfCheck {
    graph: Graph,
    schema: FeatureSchema,
    optimizer: OptimizerConfig,
    settings: TrainerSettings,
}

/// What one side found.
struct Trained {
    before: Tensors,
    outcomes: Vec<StepOutcome>,
    /// Of the first step, and the rows of its batch that they are of.
    probabilities: (Range<usize>, Vec<f32>),
    predictions: Vec<Vec<f32>>,
    after: Tensors,
}

impl SelfCheck {
    /// With the layers, the optimiser and the precision of a run, but few samples and few rows in each table.
    pub fn new(
        graph: &Graph,
        schema: &FeatureSchema,
        optimizer: &OptimizerConfig,
        settings: &TrainerSettings,
    ) -> Self {
        let mut schema = schema.clone();
        for table in &mut schema.tables {
            table.rows = table.rows.min(TABLE_ROWS);
        }
        Self {
            graph: graph.clone(),
            schema,
            optimizer: optimizer.clone(),
            settings: TrainerSettings {
                batch_rows: ROWS,
                global_batch: ROWS,
                accumulate: settings.accumulate.min(2),
                // So small that no gradient overflows, and so short that the scale grows.
                loss_scale: LossScaleConfig {
                    initial: 1024.0,
                    growth_steps: 2,
                },
                partitions: BTreeMap::new(),
                tables: None,
                ..settings.clone()
            },
        }
    }

    /// Trains on `device`, which opens one anew each time it is asked, and on the CPU.
    ///
    /// # Errors
    /// When losses, predictions, gradients, weights or optimiser state are further apart than the precision explains, or
    /// either side fails.
    pub fn run<E: Executor>(
        &self,
        context: &Context,
        mut device: impl FnMut() -> Result<E, DeviceError>,
    ) -> Result<(), SelfCheckError> {
        let mut first = None;
        for attempt in 0..ATTEMPTS {
            match self.attempt(context, attempt, &mut device) {
                Err(SelfCheckError::Differs(difference)) => {
                    tracing::debug!(attempt, "self-check: {difference}");
                    first.get_or_insert(difference);
                }
                outcome => return outcome,
            }
        }
        first.map_or(Ok(()), |difference| Err(difference.into()))
    }

    fn attempt<E: Executor>(
        &self,
        context: &Context,
        attempt: u64,
        device: &mut dyn FnMut() -> Result<E, DeviceError>,
    ) -> Result<(), SelfCheckError> {
        let mut own = self.clone();
        own.settings.seed = 1 + attempt;
        // Gradients, of which adaptive rules would tell little but the sign.
        let descent = Self {
            optimizer: plain_descent(),
            ..own.clone()
        };
        let [got, expected] = descent.both(context, device()?, 1)?;
        descent.compare(&got, &expected, gradient_tolerance(&own.settings))?;
        let [got, expected] = own.both(context, device()?, STEPS)?;
        own.compare(&got, &expected, weight_tolerance(&own.settings))
    }

    /// Trains on both: what the device found, and the CPU.
    fn both<E: Executor>(
        &self,
        context: &Context,
        device: E,
        steps: u64,
    ) -> Result<[Trained; 2], SelfCheckError> {
        let Self {
            graph,
            schema,
            optimizer,
            settings,
        } = self;
        let mesh = Mesh::single();
        let on_cpu = settings.clone();
        let on_cpu = Trainer::new(
            context.clone(),
            mesh.clone(),
            graph,
            schema,
            optimizer,
            on_cpu,
        );
        let expected = on_cpu.and_then(|mut on_cpu| self.train(&mut on_cpu, steps));
        let expected = expected.map_err(SelfCheckError::Cpu)?;
        let on_device =
            DeviceTrainer::new(device, context, &mesh, graph, schema, optimizer, settings);
        match self.train(&mut on_device?, steps) {
            Ok(got) => Ok([got, expected]),
            Err(error) => Err(no_number(error, &expected)),
        }
    }

    fn batch(&self, step: u64) -> Batch {
        let seed = self.settings.seed << 32 | step;
        batches::batch(&self.schema, self.settings.batch_rows, seed)
    }

    fn train(&self, trainee: &mut dyn Trainee, steps: u64) -> Result<Trained, TrainError> {
        let before = tensors(trainee)?;
        let (mut outcomes, mut probabilities) = (Vec::new(), (0..0, Vec::new()));
        for step in 1..=steps {
            let [batch, next] = [step, step + 1].map(|step| Arc::new(self.batch(step)));
            let next = (step < steps).then_some(&next);
            outcomes.extend(trainee.step_ahead(&batch, next, step, false)?.outcome);
            if step == steps {
                while let Some(outcome) = trainee.settle()? {
                    outcomes.push(outcome);
                }
            }
            if outcomes.len() == 1 {
                let (rows, of_first) = trainee.last_probabilities();
                probabilities = (rows, of_first.to_vec());
            }
        }
        let unseen = self.batch(steps + 1);
        let mut predictions = vec![Vec::new(); PREDICTIONS];
        for probabilities in &mut predictions {
            trainee.predict(&unseen, probabilities)?;
        }
        Ok(Trained {
            before,
            outcomes,
            probabilities,
            predictions,
            after: tensors(trainee)?,
        })
    }

    fn compare(
        &self,
        got: &Trained,
        expected: &Trained,
        change: f64,
    ) -> Result<(), SelfCheckError> {
        let TrainerSettings {
            precision,
            table_precision,
            ..
        } = self.settings;
        let [tolerance, of_tables] =
            [precision, table_precision].map(|of| f64::from(tolerance(of)));
        // A row that is rounded to the other neighbour is off as an activation is.
        let later = tolerance.max(of_tables);
        let steps = expected.outcomes.len() as u64;
        let mut found = None;
        for (step, (got, expected)) in (1..).zip(got.outcomes.iter().zip(&expected.outcomes)) {
            // Weights differ from the second step on.
            let allowed = if step == 1 { tolerance } else { 10.0 * later };
            let allowed = allowed * expected.loss.abs().max(1.0);
            let skipped = [got, expected].map(|outcome| f64::from(u8::from(outcome.skipped)));
            found = found
                .or_else(|| {
                    Difference::of_number("the loss", step, [got.loss, expected.loss], allowed)
                })
                .or_else(|| {
                    Difference::of_number("whether updates were skipped", step, skipped, 0.0)
                });
        }
        let (rows, own) = (&got.probabilities.0, &got.probabilities.1);
        let (theirs, cpus) = (&expected.probabilities.0, &expected.probabilities.1);
        if rows.start == theirs.start {
            // The device's are of padding, too.
            let own = &own[..own.len().min(cpus.len())];
            let of = || Difference::of_values("probability", 1, [own, cpus], tolerance as f32);
            found = found.or_else(of);
        }
        let tensors = got.after.iter().zip(&expected.after).zip(&expected.before);
        for (((name, got), (_, expected)), (_, before)) in tensors {
            let of = || Difference::of_change(name, steps, before, [got, expected], change);
            found = found.or_else(of);
        }
        for (got, expected) in got.predictions.iter().zip(&expected.predictions) {
            let allowed = 10.0 * later as f32;
            let of = || Difference::of_values("prediction", steps, [got, expected], allowed);
            found = found.or_else(of);
        }
        found.map_or(Ok(()), |difference| Err(difference.into()))
    }
}

/// An error of the device that is a number, or no number, which the CPU has another of.
fn no_number(error: TrainError, expected: &Trained) -> SelfCheckError {
    let (what, step, got) = match error {
        TrainError::NotFinite { step, loss } => ("the loss", step, loss),
        TrainError::Optim(OptimError::NotFinite { norm, step }) => {
            ("the norm of the dense gradients", step, norm)
        }
        other => return other.into(),
    };
    let outcome = (step as usize).checked_sub(1);
    let outcome = outcome.and_then(|index| expected.outcomes.get(index));
    let expected = outcome.map_or(f64::NAN, |outcome| match error {
        TrainError::NotFinite { .. } => outcome.loss,
        _ => outcome.gradient_norm,
    });
    Difference {
        what: what.to_owned(),
        step,
        expected,
        got,
        error: f64::INFINITY,
        allowed: 0.0,
    }
    .into()
}

/// Of the change by one step of gradient descent. Sums in another order are apart by about 1e-5 of it; one sample that a ReLU
/// lets pass on one side only, by some thousandths.
fn gradient_tolerance(settings: &TrainerSettings) -> f64 {
    let of_change = match settings.precision {
        Precision::Fp32 => 0.01,
        Precision::Bf16 => 0.05,
        Precision::Fp16 => 0.02,
    };
    behind_rounding(of_change, settings)
}

/// Of the change of weights and state by the run's own optimiser, whose adaptive rules make whole steps of gradients that are
/// but rounding.
fn weight_tolerance(settings: &TrainerSettings) -> f64 {
    let of_change = match settings.precision {
        Precision::Fp32 => 0.05,
        Precision::Bf16 | Precision::Fp16 => 0.5,
    };
    behind_rounding(of_change, settings)
}

/// Where tables are rounded, by the same random words on both sides: a share of the numbers that is as large as their
/// difference is rounded to the other neighbour, which is the root of it in a norm. Other words would make the norm about 1.
fn behind_rounding(of_change: f64, settings: &TrainerSettings) -> f64 {
    match settings.table_precision {
        Precision::Fp32 => of_change,
        Precision::Bf16 | Precision::Fp16 => of_change.sqrt(),
    }
}

fn plain_descent() -> OptimizerConfig {
    let (learning_rate, weight_decay) = (0.5, 0.0);
    OptimizerConfig {
        dense: DenseOptimizerConfig::Sgd {
            learning_rate,
            momentum: 0.0,
            nesterov: false,
            weight_decay,
        },
        sparse: SparseOptimizerConfig::Sgd {
            learning_rate,
            weight_decay,
            max_row_norm: None,
        },
        groups: Vec::new(),
        schedule: ScheduleConfig::default(),
        clip_norm: None,
    }
}
