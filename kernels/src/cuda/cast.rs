//! Rounding and widening of flat arrays.

use super::launch::{Address, Kernel, Launch, THREADS, blocks_for};
use crate::{
    error::{Error, Result},
    tensor::DType,
};

const OPERATION: &str = "cuda::cast";
pub(super) const KERNELS: &[&str] = &[
    "cast<float, bfloat16>",
    "cast<float, float16>",
    "cast<bfloat16, float>",
    "cast<float16, float>",
];

/// Elements of one thread.
const ELEMENTS: usize = 8;

/// `y = x`, both of `len` elements, rounded to nearest, ties to even.
///
/// # Errors
/// When none or both of the types are float32.
pub fn cast(x: (Address, DType), y: (Address, DType), len: usize) -> Result<Launch> {
    let name = match (x.1, y.1) {
        (DType::F32, DType::Bf16) => KERNELS[0],
        (DType::F32, DType::F16) => KERNELS[1],
        (DType::Bf16, DType::F32) => KERNELS[2],
        (DType::F16, DType::F32) => KERNELS[3],
        (_, got) => {
            return Err(Error::DType {
                operation: OPERATION,
                operand: "y",
                expected: DType::F32,
                got,
            });
        }
    };
    let blocks = blocks_for(len, THREADS as usize * ELEMENTS, 1 << 16);
    let kernel = Kernel::new("cast", name);
    Ok(Launch::new(kernel, blocks, THREADS)
        .with(x.0)
        .with(y.0)
        .with(len as i64))
}
