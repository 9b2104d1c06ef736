use streamrec_kernels::{Context, DType, Tensor, TensorMut, TensorRef};

/// Floats for matrices of up to a planned size, `[rows, columns]`, packed from the start.
pub(super) struct PlannedBuffer {
    floats: Tensor,
}

impl PlannedBuffer {
    /// Room for `len` floats.
    pub(super) fn new(context: &Context, len: usize) -> Self {
        Self {
            floats: Tensor::zeros(context, DType::F32, &[len]),
        }
    }

    /// The number of floats there is room for.
    pub(super) fn len(&self) -> usize {
        self.floats.len()
    }

    /// The matrix `[rows, columns]`.
    ///
    /// # Panics
    /// When it is larger than planned.
    pub(super) fn view(&self, rows: usize, columns: usize) -> TensorRef<'_> {
        TensorRef::from_f32(&self.floats.f32()[..rows * columns], &[rows, columns])
    }

    /// The matrix `[rows, columns]`, to write to.
    ///
    /// # Panics
    /// When it is larger than planned.
    pub(super) fn view_mut(&mut self, rows: usize, columns: usize) -> TensorMut<'_> {
        TensorMut::from_f32(
            &mut self.floats.f32_mut()[..rows * columns],
            &[rows, columns],
        )
    }

    /// The first `len` floats.
    pub(super) fn floats(&self, len: usize) -> &[f32] {
        &self.floats.f32()[..len]
    }

    /// All floats, to write to.
    pub(super) fn floats_mut(&mut self) -> &mut [f32] {
        self.floats.f32_mut()
    }
}
