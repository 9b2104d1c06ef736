//! Copies, additions and broadcasts of matrices, and sums of feature vectors. Operands may differ in their
//! types where one is float32: a copy converts.

use super::{
    embedding_bag::group_lanes,
    launch::{
        Address, Kernel, Launch, Matrix, THREADS, blocks_for, count, expect_dtype, of_pair, per_row,
    },
};
use crate::{
    error::{Error, Result},
    ops::operand::expect_float,
    tensor::DType,
};

pub(super) const KERNELS: &[&str] = &[
    "add<float, float>",
    "add<bfloat16, bfloat16>",
    "add<float16, float16>",
    "add<bfloat16, float>",
    "add<float16, float>",
    "add<float, bfloat16>",
    "add<float, float16>",
    "repeat<float, float>",
    "repeat<bfloat16, bfloat16>",
    "repeat<float16, float16>",
    "repeat<bfloat16, float>",
    "repeat<float16, float>",
    "repeat<float, bfloat16>",
    "repeat<float, float16>",
    "broadcast<float, float>",
    "broadcast<bfloat16, bfloat16>",
    "broadcast<float16, float16>",
    "broadcast<bfloat16, float>",
    "broadcast<float16, float>",
    "broadcast<float, bfloat16>",
    "broadcast<float, float16>",
    "sum_columns<float, float>",
    "sum_columns<bfloat16, bfloat16>",
    "sum_columns<float16, float16>",
    "sum_columns<bfloat16, float>",
    "sum_columns<float16, float>",
    "sum_columns<float, bfloat16>",
    "sum_columns<float, float16>",
    "add_mean<float, float>",
    "add_mean<bfloat16, bfloat16>",
    "add_mean<float16, float16>",
    "add_mean<bfloat16, float>",
    "add_mean<float16, float>",
    "add_mean<float, bfloat16>",
    "add_mean<float, float16>",
    "sum_halves<2>",
    "sum_halves<4>",
    "sum_halves<8>",
];
const ADD: usize = 0;
const REPEAT: usize = 7;
const BROADCAST: usize = 14;
const SUM_COLUMNS: usize = 21;
const ADD_MEAN: usize = 28;
const SUM_HALVES: usize = 35;

/// `y = x`, or `y += x` with `accumulate`, both `[batch, columns]`.
///
/// # Errors
/// When the shapes differ, or neither type is float32 and they differ.
pub fn copy(x: &Matrix, y: &Matrix, accumulate: bool) -> Result<Launch> {
    sum_features(x, 1, y, accumulate)
}

/// `y (+)= sum over features of x`, `x: [batch, features * dim]`, `y: [batch, dim]`.
///
/// # Errors
/// As [`copy`].
pub fn sum_features(x: &Matrix, features: usize, y: &Matrix, accumulate: bool) -> Result<Launch> {
    const OPERATION: &str = "cuda::add::sum_features";
    let [batch, dim] = y.shape;
    expect_float(OPERATION, "x", x, [batch, features * dim])?;
    let kernel = kernel(OPERATION, ADD, x, y)?;
    let rows = per_row(OPERATION, kernel, y.shape, smaller(x, y))?;
    count(
        OPERATION,
        "there are fewer than 2^31 columns",
        features * dim,
    )?;
    Ok(rows
        .launch
        .with_matrix(x)
        .with_matrix(y)
        .with(rows.rows)
        .with(rows.columns)
        .with(features as u32)
        .with(u32::from(accumulate))
        .with(rows.lanes))
}

/// `y (+)= x / len`, both `[batch, columns]`, where `len` is the length of each sample's bag, at least 1:
/// sums over parts of bags become parts of their means, and gradients of means those of sums. `offsets: [batch + 1]` of
/// `i64`.
///
/// # Errors
/// As [`copy`].
pub fn copy_mean(x: &Matrix, y: &Matrix, offsets: Address, accumulate: bool) -> Result<Launch> {
    const OPERATION: &str = "cuda::add::copy_mean";
    expect_float(OPERATION, "x", x, y.shape)?;
    let kernel = kernel(OPERATION, ADD_MEAN, x, y)?;
    let rows = per_row(OPERATION, kernel, y.shape, smaller(x, y))?;
    Ok(rows
        .launch
        .with_matrix(x)
        .with_matrix(y)
        .with(offsets)
        .with(rows.rows)
        .with(rows.columns)
        .with(u32::from(accumulate))
        .with(rows.lanes))
}

/// `y[f] (+)= x` for each feature, `x: [batch, dim]`, `y: [batch, features * dim]`: the gradient of
/// [`sum_features`].
///
/// # Errors
/// As [`copy`].
pub fn repeat(x: &Matrix, features: usize, y: &Matrix, accumulate: bool) -> Result<Launch> {
    const OPERATION: &str = "cuda::add::repeat";
    let [batch, dim] = x.shape;
    expect_float(OPERATION, "y", y, [batch, features * dim])?;
    let kernel = kernel(OPERATION, REPEAT, x, y)?;
    let rows = per_row(OPERATION, kernel, x.shape, smaller(x, y))?;
    count(
        OPERATION,
        "there are fewer than 2^31 columns",
        features * dim,
    )?;
    Ok(rows
        .launch
        .with_matrix(x)
        .with_matrix(y)
        .with(rows.rows)
        .with(rows.columns)
        .with(features as u32)
        .with(u32::from(accumulate))
        .with(rows.lanes))
}

/// `y (+)= x` repeated over the columns, `x: [batch, 1]`, `y: [batch, columns]`.
///
/// # Errors
/// As [`copy`].
pub fn broadcast(x: &Matrix, y: &Matrix, accumulate: bool) -> Result<Launch> {
    const OPERATION: &str = "cuda::add::broadcast";
    expect_float(OPERATION, "x", x, [y.shape[0], 1])?;
    let kernel = kernel(OPERATION, BROADCAST, x, y)?;
    let rows = per_row(OPERATION, kernel, y.shape, y.dtype)?;
    Ok(rows
        .launch
        .with_matrix(x)
        .with_matrix(y)
        .with(rows.rows)
        .with(rows.columns)
        .with(u32::from(accumulate))
        .with(rows.lanes))
}

/// The gradient of [`broadcast`]: `dx (+)= sum of dy's columns`, `dy: [batch, columns]`, `dx: [batch, 1]`.
///
/// # Errors
/// As [`copy`].
pub fn broadcast_backward(dy: &Matrix, dx: &Matrix, accumulate: bool) -> Result<Launch> {
    const OPERATION: &str = "cuda::add::broadcast_backward";
    let [batch, columns] = dy.shape;
    expect_float(OPERATION, "dx", dx, [batch, 1])?;
    let kernel = kernel(OPERATION, SUM_COLUMNS, dy, dx)?;
    let lanes = group_lanes(columns, dy.dtype);
    let blocks = blocks_for(batch, (THREADS / lanes) as usize, 1 << 20);
    Ok(Launch::new(kernel, blocks, THREADS)
        .with_matrix(dy)
        .with_matrix(dx)
        .with(count(
            OPERATION,
            "a batch has fewer than 2^31 samples",
            batch,
        )?)
        .with(count(
            OPERATION,
            "there are fewer than 2^31 columns",
            columns,
        )?)
        .with(u32::from(accumulate))
        .with(lanes))
}

/// `y = ((x0 + x1) + (x2 + x3)) + ...`, the sum of 2, 4 or 8 rows of `x: [rows, len]` by halves, float32; `y: [len]` may be
/// one of them.
///
/// # Errors
/// When there are other numbers of rows, or rows do not follow each other.
pub fn sum_halves(x: &Matrix, y: Address) -> Result<Launch> {
    const OPERATION: &str = "cuda::add::sum_halves";
    let [rows, len] = x.shape;
    expect_dtype(OPERATION, "x", x, DType::F32)?;
    if ![2, 4, 8].contains(&rows) || x.row_stride != len {
        return Err(Error::Shape {
            operation: OPERATION,
            operand: "x",
            expected: vec![8, len],
            got: vec![rows, x.row_stride],
        });
    }
    let kernel = Kernel::new("add", KERNELS[SUM_HALVES + rows.ilog2() as usize - 1]);
    let blocks = blocks_for(len, 4 * THREADS as usize, 1 << 14);
    Ok(Launch::new(kernel, blocks, THREADS)
        .with(x.address)
        .with(len as i64)
        .with(y))
}

fn kernel(operation: &'static str, first: usize, x: &Matrix, y: &Matrix) -> Result<Kernel> {
    let pair = of_pair(operation, "y", x.dtype, y.dtype)?;
    Ok(Kernel::new("add", KERNELS[first + pair]))
}

/// The type with more elements in a vector.
fn smaller(x: &Matrix, y: &Matrix) -> DType {
    if x.dtype.is_half() { x.dtype } else { y.dtype }
}
