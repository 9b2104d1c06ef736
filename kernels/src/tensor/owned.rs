use std::fmt;

use super::{AlignedBuffer, DType, TensorMut, TensorRef};
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
        match self.dtype {
            DType::F32 => TensorRef::from_f32(self.f32(), &self.shape),
            DType::I64 => TensorRef::from_i64(self.i64(), &self.shape),
        }
    }

    /// The whole tensor as a matrix to write to.
    pub fn view_mut(&mut self) -> TensorMut<'_> {
        let shape = self.shape.clone();
        match self.dtype {
            DType::F32 => TensorMut::from_f32(self.f32_mut(), &shape),
            DType::I64 => TensorMut::from_i64(self.i64_mut(), &shape),
        }
    }

    /// The elements.
    ///
    /// # Panics
    /// When the tensor does not hold `f32`.
    pub fn f32(&self) -> &[f32] {
        self.expect(DType::F32);
        bytemuck::cast_slice(self.buffer.as_bytes())
    }

    /// The elements, to write to.
    ///
    /// # Panics
    /// When the tensor does not hold `f32`.
    pub fn f32_mut(&mut self) -> &mut [f32] {
        self.expect(DType::F32);
        bytemuck::cast_slice_mut(self.buffer.as_bytes_mut())
    }

    /// The elements.
    ///
    /// # Panics
    /// When the tensor does not hold `i64`.
    pub fn i64(&self) -> &[i64] {
        self.expect(DType::I64);
        bytemuck::cast_slice(self.buffer.as_bytes())
    }

    /// The elements, to write to.
    ///
    /// # Panics
    /// When the tensor does not hold `i64`.
    pub fn i64_mut(&mut self) -> &mut [i64] {
        self.expect(DType::I64);
        bytemuck::cast_slice_mut(self.buffer.as_bytes_mut())
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
