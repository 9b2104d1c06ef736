//! The sum of a sample's feature vectors: `y = sum_f x[f]`.

use super::{
    operand::expect_float as expect,
    wide::{Wide, WideMut},
};
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
            let x = Wide::new(context, x.rows(rows.clone()));
            // SAFETY: panels are disjoint ranges of rows, one call each.
            let mut y = WideMut::new(context, unsafe { y.alias_rows(rows.clone()) });
            for row in 0..rows.len() {
                sum_row(x.view().row(row), y.view().row_mut(row));
            }
            y.store();
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
            let dy = Wide::new(context, dy.rows(rows.clone()));
            // SAFETY: panels are disjoint ranges of rows, one call each.
            let own = unsafe { dx.alias_rows(rows.clone()) };
            let mut dx = WideMut::keeping(context, own, accumulate);
            for row in 0..rows.len() {
                spread_row(dy.view().row(row), dx.view().row_mut(row), accumulate);
            }
            dx.store();
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
