use std::{ops::Range, sync::Arc};

use streamrec_kernels::{
    Context, DType, Tensor,
    cuda::dense_optimizer::{DenseRule, Span},
    dense_optimizer::{self, Adagrad, Adam, Sgd},
    norm,
};

use super::{OptimError, groups::Groups};
use crate::{
    comm::{Communicator, all_reduce_f64},
    config::optimizer::{DenseOptimizerConfig, OptimizerConfig},
    model::{
        Gradients, ModelError, NamedSlice, NamedSliceMut, ParameterLayout, ParameterStore, Placed,
    },
};

/// Updates the dense parameters. Its state lies in arenas like those of the weights.
pub struct DenseOptimizer {
    rule: DenseOptimizerConfig,
    clip_norm: Option<f64>,
    layout: Arc<ParameterLayout>,
    runs: Vec<Run>,
    /// The tensor-parallel group.
    group: Arc<dyn Communicator>,
    /// `[layout.len()]` each, by name.
    state: Vec<(&'static str, Tensor)>,
}

/// Neighbours in an arena that are updated alike.
#[derive(Debug, Clone, PartialEq)]
struct Run {
    bucket: usize,
    in_bucket: Range<usize>,
    arena: Range<usize>,
    learning_rate_scale: f64,
    weight_decay: f64,
    /// Whether other ranks of the tensor-parallel group hold other parts.
    shared: bool,
}

impl DenseOptimizer {
    pub(super) fn new(
        context: &Context,
        config: &OptimizerConfig,
        groups: &Groups<'_>,
        parameters: &ParameterStore,
        group: Arc<dyn Communicator>,
    ) -> Self {
        let layout = Arc::clone(parameters.layout());
        let state = |name, value: f64| {
            let mut tensor = Tensor::zeros(context, DType::F32, &[layout.len()]);
            if value != 0.0 {
                tensor.f32_mut().fill(value as f32);
            }
            (name, tensor)
        };
        let state = match config.dense {
            DenseOptimizerConfig::Sgd { momentum: 0.0, .. } => vec![],
            DenseOptimizerConfig::Sgd { .. } => vec![state("velocity", 0.0)],
            DenseOptimizerConfig::Adagrad {
                initial_accumulator,
                ..
            } => {
                vec![state("sum_of_squares", initial_accumulator)]
            }
            DenseOptimizerConfig::Adam { .. } | DenseOptimizerConfig::AdamW { .. } => {
                vec![state("first_moment", 0.0), state("second_moment", 0.0)]
            }
        };
        let runs = runs(&layout, config.dense.weight_decay(), groups);
        Self {
            rule: config.dense,
            clip_norm: config.clip_norm,
            layout,
            runs,
            group,
            state,
        }
    }

    /// Scales and clips the gradients, and updates every dense parameter that is not frozen. `norm` is
    /// that of the gradients times `unscale`, `factor` is the schedule's, `step` counts from 1.
    ///
    /// # Errors
    /// When a gradient is in flight; nothing is updated then.
    pub(super) fn update(
        &mut self,
        context: &Context,
        parameters: &mut ParameterStore,
        [norm, unscale]: [f64; 2],
        factor: f64,
        step: u64,
    ) -> Result<(), OptimError> {
        context.install(|| {
            let gradients = parameters.gradients_mut();
            self.scale(context, gradients, unscale * self.clip_factor(norm))?;
            self.update_runs(context, parameters, factor, step)
        })
    }

    /// Updates with gradients as they are.
    fn update_runs(
        &mut self,
        context: &Context,
        parameters: &mut ParameterStore,
        factor: f64,
        step: u64,
    ) -> Result<(), OptimError> {
        let (weights, gradients) = parameters.arena_and_gradients();
        let learning_rate = self.rule.learning_rate() * factor;
        for run in &self.runs {
            let gradient = &gradients.bucket(run.bucket)?[run.in_bucket.clone()];
            let weights = &mut weights[run.arena.clone()];
            let mut state = self.state.iter_mut();
            let mut state = || {
                state
                    .next()
                    .map_or(&mut [][..], |(_, t)| &mut t.f32_mut()[run.arena.clone()])
            };
            let state = [state(), state()];
            let rate = (learning_rate * run.learning_rate_scale) as f32;
            update_run(
                context, &self.rule, run, rate, step, weights, gradient, state,
            )
            .map_err(|source| OptimError::Kernel {
                what: "dense parameters".into(),
                source: Box::new(source),
            })?;
        }
        Ok(())
    }

    /// The global L2 norm of the gradients, not finite where one of them is not. Those of frozen
    /// parameters do not count: nobody uses them. Collective in the tensor-parallel group.
    pub(super) fn norm(&self, context: &Context, gradients: &Gradients) -> Result<f64, OptimError> {
        let (mut shared, mut own) = ([0.0], 0.0);
        context.install(|| {
            for run in &self.runs {
                let gradient = &gradients.bucket(run.bucket)?[run.in_bucket.clone()];
                let squares = norm::sum_of_squares(context, gradient);
                *(if run.shared { &mut shared[0] } else { &mut own }) += squares;
            }
            Ok::<_, OptimError>(())
        })?;
        // What the group shares counts once: each rank has a part. The rest is the same on all.
        all_reduce_f64(self.group.as_ref(), &mut shared).map_err(ModelError::Comm)?;
        Ok((own + shared[0]).sqrt())
    }

    /// The factor that scales gradients of a norm down to the largest one that is allowed, as
    /// Megatron-LM does: `min(1, max_norm / (norm + 1e-6))`.
    fn clip_factor(&self, norm: f64) -> f64 {
        let factor = self.clip_norm.map_or(1.0, |max| max / (norm + 1e-6));
        factor.min(1.0)
    }

    fn scale(
        &self,
        context: &Context,
        gradients: &mut Gradients,
        factor: f64,
    ) -> Result<(), OptimError> {
        if factor != 1.0 {
            for run in &self.runs {
                let gradient = &mut gradients.bucket_mut(run.bucket)?[run.in_bucket.clone()];
                norm::scale(context, gradient, factor as f32);
            }
        }
        Ok(())
    }

    /// The runs as kernels know them: gradients on a device lie in one arena, as weights do.
    pub(super) fn device_spans(&self) -> Vec<Span> {
        let span = |run: &Run| Span {
            start: run.arena.start as u64,
            gradient: run.arena.start as u64,
            len: run.arena.len() as u64,
            learning_rate_scale: run.learning_rate_scale as f32,
            weight_decay: run.weight_decay as f32,
            shared: u32::from(run.shared),
            reserved: 0,
        };
        self.runs.iter().map(span).collect()
    }

    /// The rule as kernels know it; rate and decay come with step and spans.
    pub(super) fn device_rule(&self) -> DenseRule {
        let (learning_rate, weight_decay) = (0.0, 0.0);
        match self.rule {
            DenseOptimizerConfig::Sgd {
                momentum, nesterov, ..
            } => DenseRule::Sgd(Sgd {
                learning_rate,
                momentum: momentum as f32,
                nesterov,
                weight_decay,
            }),
            DenseOptimizerConfig::Adagrad { eps, .. } => DenseRule::Adagrad(Adagrad {
                learning_rate,
                eps: eps as f32,
                weight_decay,
            }),
            DenseOptimizerConfig::Adam {
                beta1, beta2, eps, ..
            }
            | DenseOptimizerConfig::AdamW {
                beta1, beta2, eps, ..
            } => DenseRule::Adam(Adam {
                learning_rate,
                beta1: beta1 as f32,
                beta2: beta2 as f32,
                eps: eps as f32,
                weight_decay,
                decoupled: matches!(self.rule, DenseOptimizerConfig::AdamW { .. }),
            }),
        }
    }

    /// The norm that gradients are clipped to.
    pub(super) fn clip_norm(&self) -> Option<f64> {
        self.clip_norm
    }

    /// The learning rate before the schedule.
    pub(super) fn learning_rate(&self) -> f64 {
        self.rule.learning_rate()
    }

    /// The arenas of the state.
    pub(super) fn state_arenas(&self) -> impl Iterator<Item = &Tensor> {
        self.state.iter().map(|(_, arena)| arena)
    }

    /// The arenas of the state, to write to.
    pub(super) fn state_arenas_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        self.state.iter_mut().map(|(_, arena)| arena)
    }

    /// The state, for checkpoints: `optimizer.<parameter>.<state>`.
    pub fn named_slices(&self) -> impl Iterator<Item = NamedSlice<'_>> {
        self.state.iter().flat_map(|(state, arena)| {
            let slices = self.layout.slices(arena.f32());
            slices.map(|(placed, values)| {
                NamedSlice::new(state_name(placed, state), placed.extent.clone(), values)
            })
        })
    }

    /// The state, to restore a checkpoint into.
    pub fn named_slices_mut(&mut self) -> impl Iterator<Item = NamedSliceMut<'_>> {
        let layout = &self.layout;
        self.state.iter_mut().flat_map(|(state, arena)| {
            let slices = layout.slices_mut(arena.f32_mut());
            slices.map(|(placed, values)| {
                NamedSliceMut::new(state_name(placed, state), placed.extent.clone(), values)
            })
        })
    }
}

fn state_name(placed: &Placed, state: &str) -> String {
    format!("optimizer.{}.{state}", placed.parameter.name)
}

/// Joins neighbours that are updated alike. The padding between them is zero in weights and
/// gradients, and every rule leaves it zero.
fn runs(layout: &ParameterLayout, weight_decay: f64, groups: &Groups<'_>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for placed in layout.parameters().iter().rev() {
        let name = &placed.parameter.name;
        let run = Run {
            bucket: placed.bucket,
            in_bucket: placed.in_bucket.clone(),
            arena: placed.arena.clone(),
            learning_rate_scale: groups.learning_rate_scale(name),
            weight_decay: groups.weight_decay(name).unwrap_or(weight_decay),
            shared: !placed.extent.is_whole(),
        };
        if run.learning_rate_scale == 0.0 {
            continue;
        }
        match runs.last_mut() {
            Some(last)
                if last.bucket == run.bucket
                    && last.learning_rate_scale == run.learning_rate_scale
                    && last.weight_decay == run.weight_decay
                    && last.shared == run.shared
                    && is_next(layout, last, &run) =>
            {
                last.in_bucket.end = run.in_bucket.end;
                last.arena.end = run.arena.end;
            }
            _ => runs.push(run),
        }
    }
    runs
}

/// Whether only padding lies between two runs, no parameter that is frozen.
fn is_next(layout: &ParameterLayout, last: &Run, run: &Run) -> bool {
    let between = last.arena.end..run.arena.start;
    !layout
        .parameters()
        .iter()
        .any(|placed| between.contains(&placed.arena.start))
}

#[allow(clippy::too_many_arguments)] // One parameter's worth of operands.
fn update_run(
    context: &Context,
    rule: &DenseOptimizerConfig,
    run: &Run,
    learning_rate: f32,
    step: u64,
    weights: &mut [f32],
    gradient: &[f32],
    [first, second]: [&mut [f32]; 2],
) -> streamrec_kernels::Result<()> {
    let weight_decay = run.weight_decay as f32;
    match *rule {
        DenseOptimizerConfig::Sgd {
            momentum, nesterov, ..
        } => {
            let momentum = momentum as f32;
            let rule = Sgd {
                learning_rate,
                momentum,
                nesterov,
                weight_decay,
            };
            dense_optimizer::sgd(context, &rule, weights, gradient, first)
        }
        DenseOptimizerConfig::Adagrad { eps, .. } => {
            let rule = Adagrad {
                learning_rate,
                eps: eps as f32,
                weight_decay,
            };
            dense_optimizer::adagrad(context, &rule, weights, gradient, first)
        }
        DenseOptimizerConfig::Adam {
            beta1, beta2, eps, ..
        }
        | DenseOptimizerConfig::AdamW {
            beta1, beta2, eps, ..
        } => {
            let rule = Adam {
                learning_rate,
                beta1: beta1 as f32,
                beta2: beta2 as f32,
                eps: eps as f32,
                weight_decay,
                decoupled: matches!(rule, DenseOptimizerConfig::AdamW { .. }),
            };
            dense_optimizer::adam(context, &rule, step, weights, gradient, first, second)
        }
    }
}
