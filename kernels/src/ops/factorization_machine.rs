//! The second-order term of a factorization machine (DeepFM, <https://arxiv.org/abs/1703.04247>):
//! `y = sum over pairs i < j of v[i] . v[j] = 0.5 * sum_d ((sum_f v)^2 - sum_f v^2)`.

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

/// `x: [batch, features * dim]`, `y: [batch, 1]`.
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
    const OPERATION: &str = "factorization_machine::forward";
    let batch = x.shape()[0];
    expect(OPERATION, "x", &x, [batch, features * dim])?;
    expect(OPERATION, "y", &y, [batch, 1])?;
    match context.device() {
        Device::Cpu => context.for_each_panel(batch, PANEL_ROWS, |rows| {
            let x = Wide::new(context, x.rows(rows.clone()));
            // SAFETY: panels are disjoint ranges of rows, one call each.
            let mut y = WideMut::new(context, unsafe { y.alias_rows(rows.clone()) });
            let mut sums = context.scratch(2 * dim);
            for row in 0..rows.len() {
                y.view().row_mut(row)[0] = second_order(x.view().row(row), dim, &mut sums);
            }
            y.store();
        }),
    }
    Ok(())
}

multiversion! {
    /// `sums: [2 * dim]` is working memory.
    fn second_order(x: &[f32], dim: usize, sums: &mut [f32]) -> f32 {
        sums.fill(0.0);
        let (sums, squares) = sums.split_at_mut(dim);
        for v in x.chunks_exact(dim.max(1)) {
            for ((sum, square), v) in sums.iter_mut().zip(squares.iter_mut()).zip(v) {
                *sum += v;
                *square += v * v;
            }
        }
        0.5 * sums.iter().zip(squares).map(|(sum, square)| sum * sum - *square).sum::<f32>()
    }
}

/// `dx[f] (+)= dy * (sum of v - v[f])`, with `x, dx: [batch, features * dim]`, `dy: [batch, 1]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn backward(
    context: &Context,
    x: TensorRef<'_>,
    features: usize,
    dim: usize,
    dy: TensorRef<'_>,
    dx: TensorMut<'_>,
    accumulate: bool,
) -> Result<()> {
    const OPERATION: &str = "factorization_machine::backward";
    let batch = x.shape()[0];
    expect(OPERATION, "x", &x, [batch, features * dim])?;
    expect(OPERATION, "dy", &dy, [batch, 1])?;
    expect(OPERATION, "dx", &dx, [batch, features * dim])?;
    match context.device() {
        Device::Cpu => context.for_each_panel(batch, PANEL_ROWS, |rows| {
            let [x, dy] = [x, dy].map(|view| Wide::new(context, view.rows(rows.clone())));
            // SAFETY: panels are disjoint ranges of rows, one call each.
            let own = unsafe { dx.alias_rows(rows.clone()) };
            let mut dx = WideMut::keeping(context, own, accumulate);
            let mut sums = context.scratch(dim);
            for row in 0..rows.len() {
                let dy = dy.view().row(row)[0];
                second_order_gradient(
                    x.view().row(row),
                    dim,
                    dy,
                    dx.view().row_mut(row),
                    accumulate,
                    &mut sums,
                );
            }
            dx.store();
        }),
    }
    Ok(())
}

multiversion! {
    fn second_order_gradient(
        x: &[f32],
        dim: usize,
        dy: f32,
        dx: &mut [f32],
        accumulate: bool,
        sums: &mut [f32],
    ) {
        sums.fill(0.0);
        for v in x.chunks_exact(dim.max(1)) {
            sums.iter_mut().zip(v).for_each(|(sum, v)| *sum += v);
        }
        for (v, dv) in x.chunks_exact(dim.max(1)).zip(dx.chunks_exact_mut(dim.max(1))) {
            let terms = dv.iter_mut().zip(v).zip(sums.iter());
            if accumulate {
                terms.for_each(|((dv, v), sum)| *dv += dy * (sum - v));
            } else {
                terms.for_each(|((dv, v), sum)| *dv = dy * (sum - v));
            }
        }
    }
}
