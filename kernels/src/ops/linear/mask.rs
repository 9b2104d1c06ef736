//! Masks and column sums of gradients, in the type in which they lie.

use half::{bf16, f16};

use super::super::{
    matrix_product::relu_gradient,
    wide::{Wide, WideMut},
};
use crate::{
    device::Context,
    simd::{Float, LANES, Lanes, Simd, multiversion},
    tensor::{DType, TensorMut, TensorRef},
};

/// Zeroes `dz` where `y` is not positive, and writes the sums of its columns, `[1, columns]`, in one pass.
pub(super) fn mask(
    context: &Context,
    dz: TensorMut<'_>,
    y: TensorRef<'_>,
    sums: Option<TensorMut<'_>>,
) {
    if dz.dtype() == y.dtype() {
        return mask_rows(dz, y, sums);
    }
    let mut dz = WideMut::keeping(context, dz, true);
    mask_rows(dz.view(), Wide::new(context, y).view(), sums);
    // A mask changes no number: what was half precision still is.
    dz.store();
}

multiversion! {
    fn mask_rows(dz: TensorMut<'_>, y: TensorRef<'_>, sums: Option<TensorMut<'_>>) {
        let (mut dz, mut sums) = (dz, sums);
        let mut sums = sums.as_mut().map(|sums| sums.row_mut(0));
        if let Some(sums) = &mut sums {
            sums.fill(0.0);
        }
        for row in 0..dz.shape()[0] {
            let sums = sums.as_deref_mut();
            match dz.dtype() {
                DType::Bf16 => mask_row::<S, bf16>(dz.row_mut_of(row), y.row_of(row), sums),
                DType::F16 => mask_row::<S, f16>(dz.row_mut_of(row), y.row_of(row), sums),
                _ => mask_row::<S, f32>(dz.row_mut(row), y.row(row), sums),
            }
        }
    }
}

#[inline(always)]
fn mask_row<S: Simd, F: Float>(dz: &mut [F], y: &[F], sums: Option<&mut [f32]>) {
    let columns = dz.len();
    let mut none = [0.0; 0];
    let (wanted, sums) = match sums {
        Some(sums) => (true, sums),
        None => (false, &mut none[..]),
    };
    for start in (0..columns).step_by(LANES) {
        let end = columns.min(start + LANES);
        let (dz, y) = (&mut dz[start..end], &y[start..end]);
        let (mut gradient, value) = (widened::<S, F>(dz), widened::<S, F>(y));
        for (gradient, value) in gradient.iter_mut().zip(value) {
            *gradient = relu_gradient(value, *gradient);
        }
        if wanted {
            let sums = &mut sums[start..end];
            sums.iter_mut()
                .zip(gradient)
                .for_each(|(sum, dz)| *sum += dz);
        }
        if dz.len() == LANES {
            F::store::<S>(S::load(&gradient), dz);
        } else {
            dz.iter_mut()
                .zip(gradient)
                .for_each(|(dz, wide)| *dz = F::narrow(wide));
        }
    }
}

multiversion! {
    /// Writes the sums of the columns of `dz`, `[1, columns]`.
    pub(super) fn sum_columns(dz: TensorRef<'_>, sums: TensorMut<'_>) {
        let mut sums = sums;
        let sums = sums.row_mut(0);
        sums.fill(0.0);
        for row in 0..dz.shape()[0] {
            match dz.dtype() {
                DType::Bf16 => add_row::<S, bf16>(dz.row_of(row), sums),
                DType::F16 => add_row::<S, f16>(dz.row_of(row), sums),
                _ => add_row::<S, f32>(dz.row(row), sums),
            }
        }
    }
}

#[inline(always)]
fn add_row<S: Simd, F: Float>(dz: &[F], sums: &mut [f32]) {
    for (dz, sums) in dz.chunks(LANES).zip(sums.chunks_mut(LANES)) {
        let wide = widened::<S, F>(dz);
        sums.iter_mut().zip(wide).for_each(|(sum, dz)| *sum += dz);
    }
}

/// Up to a vector of numbers, with zeros behind them.
#[inline(always)]
fn widened<S: Simd, F: Float>(x: &[F]) -> Lanes {
    let mut lanes = [0.0; LANES];
    if x.len() == LANES {
        S::store(F::load::<S>(x), &mut lanes);
    } else {
        lanes
            .iter_mut()
            .zip(x)
            .for_each(|(lane, x)| *lane = x.widen());
    }
    lanes
}
