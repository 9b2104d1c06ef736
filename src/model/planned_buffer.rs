use streamrec_kernels::{Context, DType, Tensor, TensorMut, TensorRef};

/// Numbers for matrices of up to a planned size, `[rows, columns]`, packed from the start.
pub(super) struct PlannedBuffer {
    numbers: Tensor,
}

impl PlannedBuffer {
    /// Room for `len` numbers of a type.
    pub(super) fn new(context: &Context, dtype: DType, len: usize) -> Self {
        Self {
            numbers: Tensor::zeros(context, dtype, &[len]),
        }
    }

    /// How many numbers there is room for.
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The matrix `[rows, columns]`.
    ///
    /// # Panics
    /// When it is larger than planned.
    pub(super) fn view(&self, rows: usize, columns: usize) -> TensorRef<'_> {
        self.numbers.matrix(rows, columns)
    }

    /// The matrix `[rows, columns]`, to write to.
    ///
    /// # Panics
    /// When it is larger than planned.
    pub(super) fn view_mut(&mut self, rows: usize, columns: usize) -> TensorMut<'_> {
        self.numbers.matrix_mut(rows, columns)
    }
}
