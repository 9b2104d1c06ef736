use bytemuck::{Pod, Zeroable};

use crate::ops::dense_optimizer::BiasCorrection;

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
    /// `1 / (1 - beta1^number)`.
    pub first_correction: f32,
    /// `1 / (1 - beta2^number)`.
    pub second_correction: f32,
}

const _: () = assert!(size_of::<Step>() == 48);

impl Step {
    /// A step without loss scaling or clipping.
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
        }
    }
}
