use bytemuck::Pod;
use streamrec_kernels::cuda::{Address, DeviceError, Executor, Matrix};
use streamrec_kernels::{DType, bf16, f16};

use crate::random::Random;

/// Numbers that are made once, and uploaded again and again.
const PATTERN_LEN: usize = 1 << 20;

/// A device's memory, filled for operations.
pub struct Memory<'a, E> {
    pub executor: &'a mut E,
    pattern: Vec<f32>,
}

impl<'a, E: Executor> Memory<'a, E> {
    pub fn new(executor: &'a mut E) -> Self {
        Self {
            executor,
            pattern: Random(11).floats(PATTERN_LEN),
        }
    }

    /// Memory of `bytes` bytes that are zero.
    pub fn zeros(&mut self, bytes: usize) -> Result<Address, DeviceError> {
        let at = self.executor.allocate(bytes)?;
        self.executor.zero(at, bytes)?;
        Ok(at)
    }

    pub fn upload<T: Pod>(&mut self, values: &[T]) -> Result<Address, DeviceError> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let at = self.executor.allocate(bytes.len())?;
        self.executor.upload(bytes, at)?;
        Ok(at)
    }

    /// A number that kernels lower when they complain.
    pub fn complaint(&mut self) -> Result<Address, DeviceError> {
        self.upload(&[u64::MAX])
    }

    /// `len` numbers in [-1, 1).
    pub fn numbers(&mut self, dtype: DType, len: usize) -> Result<Address, DeviceError> {
        let at = self.executor.allocate(len * dtype.bytes())?;
        self.fill(at, dtype, len)?;
        Ok(at)
    }

    /// Overwrites memory with such numbers.
    pub fn fill(&mut self, at: Address, dtype: DType, len: usize) -> Result<(), DeviceError> {
        let numbers = &self.pattern[..len.min(PATTERN_LEN)];
        let bytes: Vec<u8> = match dtype {
            DType::Bf16 => numbers
                .iter()
                .flat_map(|&x| bf16::from_f32(x).to_ne_bytes())
                .collect(),
            DType::F16 => numbers
                .iter()
                .flat_map(|&x| f16::from_f32(x).to_ne_bytes())
                .collect(),
            _ => numbers.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        };
        let (mut to, end) = (at.0, at.0 + (len * dtype.bytes()) as u64);
        while to < end {
            let part = bytes.len().min((end - to) as usize);
            self.executor.upload(&bytes[..part], Address(to))?;
            to += part as u64;
        }
        Ok(())
    }

    pub fn matrix(&mut self, dtype: DType, shape: [usize; 2]) -> Result<Matrix, DeviceError> {
        let address = self.numbers(dtype, shape[0] * shape[1])?;
        Ok(Matrix::new(address, dtype, shape))
    }
}

/// Bytes of a matrix.
pub fn bytes(matrix: &Matrix) -> usize {
    matrix.shape[0] * matrix.shape[1] * matrix.dtype.bytes()
}
