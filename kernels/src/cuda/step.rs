//! The numbers of a step, in device memory, and the dynamic scaling of the loss on the device.

use bytemuck::{Pod, Zeroable};

use super::launch::{Address, Kernel, Launch};
use crate::ops::dense_optimizer::BiasCorrection;

pub(super) const KERNELS: &[&str] = &["begin_step", "judge", "note"];

/// What kernels read of the step at hand, in device memory, so that a captured graph needs no new
/// arguments. `streamrec.cuh` has the same.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Step {
    /// The learning rate of dense parameters.
    pub learning_rate: f32,
    /// The learning rate of tables.
    pub sparse_learning_rate: f32,
    /// 1 / loss scale; a power of two.
    pub inverse_scale: f32,
    /// The factor of dense gradients that clips their norm; 1 for none.
    pub clip: f32,
    /// Counts from 1.
    pub number: u64,
    /// Of stochastic rounding.
    pub seed: u64,
    /// Not 0: gradients overflowed on some rank, and nothing is updated.
    pub skip: u32,
    /// Set to 1 by kernels that see a gradient that is not finite.
    pub overflow: u32,
    /// `1 / (1 - beta1^number)` of dense parameters.
    pub first_correction: f32,
    /// `1 / (1 - beta2^number)` of dense parameters.
    pub second_correction: f32,
    /// `1 / (1 - beta1^number)` of tables.
    pub sparse_first_correction: f32,
    /// `1 / (1 - beta2^number)` of tables.
    pub sparse_second_correction: f32,
}

/// What the host gives each step, in device memory. `step.cu` has the same.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct StepInput {
    /// The learning rate of dense parameters.
    pub learning_rate: f32,
    /// The learning rate of tables.
    pub sparse_learning_rate: f32,
    /// Counts from 1, skipped steps too.
    pub number: u64,
    /// Of stochastic rounding.
    pub seed: u64,
}

/// The dynamic loss scale, in device memory. `step.cu` has the same.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Scaler {
    /// The factor on the loss; 1 without scaling.
    pub scale: f64,
    /// The largest one.
    pub scale_max: f64,
    /// Clean steps after which the scale doubles; 0 for a scale that stays.
    pub growth_steps: u64,
    /// Clean steps since the scale changed.
    pub clean_steps: u64,
    /// Steps that updated nothing, of the whole run.
    pub skipped_steps: u64,
}

/// What became of a step, in device memory. `step.cu` has the same.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Verdict {
    /// The norm of the dense gradients, unscaled, before clipping.
    pub norm: f64,
    /// The step's number.
    pub number: u64,
    /// 1: a gradient of some rank was not finite, and nothing was updated.
    pub skipped: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Step>() == 56 && size_of::<StepInput>() == 24);
const _: () = assert!(size_of::<Scaler>() == 40 && size_of::<Verdict>() == 24);

impl Step {
    /// A step without loss scaling or clipping, of rules that all have the same `betas`.
    pub fn new(learning_rate: f32, number: u64, betas: [f32; 2]) -> Self {
        let correction = BiasCorrection::new(betas[0], betas[1], number);
        Self {
            learning_rate,
            sparse_learning_rate: learning_rate,
            inverse_scale: 1.0,
            clip: 1.0,
            number,
            seed: 0,
            skip: 0,
            overflow: 0,
            first_correction: correction.first,
            second_correction: correction.second,
            sparse_first_correction: correction.first,
            sparse_second_correction: correction.second,
        }
    }
}

/// Writes the numbers of a step from what the host gave and where the scale stands. `input: [1]` of
/// [`StepInput`], `scaler: [1]` of [`Scaler`], `step: [1]` of [`Step`]; `betas` are those of dense parameters,
/// then of tables.
pub fn begin(input: Address, scaler: Address, betas: [[f32; 2]; 2], step: Address) -> Launch {
    let [dense, sparse] = betas;
    Launch::new(Kernel::new("step", KERNELS[0]), 1, 1)
        .with(input)
        .with(scaler)
        .with(dense[0])
        .with(dense[1])
        .with(sparse[0])
        .with(sparse[1])
        .with(step)
}

/// Decides, once `squares: [2]` of `f64`, `loss: [1]` of `f64` and the step's `overflow` are those of all ranks, whether
/// the step is skipped, how gradients are clipped, and the scale of the next step. `verdict: [1]` of [`Verdict`].
pub fn judge(
    squares: Address,
    loss: Address,
    clip_norm: Option<f64>,
    scaler: Address,
    step: Address,
    verdict: Address,
) -> Launch {
    Launch::new(Kernel::new("step", KERNELS[1]), 1, 1)
        .with(squares)
        .with(loss)
        .with(clip_norm.unwrap_or(-1.0))
        .with(scaler)
        .with(step)
        .with(verdict)
}

/// Writes a number to `at: [1]` of `u32`, which may be memory of the host that the device sees.
pub fn note(at: Address, number: u32) -> Launch {
    Launch::new(Kernel::new("step", KERNELS[2]), 1, 1)
        .with(at)
        .with(number)
}
