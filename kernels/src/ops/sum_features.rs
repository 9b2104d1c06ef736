//! The sum of a sample's feature vectors: `y = sum_f x[f]`.

use super::operand::expect;
use crate::{
    device::{Context, Device},
    error::Result,
    simd::multiversion,
    tensor::{TensorMut, TensorRef},
};

/// Samples of one parallel task.
const PANEL_ROWS: usize = 128;

/// `x: [batch, features * dim]`, `y: [batch, dim]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn forward(
    context: &Context,
    x: TensorRef<'_>,
    features: usize,
    dim: usize,
    y: TensorMut<'_>,
) -> Result<()> {
    const OPERATION: &str = "sum_features::forward";
    let batch = x.shape()[0];
    expect(OPERATION, "x", &x, [batch, features * dim])?;
    expect(OPERATION, "y", &y, [batch, dim])?;
    match context.device() {
        Device::Cpu => context.for_each_panel(batch, PANEL_ROWS, |rows| {
            // SAFETY: panels are disjoint ranges of rows, one call each.
            let mut y = unsafe { y.alias_rows(rows.clone()) };
            for (index, row) in rows.enumerate() {
                sum_row(x.row(row), y.row_mut(index));
            }
        }),
    }
    Ok(())
}

multiversion! {
    fn sum_row(x: &[f32], y: &mut [f32]) {
        y.fill(0.0);
        for x in x.chunks_exact(y.len().max(1)) {
            y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
        }
    }
}

/// `dx[f] (+)= dy`, with `dy: [batch, dim]`, `dx: [batch, features * dim]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn backward(
    context: &Context,
    features: usize,
    dim: usize,
    dy: TensorRef<'_>,
    dx: TensorMut<'_>,
    accumulate: bool,
) -> Result<()> {
    const OPERATION: &str = "sum_features::backward";
    let batch = dy.shape()[0];
    expect(OPERATION, "dy", &dy, [batch, dim])?;
    expect(OPERATION, "dx", &dx, [batch, features * dim])?;
    match context.device() {
        Device::Cpu => context.for_each_panel(batch, PANEL_ROWS, |rows| {
            // SAFETY: panels are disjoint ranges of rows, one call each.
            let mut dx = unsafe { dx.alias_rows(rows.clone()) };
            for (index, row) in rows.enumerate() {
                spread_row(dy.row(row), dx.row_mut(index), accumulate);
            }
        }),
    }
    Ok(())
}

multiversion! {
    fn spread_row(dy: &[f32], dx: &mut [f32], accumulate: bool) {
        for dx in dx.chunks_exact_mut(dy.len().max(1)) {
            if accumulate {
                dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy);
            } else {
                dx.copy_from_slice(dy);
            }
        }
    }
}
