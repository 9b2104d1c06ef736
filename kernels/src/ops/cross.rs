//! The elementwise part of a cross layer (DCN-v2, <https://arxiv.org/abs/2008.13535>):
//! `y = x0 * projection + x`.
//!
//! The projection is `W x + b`, or in the low-rank form `W (V x) + b` with nothing between the two
//! products; both are [`linear`](crate::linear) layers.

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
const PANEL_ROWS: usize = 16;

/// `y = x0 * projection + x`, all `[batch, columns]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn combine_forward(
    context: &Context,
    x0: TensorRef<'_>,
    projection: TensorRef<'_>,
    x: TensorRef<'_>,
    y: TensorMut<'_>,
) -> Result<()> {
    const OPERATION: &str = "cross::combine_forward";
    let shape = y.shape();
    expect(OPERATION, "x0", &x0, shape)?;
    expect(OPERATION, "projection", &projection, shape)?;
    expect(OPERATION, "x", &x, shape)?;
    expect(OPERATION, "y", &y, shape)?;
    match context.device() {
        Device::Cpu => context.for_each_panel(shape[0], PANEL_ROWS, |rows| {
            let [x0, projection, x] =
                [x0, projection, x].map(|view| Wide::new(context, view.rows(rows.clone())));
            // SAFETY: panels are disjoint ranges of rows, one call each.
            let mut y = WideMut::new(context, unsafe { y.alias_rows(rows.clone()) });
            let (x0, projection, x) = (x0.view(), projection.view(), x.view());
            let mut out = y.view();
            for row in 0..rows.len() {
                combine_row(
                    x0.row(row),
                    projection.row(row),
                    x.row(row),
                    out.row_mut(row),
                );
            }
            y.store();
        }),
    }
    Ok(())
}

multiversion! {
    fn combine_row(x0: &[f32], projection: &[f32], x: &[f32], y: &mut [f32]) {
        for (((y, x0), projection), x) in y.iter_mut().zip(x0).zip(projection).zip(x) {
            *y = x0 * projection + x;
        }
    }
}

/// `d_projection = dy * x0`, `dx0 (+)= dy * projection`, `dx (+)= dy`, all `[batch, columns]`.
///
/// # Errors
/// When the shapes do not fit.
#[allow(clippy::too_many_arguments)] // The operands of one formula.
pub fn combine_backward(
    context: &Context,
    x0: TensorRef<'_>,
    projection: TensorRef<'_>,
    dy: TensorRef<'_>,
    d_projection: TensorMut<'_>,
    dx0: TensorMut<'_>,
    accumulate_dx0: bool,
    dx: TensorMut<'_>,
    accumulate_dx: bool,
) -> Result<()> {
    const OPERATION: &str = "cross::combine_backward";
    let shape = dy.shape();
    expect(OPERATION, "x0", &x0, shape)?;
    expect(OPERATION, "projection", &projection, shape)?;
    expect(OPERATION, "dy", &dy, shape)?;
    expect(OPERATION, "d_projection", &d_projection, shape)?;
    expect(OPERATION, "dx0", &dx0, shape)?;
    expect(OPERATION, "dx", &dx, shape)?;
    match context.device() {
        Device::Cpu => context.for_each_panel(shape[0], PANEL_ROWS, |rows| {
            let [x0, projection, dy] =
                [x0, projection, dy].map(|view| Wide::new(context, view.rows(rows.clone())));
            // SAFETY: panels are disjoint ranges of rows, one call each.
            let own = unsafe { d_projection.alias_rows(rows.clone()) };
            let mut d_projection = WideMut::new(context, own);
            // SAFETY: as above.
            let own = unsafe { dx0.alias_rows(rows.clone()) };
            let mut dx0 = WideMut::keeping(context, own, accumulate_dx0);
            // SAFETY: as above.
            let own = unsafe { dx.alias_rows(rows.clone()) };
            let mut dx = WideMut::keeping(context, own, accumulate_dx);
            let (x0, projection, dy) = (x0.view(), projection.view(), dy.view());
            for row in 0..rows.len() {
                let dy = dy.row(row);
                product(dy, x0.row(row), false, d_projection.view().row_mut(row));
                product(
                    dy,
                    projection.row(row),
                    accumulate_dx0,
                    dx0.view().row_mut(row),
                );
                let mut dx = dx.view();
                let dx = dx.row_mut(row);
                if accumulate_dx {
                    dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy);
                } else {
                    dx.copy_from_slice(dy);
                }
            }
            d_projection.store();
            dx0.store();
            dx.store();
        }),
    }
    Ok(())
}

multiversion! {
    fn product(a: &[f32], b: &[f32], accumulate: bool, out: &mut [f32]) {
        if accumulate {
            out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out += a * b);
        } else {
            out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = a * b);
        }
    }
}
