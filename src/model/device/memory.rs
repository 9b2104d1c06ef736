use std::ops::Range;

use streamrec_kernels::DType;
use streamrec_kernels::cuda::{Address, DeviceError, Executor, Matrix, collective::Element};

/// Numbers in a device's memory, for matrices of up to a planned size, packed from the start.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeviceBuffer {
    pub(super) address: Address,
    pub(super) dtype: DType,
    len: usize,
}

impl DeviceBuffer {
    /// Room for `len` numbers of a type, of arbitrary content.
    pub(super) fn new<E: Executor>(
        executor: &mut E,
        dtype: DType,
        len: usize,
    ) -> Result<Self, DeviceError> {
        let address = executor.allocate(len * dtype.bytes())?;
        Ok(Self {
            address,
            dtype,
            len,
        })
    }

    /// The same, all zero.
    pub(super) fn zeroed<E: Executor>(
        executor: &mut E,
        dtype: DType,
        len: usize,
    ) -> Result<Self, DeviceError> {
        let own = Self::new(executor, dtype, len)?;
        executor.zero(own.address, len * dtype.bytes())?;
        Ok(own)
    }

    /// The same memory for as many numbers of a type that is not larger.
    pub(super) fn of_type(&self, dtype: DType) -> Self {
        Self { dtype, ..*self }
    }

    /// The matrix `[rows, columns]`.
    ///
    /// # Panics
    /// When it is larger than planned.
    pub(super) fn view(&self, rows: usize, columns: usize) -> Matrix {
        self.view_at(0, rows, columns)
    }

    /// The matrix `[rows, columns]` that begins at a number.
    ///
    /// # Panics
    /// When it is larger than planned.
    pub(super) fn view_at(&self, start: usize, rows: usize, columns: usize) -> Matrix {
        assert!(
            start + rows * columns <= self.len,
            "[{rows}, {columns}] from {start} is larger than the {} numbers planned",
            self.len
        );
        let address = Address(self.address.0 + (start * self.dtype.bytes()) as u64);
        Matrix::new(address, self.dtype, [rows, columns])
    }
}

/// Some columns of a matrix.
pub(super) fn columns(matrix: &Matrix, columns: &Range<usize>) -> Matrix {
    let start = (columns.start * matrix.dtype.bytes()) as u64;
    Matrix {
        address: Address(matrix.address.0 + start),
        shape: [matrix.shape[0], columns.len()],
        ..*matrix
    }
}

/// Some rows of a matrix.
pub(super) fn rows(matrix: &Matrix, rows: &Range<usize>) -> Matrix {
    let start = (rows.start * matrix.row_stride * matrix.dtype.bytes()) as u64;
    Matrix {
        address: Address(matrix.address.0 + start),
        shape: [rows.len(), matrix.shape[1]],
        ..*matrix
    }
}

/// What collectives call a type of floats.
pub(super) fn element(dtype: DType) -> Element {
    match dtype {
        DType::Bf16 => Element::Bf16,
        DType::F16 => Element::F16,
        _ => Element::F32,
    }
}

/// Copies numbers to the device.
///
/// # Errors
/// When the device fails.
pub fn upload_floats<E: Executor>(
    executor: &mut E,
    from: &[f32],
    to: Address,
) -> Result<(), DeviceError> {
    executor.upload(bytemuck::cast_slice(from), to)
}

/// Copies numbers from the device.
///
/// # Errors
/// As [`upload_floats`].
pub fn download_floats<E: Executor>(
    executor: &mut E,
    from: Address,
    to: &mut [f32],
) -> Result<(), DeviceError> {
    executor.download(from, bytemuck::cast_slice_mut(to))
}
