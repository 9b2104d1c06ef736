//! The elementwise part of a cross layer, for the full and for the low-rank form.

use super::launch::{Launch, Matrix, expect_all, of_dtype, per_row};
use crate::error::Result;

const FORWARD: [&str; 3] = [
    "cross_forward<float>",
    "cross_forward<bfloat16>",
    "cross_forward<float16>",
];
const BACKWARD: [&str; 3] = [
    "cross_backward<float>",
    "cross_backward<bfloat16>",
    "cross_backward<float16>",
];
pub(super) const KERNELS: &[&str] = &[
    FORWARD[0],
    FORWARD[1],
    FORWARD[2],
    BACKWARD[0],
    BACKWARD[1],
    BACKWARD[2],
];

/// `y = x0 * projection + x`, all `[batch, columns]` of one type.
///
/// # Errors
/// When the shapes or types differ.
pub fn combine_forward(x0: &Matrix, projection: &Matrix, x: &Matrix, y: &Matrix) -> Result<Launch> {
    const OPERATION: &str = "cuda::cross::combine_forward";
    let operands = [("x0", x0), ("projection", projection), ("x", x), ("y", y)];
    expect_all(OPERATION, y, &operands)?;
    let kernel = of_dtype("cross", FORWARD, y.dtype);
    let rows = per_row(OPERATION, kernel, y.shape, y.dtype)?;
    let launch = operands.iter().fold(rows.launch, |launch, (_, matrix)| {
        launch.with_matrix(matrix)
    });
    Ok(launch.with(rows.rows).with(rows.columns).with(rows.lanes))
}

/// The operands of [`combine_backward`], all `[batch, columns]` of one type.
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// The forward call's.
    pub x0: Matrix,
    /// The forward call's.
    pub projection: Matrix,
    /// The gradient of `y`.
    pub dy: Matrix,
    /// Receives the gradient of the projection.
    pub d_projection: Matrix,
    /// Receives the gradient of `x0`.
    pub dx0: Matrix,
    /// Add to `dx0` instead of overwriting it.
    pub accumulate_dx0: bool,
    /// Receives the gradient of `x`, as far as it does not come through the projection.
    pub dx: Matrix,
    /// Add to `dx` instead of overwriting it.
    pub accumulate_dx: bool,
}

/// `d_projection = dy * x0`, `dx0 (+)= dy * projection`, `dx (+)= dy`.
///
/// # Errors
/// When the shapes or types differ.
pub fn combine_backward(operands: &Backward) -> Result<Launch> {
    const OPERATION: &str = "cuda::cross::combine_backward";
    let Backward { dy, .. } = operands;
    let matrices = [
        ("x0", &operands.x0),
        ("projection", &operands.projection),
        ("dy", dy),
        ("d_projection", &operands.d_projection),
        ("dx0", &operands.dx0),
        ("dx", &operands.dx),
    ];
    expect_all(OPERATION, dy, &matrices)?;
    let kernel = of_dtype("cross", BACKWARD, dy.dtype);
    let rows = per_row(OPERATION, kernel, dy.shape, dy.dtype)?;
    let launch = matrices.iter().fold(rows.launch, |launch, (_, matrix)| {
        launch.with_matrix(matrix)
    });
    let accumulate = u32::from(operands.accumulate_dx0) | u32::from(operands.accumulate_dx) << 1;
    Ok(launch
        .with(rows.rows)
        .with(rows.columns)
        .with(accumulate)
        .with(rows.lanes))
}
