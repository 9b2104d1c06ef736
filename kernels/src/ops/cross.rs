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
    simd::{LANES, Lanes, Simd, finish_stream, multiversion, past_caches},
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
            let past = past_caches(shape[0] * shape[1]);
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
                    past,
                );
            }
            finish_stream();
            y.store();
        }),
    }
    Ok(())
}

multiversion! {
    /// With `past`, `y` is stored past the caches.
    fn combine_row(x0: &[f32], projection: &[f32], x: &[f32], y: &mut [f32], past: bool) {
        let (y, rest) = y.as_chunks_mut::<LANES>();
        let from = y.len() * LANES;
        let [whole_x0, whole_projection, whole_x] =
            [x0, projection, x].map(|row| row.as_chunks::<LANES>().0);
        let whole = whole_x0.iter().zip(whole_projection).zip(whole_x);
        for (y, ((x0, projection), x)) in y.iter_mut().zip(whole) {
            let sum = S::add(S::multiply(S::load(x0), S::load(projection)), S::load(x));
            if past { S::stream(sum, y) } else { S::store(sum, y) }
        }
        for (column, y) in (from..).zip(rest) {
            *y = x0[column] * projection[column] + x[column];
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
            let past = past_caches(shape[0] * shape[1]);
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
                combine_row_backward(
                    [x0.row(row), projection.row(row), dy.row(row)],
                    d_projection.view().row_mut(row),
                    dx0.view().row_mut(row),
                    dx.view().row_mut(row),
                    Stores {
                        accumulate_dx0,
                        accumulate_dx,
                        past,
                    },
                );
            }
            finish_stream();
            d_projection.store();
            dx0.store();
            dx.store();
        }),
    }
    Ok(())
}

/// How [`combine_row_backward`] writes.
#[derive(Clone, Copy)]
struct Stores {
    accumulate_dx0: bool,
    accumulate_dx: bool,
    /// What is not added to is stored past the caches.
    past: bool,
}

multiversion! {
    fn combine_row_backward(
        of: [&[f32]; 3],
        d_projection: &mut [f32],
        dx0: &mut [f32],
        dx: &mut [f32],
        stores: Stores,
    ) {
        let Stores { accumulate_dx0, accumulate_dx, past } = stores;
        let whole = of.map(|row| row.as_chunks::<LANES>().0);
        let (vectors, d_projection_rest) = d_projection.as_chunks_mut::<LANES>();
        let (dx0, dx0_rest) = dx0.as_chunks_mut::<LANES>();
        let (dx, dx_rest) = dx.as_chunks_mut::<LANES>();
        let from = vectors.len() * LANES;
        for (index, d_projection) in vectors.iter_mut().enumerate() {
            let dy = S::load(&whole[2][index]);
            let (x0, projection) = (S::load(&whole[0][index]), S::load(&whole[1][index]));
            write::<S>(S::multiply(dy, x0), d_projection, false, past);
            write::<S>(S::multiply(dy, projection), &mut dx0[index], accumulate_dx0, past);
            write::<S>(dy, &mut dx[index], accumulate_dx, past);
        }
        for (index, d_projection) in d_projection_rest.iter_mut().enumerate() {
            let [x0, projection, dy] = of.map(|row| row[from + index]);
            *d_projection = dy * x0;
            let (dx0, dx) = (&mut dx0_rest[index], &mut dx_rest[index]);
            *dx0 = if accumulate_dx0 { *dx0 + dy * projection } else { dy * projection };
            *dx = if accumulate_dx { *dx + dy } else { dy };
        }
    }
}

/// Writes a vector, or adds it to what is there.
#[inline(always)]
fn write<S: Simd>(x: S::Vector, to: &mut Lanes, accumulate: bool, past: bool) {
    if accumulate {
        S::store(S::add(S::load(to), x), to);
    } else if past {
        S::stream(x, to);
    } else {
        S::store(x, to);
    }
}
