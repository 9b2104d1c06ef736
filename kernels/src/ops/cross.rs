//! The elementwise part of a cross layer (DCN-v2, <https://arxiv.org/abs/2008.13535>):
//! `y = x0 * projection + x`.
//!
//! The projection is `W x + b`, or in the low-rank form `W (V x) + b` with nothing between the two
//! products; both are [`linear`](crate::linear) layers.

use half::{bf16, f16};

use super::{
    operand::expect_float as expect,
    wide::{Wide, WideMut},
};
use crate::{
    device::{Context, Device},
    error::Result,
    simd::{Float, LANES, Simd, finish_stream, multiversion, past_caches},
    tensor::{DType, TensorMut, TensorRef},
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
            let [x0, projection, x] = [x0, projection, x].map(|view| view.rows(rows.clone()));
            // SAFETY: panels are disjoint ranges of rows, one call each.
            let y = unsafe { y.alias_rows(rows.clone()) };
            if [x0, projection, x].iter().all(|of| of.dtype() == y.dtype()) {
                combine([x0, projection, x], y, past);
            } else {
                let of = [x0, projection, x].map(|view| Wide::new(context, view));
                let mut y = WideMut::new(context, y);
                combine([of[0].view(), of[1].view(), of[2].view()], y.view(), past);
                y.store();
            }
            finish_stream();
        }),
    }
    Ok(())
}

multiversion! {
    /// All operands of one type. With `past`, `y` is stored past the caches.
    fn combine(of: [TensorRef<'_>; 3], y: TensorMut<'_>, past: bool) {
        let mut y = y;
        for row in 0..y.shape()[0] {
            match y.dtype() {
                DType::Bf16 => combine_row::<S, bf16>(of.map(|of| of.row_of(row)), y.row_mut_of(row), past),
                DType::F16 => combine_row::<S, f16>(of.map(|of| of.row_of(row)), y.row_mut_of(row), past),
                _ => combine_row::<S, f32>(of.map(|of| of.row(row)), y.row_mut(row), past),
            }
        }
    }
}

#[inline(always)]
fn combine_row<S: Simd, F: Float>(of: [&[F]; 3], y: &mut [F], past: bool) {
    let whole = of.map(|row| row.as_chunks::<LANES>().0);
    let (vectors, rest) = y.as_chunks_mut::<LANES>();
    let from = vectors.len() * LANES;
    let operands = whole[0].iter().zip(whole[1]).zip(whole[2]);
    for (y, ((x0, projection), x)) in vectors.iter_mut().zip(operands) {
        let product = S::multiply(F::load::<S>(x0), F::load::<S>(projection));
        let sum = S::add(product, F::load::<S>(x));
        if past {
            F::stream::<S>(sum, y);
        } else {
            F::store::<S>(sum, y);
        }
    }
    for (column, y) in (from..).zip(rest) {
        let [x0, projection, x] = of.map(|row| row[column].widen());
        *y = F::narrow(x0 * projection + x);
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
            let of = [x0, projection, dy].map(|view| view.rows(rows.clone()));
            // SAFETY: panels are disjoint ranges of rows, one call each.
            let to = [&d_projection, &dx0, &dx].map(|to| unsafe { to.alias_rows(rows.clone()) });
            let stores = Stores {
                accumulate_dx0,
                accumulate_dx,
                past,
            };
            let dtype = to[0].dtype();
            let others = to
                .iter()
                .map(|to| to.dtype())
                .chain(of.iter().map(|of| of.dtype()));
            if others.clone().all(|other| other == dtype) {
                combine_gradients(of, to, stores);
            } else {
                let of = of.map(|view| Wide::new(context, view));
                let keeps = [false, accumulate_dx0, accumulate_dx];
                let mut keeps = keeps.into_iter();
                let mut to = to.map(|to| {
                    // One for each of the three.
                    WideMut::keeping(context, to, keeps.next().unwrap_or_default())
                });
                let of = [of[0].view(), of[1].view(), of[2].view()];
                combine_gradients(of, to.each_mut().map(|to| to.view()), stores);
                to.into_iter().for_each(WideMut::store);
            }
            finish_stream();
        }),
    }
    Ok(())
}

/// How [`combine_gradients`] writes.
#[derive(Clone, Copy)]
struct Stores {
    accumulate_dx0: bool,
    accumulate_dx: bool,
    /// What is not added to is stored past the caches.
    past: bool,
}

multiversion! {
    /// All operands of one type: `[x0, projection, dy]` to `[d_projection, dx0, dx]`.
    fn combine_gradients(of: [TensorRef<'_>; 3], to: [TensorMut<'_>; 3], stores: Stores) {
        let mut to = to;
        for row in 0..of[0].shape()[0] {
            match of[0].dtype() {
                DType::Bf16 => combine_row_backward::<S, bf16>(
                    of.map(|of| of.row_of(row)),
                    to.each_mut().map(|to| to.row_mut_of(row)),
                    stores,
                ),
                DType::F16 => combine_row_backward::<S, f16>(
                    of.map(|of| of.row_of(row)),
                    to.each_mut().map(|to| to.row_mut_of(row)),
                    stores,
                ),
                _ => combine_row_backward::<S, f32>(
                    of.map(|of| of.row(row)),
                    to.each_mut().map(|to| to.row_mut(row)),
                    stores,
                ),
            }
        }
    }
}

#[inline(always)]
fn combine_row_backward<S: Simd, F: Float>(of: [&[F]; 3], to: [&mut [F]; 3], stores: Stores) {
    let Stores {
        accumulate_dx0,
        accumulate_dx,
        past,
    } = stores;
    let whole = of.map(|row| row.as_chunks::<LANES>().0);
    let [(vectors, d_projection_rest), (dx0, dx0_rest), (dx, dx_rest)] =
        to.map(|row| row.as_chunks_mut::<LANES>());
    let from = vectors.len() * LANES;
    for (index, d_projection) in vectors.iter_mut().enumerate() {
        // One by one: what `map` calls is not always compiled for the unit.
        let (x0, projection) = (
            F::load::<S>(&whole[0][index]),
            F::load::<S>(&whole[1][index]),
        );
        let dy = F::load::<S>(&whole[2][index]);
        write::<S, F>(S::multiply(dy, x0), d_projection, false, past);
        write::<S, F>(
            S::multiply(dy, projection),
            &mut dx0[index],
            accumulate_dx0,
            past,
        );
        write::<S, F>(dy, &mut dx[index], accumulate_dx, past);
    }
    for (index, d_projection) in d_projection_rest.iter_mut().enumerate() {
        let [x0, projection, dy] = of.map(|row| row[from + index].widen());
        *d_projection = F::narrow(dy * x0);
        let (dx0, dx) = (&mut dx0_rest[index], &mut dx_rest[index]);
        let before = |to: F, accumulate: bool| if accumulate { to.widen() } else { 0.0 };
        *dx0 = F::narrow(before(*dx0, accumulate_dx0) + dy * projection);
        *dx = F::narrow(before(*dx, accumulate_dx) + dy);
    }
}

/// Writes a vector, or adds it to what is there.
#[inline(always)]
fn write<S: Simd, F: Float>(x: S::Vector, to: &mut [F; LANES], accumulate: bool, past: bool) {
    if accumulate {
        F::store::<S>(S::add(F::load::<S>(to), x), to);
    } else if past {
        F::stream::<S>(x, to);
    } else {
        F::store::<S>(x, to);
    }
}
