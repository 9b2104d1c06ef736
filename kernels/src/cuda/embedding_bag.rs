//! Pooled lookups in embedding tables, all tables in one launch.

use bytemuck::{Pod, Zeroable};

use super::launch::{Address, Kernel, Launch, Matrix, THREADS, blocks_for, count};
use crate::{
    error::{Error, Result},
    tensor::DType,
};

const OPERATION: &str = "cuda::embedding_bag::forward";
pub(super) const KERNELS: &[&str] = &[
    "embedding_bag<float, float>",
    "embedding_bag<float, bfloat16>",
    "embedding_bag<float, float16>",
    "embedding_bag<bfloat16, float>",
    "embedding_bag<bfloat16, bfloat16>",
    "embedding_bag<bfloat16, float16>",
    "embedding_bag<float16, float>",
    "embedding_bag<float16, bfloat16>",
    "embedding_bag<float16, float16>",
];

/// One feature's lookups, in device memory. `embedding_bag.cu` has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Lookup {
    /// The table's address, `[rows, dim]`.
    pub table: u64,
    /// The rows of the table.
    pub rows: i64,
    /// Elements from one row's start to the next.
    pub row_stride: i64,
    /// Elements of a row.
    pub dim: u32,
    /// The feature of the batch.
    pub feature: u32,
    /// The first column of the output.
    pub column: u32,
    /// 1 for the mean of a bag, 0 for its sum.
    pub mean: u32,
}

const _: () = assert!(size_of::<Lookup>() == 40);

/// The ids of a batch, in device memory, laid out as [`Bags`](crate::embedding_bag::Bags).
#[derive(Debug, Clone, Copy)]
pub struct Bags {
    /// `[ids]` of `i64`.
    pub ids: Address,
    /// `[features * batch + 1]` of `i64`; checked by whoever wrote them.
    pub offsets: Address,
    /// `[ids]` of `f32`, or null.
    pub weights: Address,
    /// Samples.
    pub batch: usize,
    /// Features.
    pub features: usize,
}

/// The operands of [`forward`].
#[derive(Debug, Clone, Copy)]
pub struct Forward<'a> {
    /// The ids.
    pub bags: Bags,
    /// The lookups, as they lie at `lookups_on_device`.
    pub lookups: &'a [Lookup],
    /// The same lookups, in device memory.
    pub lookups_on_device: Address,
    /// The type of the tables.
    pub table: DType,
    /// Receives the pooled vectors, `[batch, columns]`.
    pub out: Matrix,
    /// The smallest position of an id outside its table is written here, if there is one; the row
    /// counts as zeros. `[1]` of `u64`, set to the largest number before.
    pub first_bad: Address,
}

/// Pools the bags of all lookups, as [`embedding_bag::forward`](crate::embedding_bag::forward).
///
/// # Errors
/// When shapes do not fit, or there is no kernel for the pair of types.
pub fn forward(operands: &Forward<'_>) -> Result<Launch> {
    let [rows, columns] = operands.out.shape;
    let dim_max = check(operands)?;
    if rows != operands.bags.batch {
        return Err(Error::Shape {
            operation: OPERATION,
            operand: "out",
            expected: vec![operands.bags.batch, columns],
            got: vec![rows, columns],
        });
    }
    let lookups = count(
        OPERATION,
        "there are fewer than 2^31 lookups",
        operands.lookups.len(),
    )?;
    let batch = count(OPERATION, "a batch has fewer than 2^31 samples", rows)?;
    let lanes = group_lanes(dim_max, operands.table);
    let groups = (THREADS / lanes) as usize;
    let blocks = blocks_for(operands.lookups.len() * rows, groups, 1 << 20);
    let kernel = Kernel::new(
        "embedding_bag",
        kernel_of(operands.table, operands.out.dtype)?,
    );
    Ok(Launch::new(kernel, blocks, THREADS)
        .with(operands.lookups_on_device)
        .with(lookups)
        .with(operands.bags.ids)
        .with(operands.bags.offsets)
        .with(operands.bags.weights)
        .with(batch)
        .with_matrix(&operands.out)
        .with(operands.first_bad)
        .with(lanes))
}

/// Lanes of a group: a power of two that holds a row of `dim` elements in vectors of 16 bytes, at
/// most a warp.
pub(super) fn group_lanes(dim: usize, dtype: DType) -> u32 {
    let vectors = (dim * dtype.bytes()).div_ceil(16).max(1);
    vectors.next_power_of_two().min(32) as u32
}

/// Checks the lookups; returns the largest dimension.
fn check(operands: &Forward<'_>) -> Result<usize> {
    let columns = operands.out.shape[1];
    for lookup in operands.lookups {
        let end = lookup.column as usize + lookup.dim as usize;
        if end > columns {
            return Err(Error::Shape {
                operation: OPERATION,
                operand: "out",
                expected: vec![operands.bags.batch, end],
                got: operands.out.shape.to_vec(),
            });
        }
        if lookup.feature as usize >= operands.bags.features {
            return Err(Error::Index {
                operation: OPERATION,
                what: "features are numbered below the number of features",
                index: operands.bags.features,
                got: i64::from(lookup.feature),
            });
        }
    }
    let dims = operands.lookups.iter().map(|lookup| lookup.dim as usize);
    Ok(dims.max().unwrap_or(0))
}

fn kernel_of(table: DType, out: DType) -> Result<&'static str> {
    Ok(match (table, out) {
        (DType::F32, DType::F32) => KERNELS[0],
        (DType::F32, DType::Bf16) => KERNELS[1],
        (DType::F32, DType::F16) => KERNELS[2],
        (DType::Bf16, DType::F32) => KERNELS[3],
        (DType::Bf16, DType::Bf16) => KERNELS[4],
        (DType::Bf16, DType::F16) => KERNELS[5],
        (DType::F16, DType::F32) => KERNELS[6],
        (DType::F16, DType::Bf16) => KERNELS[7],
        (DType::F16, DType::F16) => KERNELS[8],
        (expected, got) => {
            return Err(Error::DType {
                operation: OPERATION,
                operand: "out",
                expected,
                got,
            });
        }
    })
}
