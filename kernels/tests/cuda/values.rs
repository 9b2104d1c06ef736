//! Random operands, and conversions between the types of elements.

use bytemuck::Pod;
use streamrec_kernels::{DType, bf16, f16};

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

/// Rounds to nearest, ties to even.
pub fn narrow(values: &[f32], dtype: DType) -> Vec<u8> {
    let of = |bits: &dyn Fn(f32) -> Vec<u8>| values.iter().flat_map(|&x| bits(x)).collect();
    match dtype {
        DType::Bf16 => of(&|x| bf16::from_f32(x).to_le_bytes().to_vec()),
        DType::F16 => of(&|x| f16::from_f32(x).to_le_bytes().to_vec()),
        _ => of(&|x| x.to_le_bytes().to_vec()),
    }
}

/// Plain values, from bytes that may lie anywhere.
pub fn read<T: Pod>(bytes: &[u8]) -> Vec<T> {
    bytes
        .chunks_exact(size_of::<T>())
        .map(bytemuck::pod_read_unaligned)
        .collect()
}

pub fn widen(bytes: &[u8], dtype: DType) -> Vec<f32> {
    let pairs = || bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    match dtype {
        DType::Bf16 => pairs()
            .map(|pair| bf16::from_le_bytes(pair).to_f32())
            .collect(),
        DType::F16 => pairs()
            .map(|pair| f16::from_le_bytes(pair).to_f32())
            .collect(),
        _ => read(bytes),
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
