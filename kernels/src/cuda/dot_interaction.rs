//! Pairwise dot products of a sample's feature vectors: on tensor cores in half precision, where a sample
//! fits the shared memory of every GPU since sm_80.

use super::launch::{Kernel, Launch, Matrix, THREADS, blocks_for, count, expect_dtype, of_dtype};
use crate::{
    dot_interaction::output_columns,
    error::{Error, Result},
    ops::operand::expect_float,
    tensor::DType,
};

const FORWARD: [&str; 3] = [
    "dot_forward<float>",
    "dot_forward<bfloat16>",
    "dot_forward<float16>",
];
const BACKWARD: [&str; 3] = [
    "dot_backward<float>",
    "dot_backward<bfloat16>",
    "dot_backward<float16>",
];
const FORWARD_TILES: [&str; 2] = ["dot_forward_tiles<bfloat16>", "dot_forward_tiles<float16>"];
const BACKWARD_TILES: [&str; 2] = [
    "dot_backward_tiles<bfloat16>",
    "dot_backward_tiles<float16>",
];
pub(super) const KERNELS: &[&str] = &[
    FORWARD[0],
    FORWARD[1],
    FORWARD[2],
    BACKWARD[0],
    BACKWARD[1],
    BACKWARD[2],
    FORWARD_TILES[0],
    FORWARD_TILES[1],
    BACKWARD_TILES[0],
    BACKWARD_TILES[1],
];

const WARP: u32 = 32;
/// Rows and columns of a tile of the tensor cores, and elements between rows in shared memory.
const TILE: usize = 16;
const SKEW: usize = 8;
/// Rows of the gradient, and features of either side, that one thread takes together without tiles.
const SIDE: usize = 4;
/// Shared memory of a block, where that holds a warp's sample; up to the second, which all GPUs since sm_80
/// have, one warp gets what it needs.
const BLOCK_BYTES: usize = 48 << 10;
const WARP_BYTES_MAX: usize = 96 << 10;

/// The operands of [`forward`].
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// `[batch, features * dim]`, of any type.
    pub x: Matrix,
    /// Feature vectors of a sample.
    pub features: usize,
    /// Elements of a vector.
    pub dim: usize,
    /// Receives the first vector and the products, `[batch, dim + features * (features - 1) / 2]`.
    pub y: Matrix,
}

/// Writes each sample's first vector and its pairwise dot products.
///
/// # Errors
/// When the shapes do not fit.
pub fn forward(operands: &Forward) -> Result<Launch> {
    const OPERATION: &str = "cuda::dot_interaction::forward";
    let &Forward {
        x,
        features,
        dim,
        y,
    } = operands;
    let batch = check(OPERATION, [&x, &y], features, dim)?;
    let pairs = output_columns(features, 0);
    let bytes = x.dtype.bytes() * (sample_len(features, dim) + pairs.next_multiple_of(SKEW));
    let tiles = tiles_of(x.dtype, bytes);
    let kernel = match tiles {
        Some(half) => Kernel::new("dot_interaction", FORWARD_TILES[half]),
        None => of_dtype("dot_interaction", FORWARD, x.dtype),
    };
    let launch = per_warp(kernel, batch, tiles.map(|_| bytes))
        .with_matrix(&x)
        .with_matrix(&y)
        .with(batch)
        .with(features as u32)
        .with(dim as u32);
    Ok(match tiles {
        Some(_) => launch.with(bytes as u32),
        None => launch,
    })
}

/// The operands of [`backward`].
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// The forward call's.
    pub x: Matrix,
    /// Feature vectors of a sample.
    pub features: usize,
    /// Elements of a vector.
    pub dim: usize,
    /// The gradient of `y`, `[batch, dim + features * (features - 1) / 2]`.
    pub dy: Matrix,
    /// Receives the gradient of `x`, `[batch, features * dim]`.
    pub dx: Matrix,
    /// Add to `dx` instead of overwriting it.
    pub accumulate: bool,
}

/// The gradients of both parts of [`forward`]'s output, added up.
///
/// # Errors
/// When the shapes do not fit.
pub fn backward(operands: &Backward) -> Result<Launch> {
    const OPERATION: &str = "cuda::dot_interaction::backward";
    let &Backward {
        x,
        features,
        dim,
        dy,
        dx,
        accumulate,
    } = operands;
    let batch = check(OPERATION, [&x, &dy], features, dim)?;
    expect_float(OPERATION, "dx", &dx, x.shape)?;
    expect_dtype(OPERATION, "dx", &dx, x.dtype)?;
    let rows = features.next_multiple_of(TILE);
    let sums = TILE * (dim.next_multiple_of(TILE) + SKEW) * size_of::<f32>();
    let bytes = x.dtype.bytes() * (sample_len(features, dim) + rows * (rows + SKEW)) + sums;
    let tiles = tiles_of(x.dtype, bytes);
    let (kernel, lanes) = match tiles {
        Some(half) => (Kernel::new("dot_interaction", BACKWARD_TILES[half]), WARP),
        None => (
            of_dtype("dot_interaction", BACKWARD, x.dtype),
            super::embedding_bag::group_lanes(dim, x.dtype),
        ),
    };
    let launch = match tiles {
        Some(_) => per_warp(kernel, batch, Some(bytes)),
        None => {
            let units = batch as usize * features.div_ceil(SIDE);
            let blocks = blocks_for(units, (THREADS / lanes) as usize, 1 << 20);
            Launch::new(kernel, blocks, THREADS)
        }
    };
    let launch = launch
        .with_matrix(&x)
        .with_matrix(&dy)
        .with_matrix(&dx)
        .with(batch)
        .with(features as u32)
        .with(dim as u32)
        .with(u32::from(accumulate));
    Ok(match tiles {
        Some(_) => launch.with(bytes as u32),
        None => launch.with(lanes),
    })
}

/// Elements of a sample in shared memory.
fn sample_len(features: usize, dim: usize) -> usize {
    features.next_multiple_of(TILE) * (dim.next_multiple_of(TILE) + SKEW)
}

/// Which of the kernels on tensor cores takes a sample that needs `bytes` of shared memory.
fn tiles_of(dtype: DType, bytes: usize) -> Option<usize> {
    let half = match dtype {
        DType::Bf16 => 0,
        DType::F16 => 1,
        _ => return None,
    };
    (bytes <= WARP_BYTES_MAX).then_some(half)
}

/// A launch with a warp a sample, of which each needs so many bytes of shared memory.
fn per_warp(kernel: Kernel, batch: u32, bytes: Option<usize>) -> Launch {
    let most = (THREADS / WARP) as usize;
    let warps = bytes.map_or(most, |bytes| (BLOCK_BYTES / bytes).clamp(1, most));
    let blocks = blocks_for(batch as usize, warps, 1 << 20);
    Launch::new(kernel, blocks, warps as u32 * WARP).with_shared(warps * bytes.unwrap_or(0))
}

/// Checks the input and the output, or its gradient; returns the samples.
fn check(
    operation: &'static str,
    [x, y]: [&Matrix; 2],
    features: usize,
    dim: usize,
) -> Result<u32> {
    let batch = x.shape[0];
    if features == 0 || dim == 0 {
        return Err(Error::Shape {
            operation,
            operand: "x",
            expected: vec![batch, features.max(1), dim.max(1)],
            got: vec![batch, features, dim],
        });
    }
    expect_float(operation, "x", x, [batch, features * dim])?;
    expect_float(operation, "y", y, [batch, output_columns(features, dim)])?;
    expect_dtype(operation, "y", y, x.dtype)?;
    count(
        operation,
        "a sample has fewer than 2^31 elements",
        features * dim,
    )?;
    count(
        operation,
        "a sample has fewer than 2^31 pairs",
        features * features,
    )?;
    count(operation, "a batch has fewer than 2^31 samples", batch)
}
