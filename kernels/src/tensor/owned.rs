use std::fmt;

use half::{bf16, f16};

use super::{AlignedBuffer, DType, Element, TensorMut, TensorRef};
use crate::device::Context;

/// An owned dense array: row-major, contiguous, aligned to 64 bytes.
pub struct Tensor {
    buffer: AlignedBuffer,
    dtype: DType,
    shape: Vec<usize>,
}

impl Tensor {
    /// A tensor of zeros on the context's device.
    ///
    /// # Panics
    /// When the tensor exceeds the address space.
    pub fn zeros(_context: &Context, dtype: DType, shape: &[usize]) -> Self {
        let bytes = shape
            .iter()
            .try_fold(dtype.bytes(), |bytes, &size| bytes.checked_mul(size));
        let Some(bytes) = bytes else {
            panic!("a tensor of shape {shape:?} exceeds the address space");
        };
        Self {
            buffer: AlignedBuffer::zeroed(bytes),
            dtype,
            shape: shape.to_vec(),
        }
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes of the dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The whole tensor as a matrix (see [`TensorRef`] for how its shape is read).
    pub fn view(&self) -> TensorRef<'_> {
        let [rows, columns] = self.matrix_shape();
        self.matrix(rows, columns)
    }

    /// The whole tensor as a matrix to write to.
    pub fn view_mut(&mut self) -> TensorMut<'_> {
        let [rows, columns] = self.matrix_shape();
        self.matrix_mut(rows, columns)
    }

    fn matrix_shape(&self) -> [usize; 2] {
        match self.shape.as_slice() {
            [] => [1, 1],
            [columns] => [1, *columns],
            [rows, rest @ ..] => [*rows, rest.iter().product()],
        }
    }

    /// The first elements as a matrix `[rows, columns]`.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn matrix(&self, rows: usize, columns: usize) -> TensorRef<'_> {
        self.matrix_at(0, rows, columns)
    }

    /// The elements from `start` on as a matrix `[rows, columns]`.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn matrix_at(&self, start: usize, rows: usize, columns: usize) -> TensorRef<'_> {
        let (shape, range) = ([rows, columns], start..start + rows * columns);
        match self.dtype {
            DType::F32 => TensorRef::from_elements(&self.elements::<f32>()[range], &shape),
            DType::Bf16 => TensorRef::from_elements(&self.elements::<bf16>()[range], &shape),
            DType::F16 => TensorRef::from_elements(&self.elements::<f16>()[range], &shape),
            DType::I64 => TensorRef::from_elements(&self.elements::<i64>()[range], &shape),
        }
    }

    /// The first elements as a matrix `[rows, columns]`, to write to.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn matrix_mut(&mut self, rows: usize, columns: usize) -> TensorMut<'_> {
        let (shape, len) = ([rows, columns], rows * columns);
        match self.dtype {
            DType::F32 => TensorMut::from_elements(&mut self.elements_mut::<f32>()[..len], &shape),
            DType::Bf16 => {
                TensorMut::from_elements(&mut self.elements_mut::<bf16>()[..len], &shape)
            }
            DType::F16 => TensorMut::from_elements(&mut self.elements_mut::<f16>()[..len], &shape),
            DType::I64 => TensorMut::from_elements(&mut self.elements_mut::<i64>()[..len], &shape),
        }
    }

    /// The elements.
    ///
    /// # Panics
    /// When the tensor holds another type.
    pub fn elements<E: Element>(&self) -> &[E] {
        self.expect(E::DTYPE);
        bytemuck::cast_slice(self.buffer.as_bytes())
    }

    /// The elements, to write to.
    ///
    /// # Panics
    /// When the tensor holds another type.
    pub fn elements_mut<E: Element>(&mut self) -> &mut [E] {
        self.expect(E::DTYPE);
        bytemuck::cast_slice_mut(self.buffer.as_bytes_mut())
    }

    /// The elements.
    ///
    /// # Panics
    /// When the tensor does not hold `f32`.
    pub fn f32(&self) -> &[f32] {
        self.elements()
    }

    /// The elements, to write to.
    ///
    /// # Panics
    /// When the tensor does not hold `f32`.
    pub fn f32_mut(&mut self) -> &mut [f32] {
        self.elements_mut()
    }

    /// The elements.
    ///
    /// # Panics
    /// When the tensor does not hold `i64`.
    pub fn i64(&self) -> &[i64] {
        self.elements()
    }

    /// The elements, to write to.
    ///
    /// # Panics
    /// When the tensor does not hold `i64`.
    pub fn i64_mut(&mut self) -> &mut [i64] {
        self.elements_mut()
    }

    fn expect(&self, dtype: DType) {
        assert_eq!(
            self.dtype, dtype,
            "the tensor holds {}, asked for as {dtype}",
            self.dtype
        );
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tensor")
            .field("dtype", &self.dtype)
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_starts_zeroed_and_keeps_what_is_written() {
        let context = Context::cpu(1, false).unwrap();
        let mut tensor = Tensor::zeros(&context, DType::F32, &[2, 3, 5]);
        assert_eq!(tensor.len(), 30);
        assert!(tensor.f32().iter().all(|&x| x == 0.0));
        tensor.f32_mut()[29] = 7.0;
        let view = tensor.view();
        assert_eq!(view.shape(), [2, 15]);
        assert_eq!(view.row(1)[14], 7.0);
        assert_eq!(tensor.f32().as_ptr() as usize % 64, 0);
        assert!(Tensor::zeros(&context, DType::I64, &[0, 4]).is_empty());
    }

    #[test]
    #[should_panic(expected = "holds i64")]
    fn reading_another_dtype_panics() {
        let context = Context::cpu(1, false).unwrap();
        Tensor::zeros(&context, DType::I64, &[3]).f32();
    }
}
