//! Updates of dense parameters: flat slices, one pass over memory each.

use super::operand::expect_len;
use crate::{
    device::{Context, Device, DisjointMut},
    error::Result,
    simd::multiversion,
};

/// Parameters of one parallel task.
const PANEL: usize = 8192;

/// Stochastic gradient descent with optional momentum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// The learning rate.
    pub learning_rate: f32,
    /// The factor that keeps the last step's velocity.
    pub momentum: f32,
    /// Look ahead along the velocity (Nesterov).
    pub nesterov: bool,
    /// L2 penalty: `weight_decay * w` is added to the gradient.
    pub weight_decay: f32,
}

/// With `g = gradient + weight_decay * w`: `v = momentum * v + g`, then
/// `w -= learning_rate * v`, or with Nesterov `w -= learning_rate * (g + momentum * v)`.
///
/// Without momentum `velocity` is not read and may be empty. Velocities start at zero, so that the
/// first step's is the gradient itself (as in PyTorch's `SGD`).
///
/// # Errors
/// When the lengths differ.
pub fn sgd(
    context: &Context,
    rule: &Sgd,
    parameters: &mut [f32],
    gradients: &[f32],
    velocity: &mut [f32],
) -> Result<()> {
    const OPERATION: &str = "dense_optimizer::sgd";
    let len = parameters.len();
    expect_len(OPERATION, "gradients", gradients.len(), len)?;
    let with_velocity = rule.momentum != 0.0;
    if with_velocity {
        expect_len(OPERATION, "velocity", velocity.len(), len)?;
    }
    match context.device() {
        Device::Cpu => {
            let (parameters, velocity) = (DisjointMut::new(parameters), DisjointMut::new(velocity));
            context.for_each_panel(len, PANEL, |range| {
                // SAFETY: panels are disjoint ranges, one call each.
                let w = unsafe { parameters.slice(range.clone()) };
                let v = if with_velocity { range.clone() } else { 0..0 };
                // SAFETY: as above.
                let v = unsafe { velocity.slice(v) };
                if with_velocity {
                    momentum_step(rule, w, &gradients[range], v);
                } else {
                    plain_step(rule, w, &gradients[range]);
                }
            });
        }
    }
    Ok(())
}

multiversion! {
    fn plain_step(rule: &Sgd, w: &mut [f32], g: &[f32]) {
        let Sgd { learning_rate, weight_decay, .. } = *rule;
        for (w, g) in w.iter_mut().zip(g) {
            *w -= learning_rate * (g + weight_decay * *w);
        }
    }
}

multiversion! {
    fn momentum_step(rule: &Sgd, w: &mut [f32], g: &[f32], v: &mut [f32]) {
        let Sgd { learning_rate, momentum, nesterov, weight_decay } = *rule;
        for ((w, g), v) in w.iter_mut().zip(g).zip(v) {
            let g = g + weight_decay * *w;
            *v = momentum * *v + g;
            let step = if nesterov { g + momentum * *v } else { *v };
            *w -= learning_rate * step;
        }
    }
}

/// Adagrad (<https://jmlr.org/papers/v12/duchi11a.html>).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adagrad {
    /// The learning rate.
    pub learning_rate: f32,
    /// Added to the root, so that it never is zero.
    pub eps: f32,
    /// L2 penalty: `weight_decay * w` is added to the gradient.
    pub weight_decay: f32,
}

/// With `g = gradient + weight_decay * w`: `s += g^2`, `w -= learning_rate * g / (sqrt(s) + eps)`.
///
/// # Errors
/// When the lengths differ.
pub fn adagrad(
    context: &Context,
    rule: &Adagrad,
    parameters: &mut [f32],
    gradients: &[f32],
    sum_of_squares: &mut [f32],
) -> Result<()> {
    const OPERATION: &str = "dense_optimizer::adagrad";
    let len = parameters.len();
    expect_len(OPERATION, "gradients", gradients.len(), len)?;
    expect_len(OPERATION, "sum_of_squares", sum_of_squares.len(), len)?;
    match context.device() {
        Device::Cpu => {
            let (parameters, sums) = (
                DisjointMut::new(parameters),
                DisjointMut::new(sum_of_squares),
            );
            context.for_each_panel(len, PANEL, |range| {
                // SAFETY: panels are disjoint ranges, one call each.
                let w = unsafe { parameters.slice(range.clone()) };
                // SAFETY: as above.
                let s = unsafe { sums.slice(range.clone()) };
                adagrad_step(rule, w, &gradients[range], s);
            });
        }
    }
    Ok(())
}

multiversion! {
    fn adagrad_step(rule: &Adagrad, w: &mut [f32], g: &[f32], s: &mut [f32]) {
        let Adagrad { learning_rate, eps, weight_decay } = *rule;
        for ((w, g), s) in w.iter_mut().zip(g).zip(s) {
            let g = g + weight_decay * *w;
            *s += g * g;
            *w -= learning_rate * g / (s.sqrt() + eps);
        }
    }
}

/// Adam (<https://arxiv.org/abs/1412.6980>) and AdamW (<https://arxiv.org/abs/1711.05101>).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// The learning rate.
    pub learning_rate: f32,
    /// The decay of the first moment.
    pub beta1: f32,
    /// The decay of the second moment.
    pub beta2: f32,
    /// Added to the root, so that it never is zero.
    pub eps: f32,
    /// The strength of the decay.
    pub weight_decay: f32,
    /// Shrink the weights by `learning_rate * weight_decay` (AdamW) instead of adding
    /// `weight_decay * w` to the gradient (L2).
    pub decoupled: bool,
}

/// With `g` the gradient (plus `weight_decay * w` in the L2 form):
/// `m = beta1 * m + (1 - beta1) * g`, `v = beta2 * v + (1 - beta2) * g^2`,
/// `w -= learning_rate * m' / (sqrt(v') + eps)` with `m' = m / (1 - beta1^step)`,
/// `v' = v / (1 - beta2^step)`. The decoupled form first scales `w` by
/// `1 - learning_rate * weight_decay`. `step` counts from 1.
///
/// # Errors
/// When the lengths differ.
pub fn adam(
    context: &Context,
    rule: &Adam,
    step: u64,
    parameters: &mut [f32],
    gradients: &[f32],
    first_moment: &mut [f32],
    second_moment: &mut [f32],
) -> Result<()> {
    const OPERATION: &str = "dense_optimizer::adam";
    let len = parameters.len();
    expect_len(OPERATION, "gradients", gradients.len(), len)?;
    expect_len(OPERATION, "first_moment", first_moment.len(), len)?;
    expect_len(OPERATION, "second_moment", second_moment.len(), len)?;
    let correction = BiasCorrection::new(rule.beta1, rule.beta2, step);
    match context.device() {
        Device::Cpu => {
            let parameters = DisjointMut::new(parameters);
            let (first, second) = (
                DisjointMut::new(first_moment),
                DisjointMut::new(second_moment),
            );
            context.for_each_panel(len, PANEL, |range| {
                // SAFETY: panels are disjoint ranges, one call each.
                let w = unsafe { parameters.slice(range.clone()) };
                // SAFETY: as above.
                let m = unsafe { first.slice(range.clone()) };
                // SAFETY: as above.
                let v = unsafe { second.slice(range.clone()) };
                adam_step(rule, correction, w, &gradients[range], m, v);
            });
        }
    }
    Ok(())
}

/// The factors that undo the moments' bias towards their start at zero.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BiasCorrection {
    /// `1 / (1 - beta1^step)`.
    pub(crate) first: f32,
    /// `1 / (1 - beta2^step)`.
    pub(crate) second: f32,
}

impl BiasCorrection {
    pub(crate) fn new(beta1: f32, beta2: f32, step: u64) -> Self {
        // In f64: 1 - 0.999^1 has lost half its digits in f32.
        let of = |beta: f32| {
            let exponent = i32::try_from(step.max(1)).unwrap_or(i32::MAX);
            (1.0 / (1.0 - f64::from(beta).powi(exponent))) as f32
        };
        Self {
            first: of(beta1),
            second: of(beta2),
        }
    }
}

multiversion! {
    fn adam_step(
        rule: &Adam,
        correction: BiasCorrection,
        w: &mut [f32],
        g: &[f32],
        m: &mut [f32],
        v: &mut [f32],
    ) {
        let Adam { learning_rate, beta1, beta2, eps, weight_decay, decoupled } = *rule;
        let shrink = if decoupled { 1.0 - learning_rate * weight_decay } else { 1.0 };
        let penalty = if decoupled { 0.0 } else { weight_decay };
        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            let g = g + penalty * *w;
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            let root = (*v * correction.second).sqrt() + eps;
            *w = *w * shrink - learning_rate * (*m * correction.first) / root;
        }
    }
}
