//! Conversions between the types of elements.

use bytemuck::Pod;
use streamrec_kernels::{DType, bf16, f16};

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

/// The numbers that bytes of a type are.
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
