use std::ffi::c_void;

use bytemuck::Pod;

use crate::{
    error::{Error, Result},
    ops::operand::Operand,
    tensor::DType,
};

/// An address in a device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Address(pub u64);

impl Address {
    /// No address: an operand that is left out.
    pub const NULL: Self = Self(0);
}

/// A matrix in a device's memory: `rows` rows of adjacent elements, `row_stride` elements apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    /// The first element.
    pub address: Address,
    /// The type of the elements.
    pub dtype: DType,
    /// `[rows, columns]`.
    pub shape: [usize; 2],
    /// Elements from one row's start to the next.
    pub row_stride: usize,
}

impl Matrix {
    /// A matrix whose rows follow each other.
    pub fn new(address: Address, dtype: DType, shape: [usize; 2]) -> Self {
        Self {
            address,
            dtype,
            shape,
            row_stride: shape[1],
        }
    }
}

impl Operand for Matrix {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn dtype(&self) -> DType {
        self.dtype
    }
}

/// One kernel of one source file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// The file's stem, such as `embedding_bag`.
    pub source: &'static str,
    /// The instantiation, such as `embedding_bag<float, bfloat16>`.
    pub name: &'static str,
}

impl Kernel {
    pub(crate) const fn new(source: &'static str, name: &'static str) -> Self {
        Self { source, name }
    }
}

/// The most arguments of a kernel, and the most words that they fill.
const ARGUMENTS_MAX: usize = 24;
const WORDS_MAX: usize = 48;

/// A kernel with its grid and arguments, ready to run on a device's stream or under emulation.
#[derive(Debug, Clone)]
pub struct Launch {
    /// What runs.
    pub kernel: Kernel,
    /// Blocks, in three directions.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared_bytes: u32,
    words: [u64; WORDS_MAX],
    words_len: usize,
    /// The first word of each argument.
    starts: [u8; ARGUMENTS_MAX],
    len: usize,
}

impl Launch {
    pub(crate) fn new(kernel: Kernel, blocks: u32, threads: u32) -> Self {
        Self {
            kernel,
            grid: [blocks.max(1), 1, 1],
            threads,
            shared_bytes: 0,
            words: [0; WORDS_MAX],
            words_len: 0,
            starts: [0; ARGUMENTS_MAX],
            len: 0,
        }
    }

    /// Adds the kernel's next argument.
    pub(crate) fn with(self, argument: impl Argument) -> Self {
        self.with_words(&[argument.bits()])
    }

    /// Adds a structure that the kernel takes by value; its size is a multiple of 8 bytes.
    pub(crate) fn with_struct<T: Pod>(self, argument: &T) -> Self {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let mut words = [0; WORDS_MAX];
        let words = &mut words[..size_of::<T>() / 8];
        bytemuck::cast_slice_mut(words).copy_from_slice(bytemuck::bytes_of(argument));
        self.with_words(words)
    }

    fn with_words(mut self, words: &[u64]) -> Self {
        self.starts[self.len] = self.words_len as u8;
        self.words[self.words_len..][..words.len()].copy_from_slice(words);
        self.words_len += words.len();
        self.len += 1;
        self
    }

    /// Adds a matrix: its address and its stride.
    pub(crate) fn with_matrix(self, matrix: &Matrix) -> Self {
        self.with(matrix.address).with(matrix.row_stride as i64)
    }

    pub(crate) fn with_shared(mut self, bytes: usize) -> Self {
        self.shared_bytes = bytes as u32;
        self
    }

    /// Where each argument lies, as `cuLaunchKernel` takes it; null behind the last one. Valid while `self`
    /// is borrowed.
    pub fn arguments(&mut self) -> [*mut c_void; ARGUMENTS_MAX] {
        let mut places = [std::ptr::null_mut(); ARGUMENTS_MAX];
        for (place, &start) in places.iter_mut().zip(&self.starts[..self.len]) {
            *place = std::ptr::from_mut(&mut self.words[usize::from(start)]).cast();
        }
        places
    }
}

/// A scalar that a kernel takes by value.
pub(crate) trait Argument {
    /// The value's bytes, in the lowest of a word.
    fn bits(self) -> u64;
}

impl Argument for Address {
    fn bits(self) -> u64 {
        self.0
    }
}

impl Argument for i64 {
    fn bits(self) -> u64 {
        self as u64
    }
}

impl Argument for u64 {
    fn bits(self) -> u64 {
        self
    }
}

impl Argument for u32 {
    fn bits(self) -> u64 {
        u64::from(self)
    }
}

impl Argument for f32 {
    fn bits(self) -> u64 {
        u64::from(self.to_bits())
    }
}

impl Argument for f64 {
    fn bits(self) -> u64 {
        self.to_bits()
    }
}

/// The threads of most blocks.
pub(crate) const THREADS: u32 = 256;

/// Blocks that hold `items` at `per_block` a block, at most `limit`: kernels stride over the rest.
pub(crate) fn blocks_for(items: usize, per_block: usize, limit: u32) -> u32 {
    let blocks = items.div_ceil(per_block.max(1)).max(1);
    u32::try_from(blocks).map_or(limit, |blocks| blocks.min(limit))
}

/// A number that kernels count in 32 bits.
pub(crate) fn count(operation: &'static str, what: &'static str, number: usize) -> Result<u32> {
    // Sums of two such numbers must not wrap around either.
    match u32::try_from(number) {
        Ok(number) if number < 1 << 31 => Ok(number),
        _ => Err(Error::Index {
            operation,
            what,
            index: 0,
            got: number as i64,
        }),
    }
}

/// The kernel of a type, of those for float32, bf16 and fp16.
pub(crate) fn of_dtype(source: &'static str, names: [&'static str; 3], dtype: DType) -> Kernel {
    let name = match dtype {
        DType::Bf16 => names[1],
        DType::F16 => names[2],
        _ => names[0],
    };
    Kernel::new(source, name)
}

/// A launch with some threads a row of a matrix.
pub(crate) struct PerRow {
    pub(crate) launch: Launch,
    pub(crate) rows: u32,
    pub(crate) columns: u32,
    /// Threads of a row.
    pub(crate) lanes: u32,
}

/// A launch whose threads each take 16 bytes of `dtype` of a row at a time.
pub(crate) fn per_row(
    operation: &'static str,
    kernel: Kernel,
    [rows, columns]: [usize; 2],
    dtype: DType,
) -> Result<PerRow> {
    let vectors = (columns * dtype.bytes()).div_ceil(16).max(1);
    let lanes = vectors.next_power_of_two().min(THREADS as usize) as u32;
    let blocks = blocks_for(rows, (THREADS / lanes) as usize, 1 << 20);
    Ok(PerRow {
        launch: Launch::new(kernel, blocks, THREADS),
        rows: count(operation, "a batch has fewer than 2^31 samples", rows)?,
        columns: count(operation, "there are fewer than 2^31 columns", columns)?,
        lanes,
    })
}

/// Checks that all operands have one shape and type.
pub(crate) fn expect_all(
    operation: &'static str,
    like: &Matrix,
    operands: &[(&'static str, &Matrix)],
) -> Result<()> {
    for (name, matrix) in operands {
        crate::ops::operand::expect_float(operation, name, *matrix, like.shape)?;
        expect_dtype(operation, name, matrix, like.dtype)?;
    }
    Ok(())
}

/// Which of the pairs of types, in their usual order: float32, bf16 and fp16 with themselves, bf16 and fp16
/// with float32, float32 with bf16 and fp16.
pub(crate) fn of_pair(
    operation: &'static str,
    operand: &'static str,
    from: DType,
    to: DType,
) -> Result<usize> {
    Ok(match (from, to) {
        (DType::F32, DType::F32) => 0,
        (DType::Bf16, DType::Bf16) => 1,
        (DType::F16, DType::F16) => 2,
        (DType::Bf16, DType::F32) => 3,
        (DType::F16, DType::F32) => 4,
        (DType::F32, DType::Bf16) => 5,
        (DType::F32, DType::F16) => 6,
        (expected, got) => {
            return Err(Error::DType {
                operation,
                operand,
                expected,
                got,
            });
        }
    })
}

/// Checks that an operand has one certain type.
pub(crate) fn expect_dtype(
    operation: &'static str,
    operand: &'static str,
    matrix: &Matrix,
    expected: DType,
) -> Result<()> {
    if matrix.dtype == expected {
        return Ok(());
    }
    Err(Error::DType {
        operation,
        operand,
        expected,
        got: matrix.dtype,
    })
}

/// Launches of kernels that are not this crate's.
impl Launch {
    /// A launch of a kernel of another source, without arguments yet.
    pub fn custom(source: &'static str, name: &'static str, blocks: u32, threads: u32) -> Self {
        Self::new(Kernel { source, name }, blocks, threads)
    }

    /// Adds the next argument.
    ///
    /// # Panics
    /// When there are too many.
    #[allow(private_bounds)] // Scalars only.
    #[must_use]
    pub fn argument(self, argument: impl Argument) -> Self {
        self.with(argument)
    }
}
