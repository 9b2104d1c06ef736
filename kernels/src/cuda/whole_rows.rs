//! What updates need of whole rows of which several ranks hold some columns each: norms and row-wise states are those of
//! whole rows. Either ranks add up [`row_products`], or they exchange the columns ([`pack`]) and compute what one rank
//! computes, to the bit ([`of_columns`]).

use super::{
    embedding_bag::group_lanes,
    launch::{Address, Kernel, Launch, THREADS, blocks_for, count},
    sparse_optimizer::{RawRule, UpdateRows, dim_max, fuses, longest, on_rows, row_stride},
};
use crate::{error::Result, sparse_optimizer::SparseRule, tensor::DType};

const OPERATION: &str = "cuda::whole_rows";
pub(super) const KERNELS: &[&str] = &[
    "row_products<float, 1>",
    "row_products<bfloat16, 1>",
    "row_products<float16, 1>",
    "row_products<float, 8>",
    "row_products<bfloat16, 8>",
    "row_products<float16, 8>",
    "pack_rows<float>",
    "pack_rows<bfloat16>",
    "pack_rows<float16>",
    "whole_rows<1>",
    "whole_rows<8>",
];

/// What ranks that hold columns of the same rows add up before [`update_rows`](super::sparse_optimizer::update_rows): for
/// each row the squared norm of the gradient, its product with the weights, and their squared norm, over the columns that
/// are here. `operands.products: [capacity, 3]` of `f64` receives them, zeros behind the last row.
///
/// # Errors
/// When rows are too long.
pub fn row_products(operands: &UpdateRows<'_>) -> Result<Launch> {
    let dim = dim_max(operands.tables)?;
    let first = if fuses(dim, DType::F32) { 0 } else { 3 };
    let kernel = Kernel::new("whole_rows", KERNELS[first + kind(operands)]);
    let capacity = rows_of(operands)?;
    let (launch, lanes) = on_rows(operands, kernel, dim);
    Ok(launch
        .with(operands.row_bits)
        .with(lanes)
        .with(capacity)
        .with(operands.products))
}

/// What ranks exchange of rows of which each has some columns.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    /// Ranks that have columns of the rows: rank r those from `r * columns / ranks` on.
    pub ranks: usize,
    /// Elements from a row's gradient to its weights: [`packed_width`].
    pub width: usize,
    /// This rank's, `[capacity, 2, width]` of `f32`.
    pub own: Address,
    /// All ranks', `[ranks, capacity, 2, width]` of `f32`.
    pub all: Address,
}

/// Elements that hold one rank's columns of rows of up to `columns`.
pub fn packed_width(columns: usize, ranks: usize) -> usize {
    row_stride(columns.div_ceil(ranks))
}

/// Puts the gradient and the weights of each row beside each other, at `columns.own`, for ranks to exchange.
///
/// # Errors
/// When rows are too long.
pub fn pack(operands: &UpdateRows<'_>, columns: &Columns) -> Result<Launch> {
    let dim = dim_max(operands.tables)?;
    let work = rows_of(operands)? as usize * columns.width;
    let blocks = blocks_for(work, THREADS as usize, 1 << 16);
    let kernel = Kernel::new("whole_rows", KERNELS[6 + kind(operands)]);
    Ok(Launch::new(kernel, blocks, THREADS)
        .with(operands.tables_on_device)
        .with(operands.rows.keys)
        .with(operands.rows.count)
        .with(operands.gradients)
        .with(row_stride(dim) as u64)
        .with(operands.row_bits)
        .with(columns.width as u32)
        .with(columns.own))
}

/// Computes from the columns of all ranks, at `columns.all`, what an update needs of whole rows, with the bits that a rank
/// which holds whole rows computes. `operands.products` receives it.
///
/// # Errors
/// When whole rows are too long.
pub fn of_columns(
    operands: &UpdateRows<'_>,
    rule: &SparseRule,
    columns: &Columns,
) -> Result<Launch> {
    let capacity = rows_of(operands)?;
    let dim = longest(operands.tables.iter().map(|table| table.columns))?;
    let wide = usize::from(!fuses(dim, DType::F32));
    let lanes = group_lanes(dim, DType::F32);
    let blocks = blocks_for(operands.capacity, (THREADS / lanes) as usize, 1 << 14);
    let kernel = Kernel::new("whole_rows", KERNELS[9 + wide]);
    Ok(Launch::new(kernel, blocks, THREADS)
        .with(operands.tables_on_device)
        .with(operands.rows.keys)
        .with(operands.rows.count)
        .with(operands.row_bits)
        .with(lanes)
        .with(columns.all)
        .with(columns.ranks as u32)
        .with(capacity)
        .with(columns.width as u32)
        .with_struct(&RawRule::from(rule))
        .with(operands.products))
}

fn rows_of(operands: &UpdateRows<'_>) -> Result<u32> {
    count(OPERATION, "rows number below 2^31", operands.capacity)
}

/// Which of three kernels, by the type of the tables.
fn kind(operands: &UpdateRows<'_>) -> usize {
    match operands.weights {
        DType::Bf16 => 1,
        DType::F16 => 2,
        _ => 0,
    }
}
