//! Copies, additions and broadcasts of matrices whose rows may be strided. Operands may differ in
//! their types: a copy converts.

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
const PANEL_ROWS: usize = 64;

/// `y = x`, both `[batch, columns]`.
///
/// # Errors
/// When the shapes differ.
pub fn copy(context: &Context, x: TensorRef<'_>, y: TensorMut<'_>) -> Result<()> {
    const OPERATION: &str = "add::copy";
    expect(OPERATION, "x", &x, y.shape())?;
    expect(OPERATION, "y", &y, y.shape())?;
    for_each_row(context, x, y, false, |x, y| y.copy_from_slice(x));
    Ok(())
}

/// `y += x`, both `[batch, columns]`.
///
/// # Errors
/// When the shapes differ.
pub fn accumulate(context: &Context, x: TensorRef<'_>, y: TensorMut<'_>) -> Result<()> {
    const OPERATION: &str = "add::accumulate";
    expect(OPERATION, "x", &x, y.shape())?;
    expect(OPERATION, "y", &y, y.shape())?;
    for_each_row(context, x, y, true, add_row);
    Ok(())
}

/// `y (+)= x` repeated over the columns, with `x: [batch, 1]`, `y: [batch, columns]`.
///
/// # Errors
/// When the batches differ.
pub fn broadcast(
    context: &Context,
    x: TensorRef<'_>,
    y: TensorMut<'_>,
    accumulate: bool,
) -> Result<()> {
    const OPERATION: &str = "add::broadcast";
    expect(OPERATION, "x", &x, [y.shape()[0], 1])?;
    expect(OPERATION, "y", &y, y.shape())?;
    for_each_row(context, x, y, accumulate, |x, y| {
        if accumulate {
            y.iter_mut().for_each(|y| *y += x[0]);
        } else {
            y.fill(x[0]);
        }
    });
    Ok(())
}

/// The gradient of [`broadcast`]: `dx (+)= sum of dy's columns`, with `dy: [batch, columns]`,
/// `dx: [batch, 1]`.
///
/// # Errors
/// When the batches differ.
pub fn broadcast_backward(
    context: &Context,
    dy: TensorRef<'_>,
    dx: TensorMut<'_>,
    accumulate: bool,
) -> Result<()> {
    const OPERATION: &str = "add::broadcast_backward";
    expect(OPERATION, "dy", &dy, dy.shape())?;
    expect(OPERATION, "dx", &dx, [dy.shape()[0], 1])?;
    for_each_row(context, dy, dx, accumulate, |dy, dx| {
        let sum: f32 = dy.iter().sum();
        dx[0] = if accumulate { dx[0] + sum } else { sum };
    });
    Ok(())
}

/// `keep` tells that `work` reads what is in `y`.
fn for_each_row(
    context: &Context,
    x: TensorRef<'_>,
    y: TensorMut<'_>,
    keep: bool,
    work: impl Fn(&[f32], &mut [f32]) + Sync + Send,
) {
    match context.device() {
        Device::Cpu => context.for_each_panel(y.shape()[0], PANEL_ROWS, |rows| {
            let x = Wide::new(context, x.rows(rows.clone()));
            // SAFETY: panels are disjoint ranges of rows, one call each.
            let mut y = WideMut::keeping(context, unsafe { y.alias_rows(rows.clone()) }, keep);
            let (from, mut into) = (x.view(), y.view());
            for row in 0..rows.len() {
                work(from.row(row), into.row_mut(row));
            }
            y.store();
        }),
    }
}

multiversion! {
    fn add_row(x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
    }
}
