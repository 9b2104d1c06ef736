//! Random operands, and comparisons.

pub use streamrec_emulation::values::{narrow, widen};
use streamrec_kernels::DType;

pub use crate::random::Random;

/// The types of a matrix of floats.
pub const FLOATS: [DType; 3] = [DType::F32, DType::Bf16, DType::F16];

impl Random {
    /// Numbers that `dtype` holds.
    pub fn floats_of(&mut self, len: usize, dtype: DType) -> Vec<f32> {
        let floats = self.floats(len);
        widen(&narrow(&floats, dtype), dtype)
    }
}

/// The largest relative error of one rounding.
pub fn epsilon(dtype: DType) -> f32 {
    match dtype {
        DType::Bf16 => 1.0 / 256.0,
        DType::F16 => 1.0 / 2048.0,
        _ => 1e-7,
    }
}

/// Asserts that numbers agree up to `tolerance`, as a share of the largest.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    let scale = expected.iter().fold(1e-3f32, |scale, x| scale.max(x.abs()));
    for (index, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let error = (got - expected).abs();
        assert!(
            error <= tolerance * scale,
            "{what}[{index}]: {got}, expected {expected}"
        );
    }
}
