//! `[optimizer]`: how parameters follow their gradients.

use serde::{Deserialize, Serialize};

/// Optimisers of dense parameters and of embedding tables, with what they share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Every parameter that is not an embedding table.
    pub dense: DenseOptimizerConfig,
    /// Embedding tables: only rows that a batch looks up change.
    pub sparse: SparseOptimizerConfig,
    /// Exceptions by name of parameter; the first that matches counts.
    #[serde(default, rename = "group", skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupConfig>,
    /// How both learning rates change over the steps.
    #[serde(default)]
    pub schedule: ScheduleConfig,
    /// The largest global L2 norm of the gradients of all dense parameters together; larger ones
    /// are scaled down to it. Embedding tables do not count: they have `sparse.max_row_norm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
}

/// The optimiser of the dense parameters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum DenseOptimizerConfig {
    /// Stochastic gradient descent.
    Sgd {
        /// The learning rate.
        learning_rate: f64,
        /// The factor that keeps the last step's velocity.
        #[serde(default)]
        momentum: f64,
        /// Look ahead along the velocity.
        #[serde(default)]
        nesterov: bool,
        /// Strength of the L2 penalty.
        #[serde(default)]
        weight_decay: f64,
    },
    /// Adagrad: <https://jmlr.org/papers/v12/duchi11a.html>.
    Adagrad {
        /// The learning rate.
        learning_rate: f64,
        /// Added to the root.
        #[serde(default = "adagrad_eps")]
        eps: f64,
        /// The value that sums of squares start from.
        #[serde(default)]
        initial_accumulator: f64,
        /// Strength of the L2 penalty.
        #[serde(default)]
        weight_decay: f64,
    },
    /// Adam, with its weight decay as an L2 penalty: <https://arxiv.org/abs/1412.6980>.
    Adam {
        /// The learning rate.
        learning_rate: f64,
        /// The decay of the first moment.
        #[serde(default = "beta1")]
        beta1: f64,
        /// The decay of the second moment.
        #[serde(default = "beta2")]
        beta2: f64,
        /// Added to the root.
        #[serde(default = "adam_eps")]
        eps: f64,
        /// Strength of the L2 penalty.
        #[serde(default)]
        weight_decay: f64,
    },
    /// Adam with decoupled weight decay: <https://arxiv.org/abs/1711.05101>.
    AdamW {
        /// The learning rate.
        learning_rate: f64,
        /// The decay of the first moment.
        #[serde(default = "beta1")]
        beta1: f64,
        /// The decay of the second moment.
        #[serde(default = "beta2")]
        beta2: f64,
        /// Added to the root.
        #[serde(default = "adam_eps")]
        eps: f64,
        /// Strength of the decay, times the learning rate.
        #[serde(default = "adamw_weight_decay")]
        weight_decay: f64,
    },
}

/// The optimiser of the embedding tables. Rows that no id touches stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum SparseOptimizerConfig {
    /// Stochastic gradient descent.
    Sgd {
        /// The learning rate.
        learning_rate: f64,
        /// Strength of the L2 penalty on touched rows.
        #[serde(default)]
        weight_decay: f64,
        /// The largest L2 norm of a row's gradient; larger ones are scaled down to it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_row_norm: Option<f64>,
    },
    /// Adagrad with one sum of squares a row.
    RowWiseAdagrad {
        /// The learning rate.
        learning_rate: f64,
        /// Added to the root.
        #[serde(default = "adagrad_eps")]
        eps: f64,
        /// The value that sums of squares start from.
        #[serde(default)]
        initial_accumulator: f64,
        /// Strength of the L2 penalty on touched rows.
        #[serde(default)]
        weight_decay: f64,
        /// The largest L2 norm of a row's gradient; larger ones are scaled down to it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_row_norm: Option<f64>,
    },
    /// Adagrad with one sum of squares an element.
    Adagrad {
        /// The learning rate.
        learning_rate: f64,
        /// Added to the root.
        #[serde(default = "adagrad_eps")]
        eps: f64,
        /// The value that sums of squares start from.
        #[serde(default)]
        initial_accumulator: f64,
        /// Strength of the L2 penalty on touched rows.
        #[serde(default)]
        weight_decay: f64,
        /// The largest L2 norm of a row's gradient; larger ones are scaled down to it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_row_norm: Option<f64>,
    },
    /// Adam whose moments change only for touched rows.
    LazyAdam {
        /// The learning rate.
        learning_rate: f64,
        /// The decay of the first moment.
        #[serde(default = "beta1")]
        beta1: f64,
        /// The decay of the second moment.
        #[serde(default = "beta2")]
        beta2: f64,
        /// Added to the root.
        #[serde(default = "adam_eps")]
        eps: f64,
        /// Strength of the L2 penalty on touched rows.
        #[serde(default)]
        weight_decay: f64,
        /// The largest L2 norm of a row's gradient; larger ones are scaled down to it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_row_norm: Option<f64>,
    },
}

/// Parameters with a learning rate or a weight decay of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// Names of parameters, such as `embedding.user_id` or `top.*.bias`; `*` stands for any text.
    pub pattern: String,
    /// A factor on the learning rate; 0 freezes the parameters.
    #[serde(default = "one")]
    pub learning_rate_scale: f64,
    /// Their weight decay; that of their optimiser where unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
}

/// A factor on both learning rates, by step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleConfig {
    /// Always 1.
    // With braces: serde lets unknown fields of a unit variant pass.
    Constant {},
    /// Rises linearly to 1, stays there, then falls to `end_factor` as a power of the steps left.
    WarmupPolynomial {
        /// Steps of the rise.
        #[serde(default)]
        warmup_steps: u64,
        /// The step where the fall begins; the end of the rise where unset.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        decay_start_step: Option<u64>,
        /// Steps of the fall.
        decay_steps: u64,
        /// The power: 1 falls linearly, 2 as DLRM does.
        #[serde(default = "two")]
        power: f64,
        /// The factor after the fall.
        #[serde(default)]
        end_factor: f64,
    },
    /// Rises linearly to 1, stays there, then falls to `end_factor` along half a cosine:
    /// <https://arxiv.org/abs/1608.03983>.
    WarmupCosine {
        /// Steps of the rise.
        #[serde(default)]
        warmup_steps: u64,
        /// The step where the fall begins; the end of the rise where unset.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        decay_start_step: Option<u64>,
        /// Steps of the fall.
        decay_steps: u64,
        /// The factor after the fall.
        #[serde(default)]
        end_factor: f64,
    },
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self::Constant {}
    }
}

fn adagrad_eps() -> f64 {
    1e-8
}

fn adam_eps() -> f64 {
    1e-8
}

fn beta1() -> f64 {
    0.9
}

fn beta2() -> f64 {
    0.999
}

fn adamw_weight_decay() -> f64 {
    0.01
}

fn one() -> f64 {
    1.0
}

fn two() -> f64 {
    2.0
}

impl OptimizerConfig {
    pub(super) fn check(&self, errors: &mut Vec<String>) {
        self.dense.check(&mut Section {
            name: "optimizer.dense",
            errors,
        });
        self.sparse.check(&mut Section {
            name: "optimizer.sparse",
            errors,
        });
        self.schedule.check(&mut Section {
            name: "optimizer.schedule",
            errors,
        });
        for group in &self.groups {
            let mut section = Section {
                name: "optimizer.group",
                errors,
            };
            section.at_least_zero("learning_rate_scale", group.learning_rate_scale);
            section.at_least_zero("weight_decay", group.weight_decay.unwrap_or(0.0));
            if group.pattern.is_empty() {
                section
                    .errors
                    .push("`optimizer.group.pattern`: expected a name, got none".into());
            }
        }
        if let Some(clip_norm) = self.clip_norm {
            Section {
                name: "optimizer",
                errors,
            }
            .above_zero("clip_norm", clip_norm);
        }
    }
}

impl DenseOptimizerConfig {
    /// The learning rate before the schedule and the groups.
    pub fn learning_rate(&self) -> f64 {
        match *self {
            Self::Sgd { learning_rate, .. }
            | Self::Adagrad { learning_rate, .. }
            | Self::Adam { learning_rate, .. }
            | Self::AdamW { learning_rate, .. } => learning_rate,
        }
    }

    /// The weight decay of parameters whose group sets none.
    pub fn weight_decay(&self) -> f64 {
        match *self {
            Self::Sgd { weight_decay, .. }
            | Self::Adagrad { weight_decay, .. }
            | Self::Adam { weight_decay, .. }
            | Self::AdamW { weight_decay, .. } => weight_decay,
        }
    }

    fn check(&self, section: &mut Section<'_>) {
        section.above_zero("learning_rate", self.learning_rate());
        match *self {
            Self::Sgd {
                momentum,
                nesterov,
                weight_decay,
                ..
            } => {
                section.below_one("momentum", momentum);
                section.at_least_zero("weight_decay", weight_decay);
                if nesterov && momentum == 0.0 {
                    section
                        .errors
                        .push("`optimizer.dense.nesterov`: needs a momentum above 0".into());
                }
            }
            Self::Adagrad {
                eps,
                initial_accumulator,
                weight_decay,
                ..
            } => {
                section.above_zero("eps", eps);
                section.at_least_zero("initial_accumulator", initial_accumulator);
                section.at_least_zero("weight_decay", weight_decay);
            }
            Self::Adam {
                beta1,
                beta2,
                eps,
                weight_decay,
                ..
            }
            | Self::AdamW {
                beta1,
                beta2,
                eps,
                weight_decay,
                ..
            } => {
                section.below_one("beta1", beta1);
                section.below_one("beta2", beta2);
                section.above_zero("eps", eps);
                section.at_least_zero("weight_decay", weight_decay);
            }
        }
    }
}

impl SparseOptimizerConfig {
    /// The learning rate before the schedule and the groups.
    pub fn learning_rate(&self) -> f64 {
        match *self {
            Self::Sgd { learning_rate, .. }
            | Self::RowWiseAdagrad { learning_rate, .. }
            | Self::Adagrad { learning_rate, .. }
            | Self::LazyAdam { learning_rate, .. } => learning_rate,
        }
    }

    fn check(&self, section: &mut Section<'_>) {
        section.above_zero("learning_rate", self.learning_rate());
        let (decay, max_norm) = match *self {
            Self::Sgd {
                weight_decay,
                max_row_norm,
                ..
            } => (weight_decay, max_row_norm),
            Self::RowWiseAdagrad {
                eps,
                initial_accumulator,
                weight_decay,
                max_row_norm,
                ..
            }
            | Self::Adagrad {
                eps,
                initial_accumulator,
                weight_decay,
                max_row_norm,
                ..
            } => {
                section.above_zero("eps", eps);
                section.at_least_zero("initial_accumulator", initial_accumulator);
                (weight_decay, max_row_norm)
            }
            Self::LazyAdam {
                beta1,
                beta2,
                eps,
                weight_decay,
                max_row_norm,
                ..
            } => {
                section.below_one("beta1", beta1);
                section.below_one("beta2", beta2);
                section.above_zero("eps", eps);
                (weight_decay, max_row_norm)
            }
        };
        section.at_least_zero("weight_decay", decay);
        section.above_zero("max_row_norm", max_norm.unwrap_or(1.0));
    }
}

impl ScheduleConfig {
    fn check(&self, section: &mut Section<'_>) {
        let (warmup, start, decay, end_factor) = match *self {
            Self::Constant {} => return,
            Self::WarmupPolynomial {
                warmup_steps,
                decay_start_step,
                decay_steps,
                power,
                end_factor,
            } => {
                section.above_zero("power", power);
                (warmup_steps, decay_start_step, decay_steps, end_factor)
            }
            Self::WarmupCosine {
                warmup_steps,
                decay_start_step,
                decay_steps,
                end_factor,
            } => (warmup_steps, decay_start_step, decay_steps, end_factor),
        };
        if !(0.0..=1.0).contains(&end_factor) {
            section.refuse("end_factor", "0 to 1", end_factor);
        }
        if decay == 0 {
            section.refuse("decay_steps", "at least 1", 0.0);
        }
        if let Some(start) = start
            && start < warmup
        {
            section.refuse(
                "decay_start_step",
                "the end of the warm-up or later",
                start as f64,
            );
        }
    }
}

/// Collects errors of one section.
struct Section<'a> {
    name: &'static str,
    errors: &'a mut Vec<String>,
}

impl Section<'_> {
    fn refuse(&mut self, field: &str, expected: &str, got: f64) {
        let name = self.name;
        self.errors
            .push(format!("`{name}.{field}`: expected {expected}, got {got}"));
    }

    // Parameters are kept in f32, so a value counts as what it is there: 1e-50 is zero.

    fn above_zero(&mut self, field: &str, value: f64) {
        let narrow = value as f32;
        if !narrow.is_finite() || narrow <= 0.0 {
            self.refuse(field, "a number above 0", value);
        }
    }

    fn at_least_zero(&mut self, field: &str, value: f64) {
        let narrow = value as f32;
        if !narrow.is_finite() || narrow < 0.0 {
            self.refuse(field, "a number of at least 0", value);
        }
    }

    fn below_one(&mut self, field: &str, value: f64) {
        if !(0.0..1.0).contains(&(value as f32)) {
            self.refuse(field, "a number from 0 to below 1", value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = "[dense]\nkind = 'adam'\nlearning_rate = 0.001\n\
                            [sparse]\nkind = 'row_wise_adagrad'\nlearning_rate = 0.02\n";

    fn check(text: &str) -> Vec<String> {
        let mut errors = Vec::new();
        toml::from_str::<OptimizerConfig>(text)
            .unwrap()
            .check(&mut errors);
        errors
    }

    #[test]
    fn what_is_read_is_written_back() {
        let text = format!(
            "clip_norm = 1.0\n{SMALLEST}max_row_norm = 2.0\n\
             [[group]]\npattern = 'embedding.*'\nlearning_rate_scale = 0.5\n\
             [schedule]\nkind = 'warmup_cosine'\nwarmup_steps = 10\ndecay_steps = 90\n"
        );
        let config: OptimizerConfig = toml::from_str(&text).unwrap();
        assert_eq!(check(&text), [""; 0]);
        let written = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<OptimizerConfig>(&written).unwrap(), config);
    }

    #[test]
    fn an_unknown_field_of_any_section_is_an_error() {
        for bad in [
            format!("{SMALLEST}epsilon = 1.0\n"),
            format!("clip = 1.0\n{SMALLEST}"),
            format!("{SMALLEST}[schedule]\nkind = 'constant'\nwarmup = 1\n"),
            format!("{SMALLEST}[[group]]\npattern = 'x'\nlr = 1.0\n"),
        ] {
            assert!(toml::from_str::<OptimizerConfig>(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn all_bad_values_are_told_at_once() {
        let errors = check(
            "clip_norm = 0.0\n[dense]\nkind = 'sgd'\nlearning_rate = -1.0\nnesterov = true\n\
             [sparse]\nkind = 'lazy_adam'\nlearning_rate = 1.0\nbeta2 = 1.0\neps = 1e-60\n\
             [schedule]\nkind = 'warmup_polynomial'\nwarmup_steps = 5\ndecay_start_step = 4\n\
             decay_steps = 0\nend_factor = 2.0\n",
        );
        for expected in [
            "optimizer.clip_norm",
            "dense.learning_rate",
            "dense.nesterov",
            "sparse.beta2",
            "sparse.eps",
            "schedule.end_factor",
            "schedule.decay_steps",
            "schedule.decay_start_step",
        ] {
            assert!(
                errors.iter().any(|e| e.contains(expected)),
                "{expected}: {errors:?}"
            );
        }
        assert_eq!(errors.len(), 8, "{errors:?}");
    }
}
