//! The second-order term of a factorization machine.

use super::{
    embedding_bag::group_lanes,
    launch::{Kernel, Launch, Matrix, THREADS, blocks_for, count, expect_dtype, of_pair},
};
use crate::{error::Result, ops::operand::expect_float};

pub(super) const KERNELS: &[&str] = &[
    "factorization_machine_forward<float, float>",
    "factorization_machine_forward<bfloat16, bfloat16>",
    "factorization_machine_forward<float16, float16>",
    "factorization_machine_forward<bfloat16, float>",
    "factorization_machine_forward<float16, float>",
    "factorization_machine_backward<float, float>",
    "factorization_machine_backward<bfloat16, bfloat16>",
    "factorization_machine_backward<float16, float16>",
    "factorization_machine_backward<bfloat16, float>",
    "factorization_machine_backward<float16, float>",
];

/// Pairs of types that there are kernels for.
const PAIRS: usize = 5;

/// `y = 0.5 * sum_d ((sum_f v)^2 - sum_f v^2)`, `x: [batch, features * dim]`, `y: [batch, 1]` of the type of `x`
/// or float32.
///
/// # Errors
/// When the shapes do not fit, or there is no kernel for the types.
pub fn forward(x: &Matrix, features: usize, dim: usize, y: &Matrix) -> Result<Launch> {
    const OPERATION: &str = "cuda::factorization_machine::forward";
    let (launch, lanes, batch) = per_sample(OPERATION, 0, x, ("y", y), features, dim)?;
    Ok(launch
        .with_matrix(x)
        .with_matrix(y)
        .with(batch)
        .with(features as u32)
        .with(dim as u32)
        .with(lanes))
}

/// `dx[f] (+)= dy * (sum of v - v[f])`, `x, dx: [batch, features * dim]`, `dy: [batch, 1]` of the type of `x`
/// or float32.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    x: &Matrix,
    features: usize,
    dim: usize,
    dy: &Matrix,
    dx: &Matrix,
    accumulate: bool,
) -> Result<Launch> {
    const OPERATION: &str = "cuda::factorization_machine::backward";
    let (launch, lanes, batch) = per_sample(OPERATION, PAIRS, x, ("dy", dy), features, dim)?;
    expect_float(OPERATION, "dx", dx, x.shape)?;
    expect_dtype(OPERATION, "dx", dx, x.dtype)?;
    Ok(launch
        .with_matrix(x)
        .with_matrix(dy)
        .with_matrix(dx)
        .with(batch)
        .with(features as u32)
        .with(dim as u32)
        .with(u32::from(accumulate))
        .with(lanes))
}

/// A launch of one of the kernels from `first` on, with a group of lanes a sample.
fn per_sample(
    operation: &'static str,
    first: usize,
    x: &Matrix,
    (name, y): (&'static str, &Matrix),
    features: usize,
    dim: usize,
) -> Result<(Launch, u32, u32)> {
    let batch = x.shape[0];
    expect_float(operation, "x", x, [batch, features * dim])?;
    expect_float(operation, name, y, [batch, 1])?;
    let samples = count(operation, "a batch has fewer than 2^31 samples", batch)?;
    count(
        operation,
        "a sample has fewer than 2^31 elements",
        features * dim,
    )?;
    let kernel = of_pair(operation, name, x.dtype, y.dtype)?;
    if kernel >= PAIRS {
        // A sum in half precision of float32 vectors: nobody asks for it.
        expect_dtype(operation, name, y, x.dtype)?;
    }
    let lanes = group_lanes(dim, x.dtype);
    let blocks = blocks_for(batch, (THREADS / lanes) as usize, 1 << 20);
    let kernel = Kernel::new("factorization_machine", KERNELS[first + kernel]);
    Ok((Launch::new(kernel, blocks, THREADS), lanes, samples))
}
