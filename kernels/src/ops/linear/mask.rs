//! Masks and column sums of gradients, in the type in which they lie.

use half::bf16;

use super::super::{
    matrix_product::relu_gradient,
    wide::{Wide, WideMut},
};
use crate::{
    device::Context,
    simd::{Float, multiversion},
    tensor::{DType, TensorMut, TensorRef},
};

/// Zeroes `dz` where `y` is not positive, and writes the sums of its columns, `[1, columns]`, in one pass.
pub(super) fn mask(
    context: &Context,
    dz: TensorMut<'_>,
    y: TensorRef<'_>,
    sums: Option<TensorMut<'_>>,
) {
    if dz.dtype() == y.dtype() && lies_well(y.dtype()) {
        return mask_rows(dz, y, sums);
    }
    let mut dz = WideMut::keeping(context, dz, true);
    mask_rows(dz.view(), Wide::new(context, y).view(), sums);
    // A mask changes no number: what was half precision still is.
    dz.store();
}

/// Writes the sums of the columns of `dz`, `[1, columns]`.
pub(super) fn sum_columns(context: &Context, dz: TensorRef<'_>, sums: TensorMut<'_>) {
    if lies_well(dz.dtype()) {
        return sum_rows(dz, sums);
    }
    sum_rows(Wide::new(context, dz).view(), sums);
}

/// Whether plain loops over such numbers become vectors; those that widen fp16 do not.
fn lies_well(dtype: DType) -> bool {
    dtype != DType::F16
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
                DType::Bf16 => mask_row::<bf16>(dz.row_mut_of(row), y.row_of(row), sums),
                _ => mask_row::<f32>(dz.row_mut(row), y.row(row), sums),
            }
        }
    }
}

#[inline(always)]
fn mask_row<F: Float>(dz: &mut [F], y: &[F], sums: Option<&mut [f32]>) {
    match sums {
        Some(sums) => {
            for ((dz, y), sum) in dz.iter_mut().zip(y).zip(sums) {
                let gradient = relu_gradient(y.widen(), dz.widen());
                *dz = F::narrow(gradient);
                *sum += gradient;
            }
        }
        None => {
            for (dz, y) in dz.iter_mut().zip(y) {
                *dz = F::narrow(relu_gradient(y.widen(), dz.widen()));
            }
        }
    }
}

multiversion! {
    fn sum_rows(dz: TensorRef<'_>, sums: TensorMut<'_>) {
        let mut sums = sums;
        let sums = sums.row_mut(0);
        sums.fill(0.0);
        for row in 0..dz.shape()[0] {
            match dz.dtype() {
                DType::Bf16 => add_row::<bf16>(dz.row_of(row), sums),
                _ => add_row::<f32>(dz.row(row), sums),
            }
        }
    }
}

#[inline(always)]
fn add_row<F: Float>(dz: &[F], sums: &mut [f32]) {
    for (sum, dz) in sums.iter_mut().zip(dz) {
        *sum += dz.widen();
    }
}
