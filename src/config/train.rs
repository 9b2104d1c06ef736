//! `[train]`: batch size, length, evaluation.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How long and in what pieces a run trains.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Samples a step, over all ranks.
    pub global_batch: usize,
    /// Passes over the training split.
    #[serde(default = "one")]
    pub epochs: u64,
    /// Ends the run after this many steps, whatever the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Each rank's part of a global batch is worked through in this many pieces, whose gradients
    /// are added before the one update.
    #[serde(default = "one_usize")]
    pub accumulate: usize,
    /// Steps between evaluations on the validation split; at the end of each epoch where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluate_every_steps: Option<u64>,
    /// Stops when the validation loss no longer falls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
    /// Steps between lines of metrics.
    #[serde(default = "log_every_steps")]
    pub log_every_steps: u64,
    /// Weight of each label's loss, in the order of `data.labels`; 1 where unset.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub label_weights: Vec<f32>,
    /// The type of activations, of their gradients and of the factors of products.
    #[serde(default)]
    pub precision: Precision,
    /// The type in which embedding tables are stored. Their rows are updated in fp32 and, in half precision, rounded
    /// stochastically; their gradients and optimiser state are fp32.
    #[serde(default)]
    pub table_precision: Precision,
    /// How gradients are scaled; with fp16 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScaleConfig>,
    /// Where to compute.
    #[serde(default)]
    pub device: DeviceChoice,
    /// Threads a rank; all cores divided by the ranks of the host where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
}

/// When to stop early. The weights of the best evaluation are the run's result.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping {
    /// Evaluations without a better validation loss that are tolerated.
    pub patience: u64,
}

/// Types of activations, or of embedding tables. Dense weights, all gradients of weights and optimiser state are fp32
/// whatever is chosen, and so are all sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats throughout.
    #[default]
    Fp32,
    /// bfloat16: the range of fp32 with 8 bits of precision; needs no loss scaling.
    Bf16,
    /// IEEE binary16: 11 bits of precision, finite up to 65,504; the loss is scaled.
    Fp16,
}

impl Precision {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::Fp32 => 4,
            Self::Bf16 | Self::Fp16 => 2,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
        })
    }
}

/// Dynamic loss scaling: the factor doubles after `growth_steps` steps whose gradients were finite, and is
/// halved after one whose were not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossScaleConfig {
    /// The factor of the first step: a power of two, so that scaling rounds nothing.
    pub initial: f64,
    /// Steps with finite gradients after which the factor doubles.
    pub growth_steps: u64,
}

impl Default for LossScaleConfig {
    fn default() -> Self {
        Self {
            initial: 65_536.0,
            growth_steps: 2_000,
        }
    }
}

impl LossScaleConfig {
    /// The largest factor, so that gradients of about 1 stay float32 numbers.
    pub const MAX: f64 = (1u128 << 100) as f64;

    fn check(&self, errors: &mut Vec<String>) {
        let power = self.initial.is_normal() && self.initial.to_bits() << 12 == 0;
        if !(power && (1.0..=Self::MAX).contains(&self.initial)) {
            errors.push(format!(
                "`train.loss_scale.initial`: expected a power of two from 1 to 2^100, got {}",
                self.initial
            ));
        }
        if self.growth_steps == 0 {
            errors.push("`train.loss_scale.growth_steps`: expected at least 1, got 0".into());
        }
    }
}

/// Which device a rank computes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// A GPU for each rank where one is found that passes the self-check, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// GPUs of NVIDIA, one for each rank, or an error: of what is missing, or of what the self-check found. Tested by emulation
    /// only: no GPU has run it.
    Cuda,
}

fn one() -> u64 {
    1
}

fn one_usize() -> usize {
    1
}

fn log_every_steps() -> u64 {
    50
}

impl TrainConfig {
    pub(super) fn check(&self, errors: &mut Vec<String>) {
        let mut at_least_one = |name: &str, value: u64| {
            if value == 0 {
                errors.push(format!("`train.{name}`: expected at least 1, got 0"));
            }
        };
        at_least_one("global_batch", self.global_batch as u64);
        at_least_one("epochs", self.epochs);
        at_least_one("accumulate", self.accumulate as u64);
        at_least_one("log_every_steps", self.log_every_steps);
        at_least_one("max_steps", self.max_steps.unwrap_or(1));
        at_least_one(
            "evaluate_every_steps",
            self.evaluate_every_steps.unwrap_or(1),
        );
        at_least_one("threads", self.threads.unwrap_or(1) as u64);
        match &self.loss_scale {
            Some(_) if self.precision != Precision::Fp16 => errors.push(format!(
                "`train.loss_scale`: only fp16 needs it, and `train.precision` is \"{}\"; leave it out",
                self.precision
            )),
            scale => scale.iter().for_each(|scale| scale.check(errors)),
        }
        if let Some(bad) = self
            .label_weights
            .iter()
            .find(|w| !w.is_finite() || **w < 0.0)
        {
            errors.push(format!(
                "`train.label_weights`: expected finite weights of at least 0, got {bad}"
            ));
        }
    }
}
