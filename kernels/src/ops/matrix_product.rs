//! `destination (+)= left . right` on views, through the crate `gemm`.

use std::marker::PhantomData;

use gemm::Parallelism;

use crate::tensor::{TensorMut, TensorRef};

/// A matrix operand, perhaps read transposed.
#[derive(Clone, Copy)]
pub(super) struct Factor<'a> {
    view: PhantomData<&'a [f32]>,
    start: *const f32,
    rows: usize,
    columns: usize,
    row_stride: isize,
    column_stride: isize,
}

// SAFETY: a factor is a shared borrow of plain numbers.
unsafe impl Send for Factor<'_> {}
// SAFETY: as above.
unsafe impl Sync for Factor<'_> {}

impl<'a> Factor<'a> {
    pub(super) fn new(view: TensorRef<'a>) -> Self {
        let [rows, columns] = view.shape();
        let row_stride = view.row_stride() as isize;
        Self {
            view: PhantomData,
            start: view.as_ptr(),
            rows,
            columns,
            row_stride,
            column_stride: 1,
        }
    }

    pub(super) fn transposed(view: TensorRef<'a>) -> Self {
        let factor = Self::new(view);
        Self {
            view: PhantomData,
            start: factor.start,
            rows: factor.columns,
            columns: factor.rows,
            row_stride: factor.column_stride,
            column_stride: factor.row_stride,
        }
    }
}

/// `destination = left . right`, added to `destination` with `accumulate`.
///
/// # Panics
/// When the shapes do not chain. Operations check their operands first.
pub(super) fn multiply(
    mut destination: TensorMut<'_>,
    accumulate: bool,
    left: Factor<'_>,
    right: Factor<'_>,
) {
    let [rows, columns] = destination.shape();
    assert_eq!(
        (left.rows, left.columns, right.columns),
        (rows, right.rows, columns)
    );
    let row_stride = destination.row_stride() as isize;
    // SAFETY: the factors' strides and sizes come from live views, the shapes chain as asserted,
    // and `destination` is borrowed exclusively, so it overlaps neither factor.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            left.columns,
            destination.as_mut_ptr(),
            1,
            row_stride,
            accumulate,
            left.start,
            left.column_stride,
            left.row_stride,
            right.start,
            right.column_stride,
            right.row_stride,
            1.0,
            1.0,
            false,
            false,
            false,
            // One thread each: callers split the work and keep panels in cache.
            Parallelism::None,
        );
    }
}
