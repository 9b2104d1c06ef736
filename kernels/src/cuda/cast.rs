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
    "largest",
    "narrow_scaled",
    "widen_scaled",
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
    Ok(flat(name, len).with(x.0).with(y.0).with(len as i64))
}

/// Finds the largest finite absolute value of `x: [len]` of `f32`: `top: [1]` of `u32`, zero before, becomes its bits.
pub fn largest(x: Address, len: usize, top: Address) -> Launch {
    flat(KERNELS[4], len).with(x).with(len as i64).with(top)
}

/// `y = x` times a power of two, `x: [len]` of `f32`, `y: [len]` of IEEE binary16: the power brings the [`largest`] to half
/// of what binary16 can hold. `inverse: [1]` of `f32` receives its inverse.
pub fn narrow_scaled(x: Address, y: Address, len: usize, [top, inverse]: [Address; 2]) -> Launch {
    let launch = flat(KERNELS[5], len).with(x).with(y).with(len as i64);
    launch.with(top).with(inverse)
}

/// `y = x` times `inverse: [1]` of `f32`, `x: [len]` of IEEE binary16, `y: [len]` of `f32`.
pub fn widen_scaled(x: Address, y: Address, len: usize, inverse: Address) -> Launch {
    let launch = flat(KERNELS[6], len).with(x).with(y).with(len as i64);
    launch.with(inverse)
}

/// A launch over a flat array.
fn flat(name: &'static str, len: usize) -> Launch {
    let blocks = blocks_for(len, THREADS as usize * ELEMENTS, 1 << 16);
    Launch::new(Kernel::new("cast", name), blocks, THREADS)
}
