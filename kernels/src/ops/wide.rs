//! Operands in half precision, as the float32 that panels compute with.
//!
//! A panel of an operand in bf16 or fp16 is widened into scratch memory that stays in cache, and a
//! result is rounded on its way out: memory moves half the bytes, and every sum is taken in
//! float32. Operands in float32 are used where they lie.

use crate::{
    device::{Context, Scratch},
    simd::{narrow, round, widen},
    tensor::{DType, TensorMut, TensorRef},
};

/// An operand to read as float32.
pub(crate) struct Wide<'a> {
    view: TensorRef<'a>,
    scratch: Option<Scratch<'a>>,
}

impl<'a> Wide<'a> {
    pub(crate) fn new(context: &'a Context, view: TensorRef<'a>) -> Self {
        let scratch = view.dtype().is_half().then(|| {
            let [rows, columns] = view.shape();
            let mut scratch = context.scratch(rows * columns);
            widen(view, TensorMut::from_f32(&mut scratch, &[rows, columns]));
            scratch
        });
        Self { view, scratch }
    }

    /// As [`new`](Self::new); numbers in float32 are rounded to `dtype` first, as those in half
    /// precision were when they were stored.
    pub(crate) fn rounded(context: &'a Context, view: TensorRef<'a>, dtype: DType) -> Self {
        if view.dtype() != DType::F32 || dtype == DType::F32 {
            return Self::new(context, view);
        }
        let [rows, columns] = view.shape();
        let mut scratch = context.scratch(rows * columns);
        round(
            view,
            dtype,
            TensorMut::from_f32(&mut scratch, &[rows, columns]),
        );
        let scratch = Some(scratch);
        Self { view, scratch }
    }

    pub(crate) fn view(&self) -> TensorRef<'_> {
        match &self.scratch {
            Some(scratch) => TensorRef::from_f32(scratch, &self.view.shape()),
            None => self.view,
        }
    }
}

/// An operand to write as float32. In half precision nothing is written before
/// [`store`](Self::store).
#[must_use = "half precision is written by `store`"]
pub(crate) struct WideMut<'a> {
    view: TensorMut<'a>,
    scratch: Option<Scratch<'a>>,
}

impl<'a> WideMut<'a> {
    /// An operand that will be overwritten whole.
    pub(crate) fn new(context: &'a Context, view: TensorMut<'a>) -> Self {
        let [rows, columns] = view.shape();
        let scratch = view
            .dtype()
            .is_half()
            .then(|| context.scratch(rows * columns));
        Self { view, scratch }
    }

    /// An operand that is read, too, where `keep` is set.
    pub(crate) fn keeping(context: &'a Context, view: TensorMut<'a>, keep: bool) -> Self {
        let mut own = Self::new(context, view);
        if let Some(scratch) = own.scratch.as_mut().filter(|_| keep) {
            let shape = own.view.shape();
            widen(own.view.as_ref(), TensorMut::from_f32(scratch, &shape));
        }
        own
    }

    pub(crate) fn view(&mut self) -> TensorMut<'_> {
        match &mut self.scratch {
            Some(scratch) => TensorMut::from_f32(scratch, &self.view.shape()),
            None => self.view.reborrow(),
        }
    }

    /// Rounds what was written, where the operand is in half precision.
    pub(crate) fn store(mut self) {
        if let Some(scratch) = &self.scratch {
            let from = TensorRef::from_f32(scratch, &self.view.shape());
            narrow(from, self.view.reborrow());
        }
    }
}
