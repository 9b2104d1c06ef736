//! Gradients of touched rows, and updates of tables.
//!
//! [`update`] sums and updates at once; [`sum`] keeps the rows' gradients, unscaled, and tells
//! whether any is not finite, for [`update_rows`] to update from once all ranks know.

use bytemuck::{Pod, Zeroable};

use super::{
    embedding_bag::{Bags, group_lanes},
    groups::{Rows, Sorted, Source},
    launch::{Address, Kernel, Launch, Matrix, THREADS, blocks_for, count},
};
use crate::{
    error::{Error, Result},
    sparse_optimizer::SparseRule,
    tensor::DType,
};

const OPERATION: &str = "cuda::sparse_optimizer";
pub(super) const KERNELS: &[&str] = &[
    "update_tiles<float, float>",
    "update_tiles<bfloat16, float>",
    "update_tiles<bfloat16, bfloat16>",
    "update_tiles<float16, float>",
    "update_tiles<float16, float16>",
    "finish_updates<float, 4>",
    "finish_updates<float, 8>",
    "finish_updates<bfloat16, 8>",
    "finish_updates<float16, 8>",
    "sum_tiles<float, 1>",
    "sum_tiles<bfloat16, 1>",
    "sum_tiles<float16, 1>",
    "sum_tiles<float, 8>",
    "sum_tiles<bfloat16, 4>",
    "sum_tiles<float16, 4>",
    "finish_sums<4, 1>",
    "finish_sums<8, 1>",
    "finish_sums<4, 8>",
    "finish_sums<8, 4>",
    "update_rows<float, 1>",
    "update_rows<bfloat16, 1>",
    "update_rows<float16, 1>",
    "update_rows<float, 8>",
    "update_rows<bfloat16, 8>",
    "update_rows<float16, 8>",
];

/// The longest row.
pub const DIM_MAX: usize = 1024;
/// Bytes of the gradient of a row that one vector a lane holds.
const NARROW_BYTES: usize = 512;
/// Lookups of a tile, and of a piece of a row.
const TILE: usize = 32;
/// Blocks that finish rows of several pieces: enough for a large GPU, and a fixed number for graphs.
const FINISH_BLOCKS: u32 = 256;

/// Floats that hold the slices of a long row of up to 128 columns: it has the more slices the fewer columns it has.
const FINISH_FLOATS: usize = 1024;

/// One table, in device memory. `table_rows.cuh` has the same.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Table {
    /// The address of the weights, `[rows, dim]`.
    pub weights: u64,
    /// The address of the rule's first state tensor, or 0.
    pub first: u64,
    /// The address of the rule's second state tensor, or 0.
    pub second: u64,
    /// Elements from one row of the weights to the next.
    pub row_stride: i64,
    /// The number of the first row that is here among all rows of the model: random numbers depend on it.
    pub first_row: u64,
    /// Elements of a row.
    pub dim: u32,
    /// The factor on the step's learning rate.
    pub learning_rate_scale: f32,
    /// The strength of the decay; that of the rule is not read.
    pub weight_decay: f32,
    /// Elements of a whole row, of which several ranks may hold some each.
    pub columns: u32,
    /// The first of them that is here: random numbers depend on it.
    pub first_column: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Table>() == 64);

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RawLookups {
    keys: u64,
    positions: u64,
    bags: u64,
    offsets: u64,
    weights: u64,
    sources: u64,
    tables: u64,
    nothing: u64,
    len: u32,
    batch: u32,
    row_bits: u32,
    lanes: u32,
    scaled: u32,
    reserved: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RawPartial {
    heads: u64,
    tails: u64,
    lengths: u64,
    short_list: u64,
    long_list: u64,
    stride: u64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct RawRule {
    kind: u32,
    eps: f32,
    beta1: f32,
    beta2: f32,
    max_row_norm: f32,
    reserved: u32,
}

const _: () = assert!(size_of::<RawLookups>() == 88 && size_of::<RawPartial>() == 48);
const _: () = assert!(size_of::<RawRule>() == 24);

impl From<&SparseRule> for RawRule {
    fn from(rule: &SparseRule) -> Self {
        let (kind, eps, betas) = match *rule {
            SparseRule::Sgd { .. } => (0, 0.0, [0.0; 2]),
            SparseRule::RowWiseAdagrad { eps, .. } => (1, eps, [0.0; 2]),
            SparseRule::Adagrad { eps, .. } => (2, eps, [0.0; 2]),
            SparseRule::LazyAdam {
                beta1, beta2, eps, ..
            } => (3, eps, [beta1, beta2]),
        };
        Self {
            kind,
            eps,
            beta1: betas[0],
            beta2: betas[1],
            max_row_norm: rule.max_row_norm().unwrap_or(-1.0),
            reserved: 0,
        }
    }
}

/// Working memory for rows of several pieces: sums of pieces, by the tile in which each begins.
#[derive(Debug, Clone, Copy)]
pub struct Partial {
    /// `[tiles(capacity), row_stride(dim)]` of `f32`.
    pub heads: Address,
    /// `[tiles(capacity), row_stride(dim)]` of `f32`.
    pub tails: Address,
    /// `[2, tiles(capacity)]` of `u32`.
    pub lists: Address,
    /// [`Memory::list_lengths`](super::groups::Memory::list_lengths).
    pub list_lengths: Address,
}

/// Tiles of so many lookups.
pub fn tiles(capacity: usize) -> usize {
    capacity.div_ceil(TILE)
}

/// Elements from one row of sums to the next.
pub fn row_stride(dim_max: usize) -> usize {
    dim_max.next_multiple_of(4)
}

/// The lookups whose gradients are summed.
#[derive(Debug, Clone, Copy)]
pub struct Gradients<'a> {
    /// The ids.
    pub bags: Bags,
    /// The lookups, sorted.
    pub sorted: Sorted,
    /// Lookups that there is room for.
    pub capacity: usize,
    /// Each feature of the batch, as they lie at `sources_on_device`.
    pub sources: &'a [Source],
    /// The same, in device memory.
    pub sources_on_device: Address,
    /// Each table, as they lie at `tables_on_device`.
    pub tables: &'a [Table],
    /// The same, in device memory.
    pub tables_on_device: Address,
    /// The gradient of the forward call's output, `[batch, columns]`.
    pub dout: Matrix,
    /// Whether it is still to be divided by the loss scale; sums that ranks exchange are not.
    pub scaled: bool,
    /// Working memory.
    pub partial: Partial,
    /// The [`Step`](super::Step).
    pub step: Address,
}

/// Whether [`update`] takes tables of up to `dim_max` columns; others need [`sum`] and
/// [`update_rows`].
pub fn fuses(dim_max: usize, gradient: DType) -> bool {
    dim_max * gradient.bytes() <= NARROW_BYTES
}

/// Whether [`update`] takes tables of a type with gradients of another: tables in half precision need gradients of their
/// own type; others need [`sum`] and [`update_rows`].
pub fn fuses_types(gradient: DType, weights: DType) -> bool {
    fused_kernels(gradient, weights).is_some()
}

/// The kernels of tiles, and of rows of several pieces.
fn fused_kernels(gradient: DType, weights: DType) -> Option<(usize, usize)> {
    Some(match (gradient, weights) {
        (DType::F32, DType::F32) => (0, 5),
        (DType::Bf16, DType::F32) => (1, 6),
        (DType::Bf16, DType::Bf16) => (2, 7),
        (DType::F16, DType::F32) => (3, 6),
        (DType::F16, DType::F16) => (4, 8),
        _ => return None,
    })
}

/// Sums the gradient of each touched row and updates it. `weights` is the type of the tables;
/// `not_finite: [1]` of `u64` receives the smallest key of a row whose gradient is not finite, which
/// stays as it was.
///
/// # Errors
/// When shapes do not fit, rows are too long, or there is no kernel for the types.
pub fn update(
    gradients: &Gradients<'_>,
    rule: &SparseRule,
    weights: DType,
    not_finite: Address,
) -> Result<[Launch; 2]> {
    let (lookups, partial, dim) = operands(gradients)?;
    let dtype = gradients.dout.dtype;
    if !fuses(dim, dtype) {
        return Err(too_long(
            "rows of a fused update",
            dim,
            NARROW_BYTES / dtype.bytes(),
        ));
    }
    let Some((tiles_kernel, finish_kernel)) = fused_kernels(dtype, weights) else {
        return Err(Error::DType {
            operation: OPERATION,
            operand: "table",
            expected: dtype,
            got: weights,
        });
    };
    let rule = RawRule::from(rule);
    let first = tile_launch(tiles_kernel, gradients, &lookups)
        .with_struct(&partial)
        .with_struct(&rule)
        .with(gradients.step)
        .with(not_finite);
    let second = finish_launch(finish_kernel, &lookups, &partial)
        .with_struct(&rule)
        .with(gradients.step)
        .with(not_finite);
    Ok([first, second])
}

/// Sums the gradient of each touched row into `out: [rows, row_stride(dim)]` of `f32`, unscaled, in
/// the order of [`Rows::keys`]. The step's `overflow` is set where one is not finite.
///
/// # Errors
/// When shapes do not fit or rows are too long.
pub fn sum(gradients: &Gradients<'_>, rows: &Rows, out: Address) -> Result<[Launch; 2]> {
    let (lookups, partial, dim) = operands(gradients)?;
    let dtype = gradients.dout.dtype;
    let wide = !fuses(dim, dtype);
    let kind = match dtype {
        DType::Bf16 => 1,
        DType::F16 => 2,
        _ => 0,
    };
    let tiles_kernel = if wide { 12 } else { 9 } + kind;
    let finish_kernel = if wide { 17 } else { 15 } + usize::from(dtype.is_half());
    let stride = row_stride(dim) as u64;
    let first = tile_launch(tiles_kernel, gradients, &lookups)
        .with_struct(&partial)
        .with(rows.row_of)
        .with(out)
        .with(stride)
        .with(gradients.step);
    let second = finish_launch(finish_kernel, &lookups, &partial)
        .with(rows.row_of)
        .with(out)
        .with(stride)
        .with(gradients.step);
    Ok([first, second])
}

/// The operands of [`update_rows`].
#[derive(Debug, Clone, Copy)]
pub struct UpdateRows<'a> {
    /// Each table, as they lie at `tables_on_device`.
    pub tables: &'a [Table],
    /// The same, in device memory.
    pub tables_on_device: Address,
    /// The type of the tables.
    pub weights: DType,
    /// Bits of a row's number in a key.
    pub row_bits: u32,
    /// The keys of rows, each once; `row_of` is not read.
    pub rows: Rows,
    /// Rows that there is room for.
    pub capacity: usize,
    /// Their gradients, `[rows, row_stride(dim)]` of `f32`.
    pub gradients: Address,
    /// What the update needs of whole rows of which several ranks hold columns, of [`whole_rows`](super::whole_rows); null
    /// where rows are whole.
    pub products: Address,
    /// The [`Step`](super::Step): nothing is done when `skip` is set.
    pub step: Address,
    /// As for [`update`].
    pub not_finite: Address,
}

/// A kernel that takes a row with so many lanes, with its first operands.
pub(super) fn on_rows(operands: &UpdateRows<'_>, kernel: Kernel, dim: usize) -> (Launch, u32) {
    let lanes = group_lanes(dim, DType::F32);
    let blocks = blocks_for(operands.capacity, (THREADS / lanes) as usize, 1 << 14);
    let launch = Launch::new(kernel, blocks, THREADS)
        .with(operands.tables_on_device)
        .with(operands.rows.keys)
        .with(operands.rows.count)
        .with(operands.gradients)
        .with(row_stride(dim) as u64);
    (launch, lanes)
}

/// Updates rows from their gradients, unless the step is to be skipped.
///
/// # Errors
/// When rows are too long.
pub fn update_rows(operands: &UpdateRows<'_>, rule: &SparseRule) -> Result<Launch> {
    let dim = dim_max(operands.tables)?;
    let wide = !fuses(dim, DType::F32);
    let kind = match operands.weights {
        DType::Bf16 => 1,
        DType::F16 => 2,
        _ => 0,
    };
    let kernel = Kernel::new(
        "sparse_optimizer",
        KERNELS[if wide { 22 } else { 19 } + kind],
    );
    let (launch, lanes) = on_rows(operands, kernel, dim);
    Ok(launch
        .with(operands.products)
        .with(operands.row_bits)
        .with(lanes)
        .with_struct(&RawRule::from(rule))
        .with(operands.step)
        .with(operands.not_finite))
}

fn tile_launch(kernel: usize, gradients: &Gradients<'_>, lookups: &RawLookups) -> Launch {
    let groups = (THREADS / lookups.lanes) as usize;
    let blocks = blocks_for(tiles(gradients.capacity), groups, 1 << 16);
    Launch::new(
        Kernel::new("sparse_optimizer", KERNELS[kernel]),
        blocks,
        THREADS,
    )
    .with_struct(lookups)
    .with_matrix(&gradients.dout)
}

fn finish_launch(kernel: usize, lookups: &RawLookups, partial: &RawPartial) -> Launch {
    // Of longer rows each warp holds one slice.
    let floats = FINISH_FLOATS.max((THREADS / 32) as usize * partial.stride as usize);
    let blocks = FINISH_BLOCKS.min(lookups.len.div_ceil(TILE as u32).max(1));
    Launch::new(
        Kernel::new("sparse_optimizer", KERNELS[kernel]),
        blocks,
        THREADS,
    )
    .with_shared(4 * floats)
    .with_struct(lookups)
    .with_struct(partial)
}

/// Checks the operands; the last value is the length of the longest row.
fn operands(gradients: &Gradients<'_>) -> Result<(RawLookups, RawPartial, usize)> {
    let Gradients {
        bags,
        sorted,
        dout,
        partial,
        ..
    } = gradients;
    let len = count(OPERATION, "lookups number below 2^31", gradients.capacity)?;
    let dim = dim_max(gradients.tables)?;
    expect_columns(
        OPERATION,
        gradients.sources,
        gradients.tables,
        dout,
        bags.batch,
    )?;
    let tile_count = tiles(gradients.capacity) as u64;
    let lookups = RawLookups {
        keys: sorted.keys.0,
        positions: sorted.positions.0,
        bags: sorted.bags.0,
        offsets: bags.offsets.0,
        weights: bags.weights.0,
        sources: gradients.sources_on_device.0,
        tables: gradients.tables_on_device.0,
        nothing: sorted.layout.nothing,
        len,
        batch: bags.batch as u32,
        row_bits: sorted.layout.row_bits,
        lanes: group_lanes(dim, dout.dtype),
        scaled: u32::from(gradients.scaled),
        reserved: 0,
    };
    let partial = RawPartial {
        heads: partial.heads.0,
        tails: partial.tails.0,
        lengths: partial.list_lengths.0,
        short_list: partial.lists.0,
        long_list: partial.lists.0 + 4 * tile_count,
        stride: row_stride(dim) as u64,
    };
    Ok((lookups, partial, dim))
}

/// Checks that `dout: [batch, columns]` has the columns of each source.
pub(super) fn expect_columns(
    operation: &'static str,
    sources: &[Source],
    tables: &[Table],
    dout: &Matrix,
    batch: usize,
) -> Result<()> {
    for source in sources {
        let Some(table) = tables.get(source.table as usize) else {
            return Err(Error::Index {
                operation,
                what: "tables are numbered below the number of tables",
                index: tables.len(),
                got: i64::from(source.table),
            });
        };
        let end = (source.column + table.dim) as usize;
        let columns = dout.shape[1].max(end);
        crate::ops::operand::expect_float(operation, "dout", dout, [batch, columns])?;
    }
    Ok(())
}

pub(super) fn dim_max(tables: &[Table]) -> Result<usize> {
    longest(tables.iter().map(|table| table.dim))
}

/// The longest of some rows.
pub(super) fn longest(dims: impl Iterator<Item = u32>) -> Result<usize> {
    let dim = dims.max().unwrap_or(0) as usize;
    if dim > DIM_MAX {
        return Err(too_long("rows of a table", dim, DIM_MAX));
    }
    Ok(dim)
}

fn too_long(operand: &'static str, got: usize, expected: usize) -> Error {
    Error::Shape {
        operation: OPERATION,
        operand,
        expected: vec![expected],
        got: vec![got],
    }
}
