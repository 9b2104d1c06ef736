//! The lookups of a batch, sorted by table and row.
//!
//! A lookup's key is `table << row_bits | row`. Lookups that count for nothing (ids outside their
//! table, room behind the last lookup) have a key above all others, so that batches of any number of
//! lookups run the same launches, up to a fixed capacity.

use bytemuck::{Pod, Zeroable};

use super::{
    embedding_bag::Bags,
    launch::{Address, Kernel, Launch, Matrix, THREADS, blocks_for, count, expect_dtype},
    radix_sort::{self, Pairs, TILE},
    sparse_optimizer::{Table, dim_max, expect_columns},
};
use crate::{
    error::{Error, Result},
    ops::operand::expect_len,
    tensor::DType,
};

const OPERATION: &str = "cuda::groups";
pub(super) const KERNELS: &[&str] = &[
    "number_lookups",
    "count_rows",
    "list_rows",
    "end_rows",
    "number_rows",
    "place_rows",
    "list_asked",
];

/// Lanes that number one bag.
const BAG_LANES: usize = 4;

/// Where one feature's ids point and its gradient lies, in device memory. `table_rows.cuh` has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Source {
    /// The rows of its table.
    pub rows: i64,
    /// The number of its table, from 0. Features may share one.
    pub table: u32,
    /// The first column of its pooled vectors.
    pub column: u32,
    /// 1 for the mean of a bag, 0 for its sum.
    pub mean: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Source>() == 24);

/// How keys are made of the tables' numbers and rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// Bits of a row's number.
    pub row_bits: u32,
    /// Bits of a key.
    pub bits: u32,
    /// The key of lookups that count for nothing.
    pub nothing: u64,
}

impl Keys {
    /// For all features of a batch.
    ///
    /// # Errors
    /// When a key would need more than 64 bits.
    pub fn new(sources: &[Source]) -> Result<Self> {
        let bits_of = |number: u64| 64 - number.leading_zeros();
        let rows = sources.iter().map(|source| source.rows.max(1) as u64 - 1);
        let row_bits = bits_of(rows.max().unwrap_or(0)).max(1);
        let tables = sources.iter().map(|source| u64::from(source.table) + 1);
        let tables = tables.max().unwrap_or(0);
        let bits = row_bits + bits_of(tables);
        if bits > 64 {
            return Err(Error::Index {
                operation: OPERATION,
                what: "numbers of tables and rows fit 64 bits together",
                index: 0,
                got: i64::from(bits),
            });
        }
        Ok(Self {
            row_bits,
            bits,
            nothing: tables << row_bits,
        })
    }
}

/// Memory of [`build`], for up to `capacity` lookups.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// `[capacity]` of `u64` each.
    pub keys: [Address; 2],
    /// `[capacity]` of `u32` each.
    pub positions: [Address; 2],
    /// `[capacity]` of `u32`.
    pub bags: Address,
    /// `[radix_sort::counts_len(capacity)]` of `u32`.
    pub counts: Address,
    /// `[256]` of `u32`.
    pub totals: Address,
    /// `[2]` of `u32`: lengths of the lists of [`sparse_optimizer`](super::sparse_optimizer).
    pub list_lengths: Address,
    /// Lookups that there is room for.
    pub capacity: usize,
}

/// Where the touched rows are listed.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// The keys of touched rows, ascending. `[capacity]` of `u64`
    pub keys: Address,
    /// The index in `keys` of each sorted lookup's row. `[capacity]` of `u32`
    pub row_of: Address,
    /// The number of touched rows. `[1]` of `u32`
    pub count: Address,
}

/// The operands of [`build`].
#[derive(Debug, Clone, Copy)]
pub struct Build<'a> {
    /// The ids; the weights are not read.
    pub bags: Bags,
    /// Each feature of the batch, as they lie at `sources_on_device`.
    pub sources: &'a [Source],
    /// The same, in device memory.
    pub sources_on_device: Address,
    /// Working memory and results.
    pub memory: Memory,
    /// Where to list the touched rows, if they are asked for.
    pub rows: Option<Rows>,
    /// As [`Forward::first_bad`](super::embedding_bag::Forward::first_bad).
    pub first_bad: Address,
}

/// Sorted lookups, after the launches of [`build`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sorted {
    /// `[capacity]` of `u64`, ascending.
    pub keys: Address,
    /// The place in `ids` of each. `[capacity]` of `u32`
    pub positions: Address,
    /// The bag of each place. `[capacity]` of `u32`
    pub bags: Address,
    /// How the keys were made.
    pub layout: Keys,
}

/// Sorts the lookups of a batch, and lists the touched rows.
///
/// # Errors
/// When there is not one source a feature, or numbers are too large.
pub fn build(operands: &Build<'_>) -> Result<(Vec<Launch>, Sorted)> {
    let Build { bags, memory, .. } = operands;
    expect_len(OPERATION, "sources", operands.sources.len(), bags.features)?;
    let layout = Keys::new(operands.sources)?;
    let capacity = count(OPERATION, "lookups number below 2^31", memory.capacity)?;
    let bag_count = bags.batch * bags.features;
    count(OPERATION, "bags number below 2^31", bag_count)?;
    let work = (bag_count * BAG_LANES).max(memory.capacity);
    let blocks = blocks_for(work, THREADS as usize, 1 << 16);
    let number = Launch::new(Kernel::new("groups", KERNELS[0]), blocks, THREADS)
        .with(bags.ids)
        .with(bags.offsets)
        .with(operands.sources_on_device)
        .with(bags.features as u32)
        .with(bags.batch as u32)
        .with(layout.row_bits)
        .with(layout.nothing)
        .with(capacity)
        .with(memory.keys[0])
        .with(memory.positions[0])
        .with(memory.bags)
        .with(memory.list_lengths)
        .with(operands.first_bad);
    sorted(number, memory, layout, operands.rows.as_ref())
}

/// Lets a list of rows that [`build`] made end in keys that count for nothing, up to `capacity` rows, so that the
/// lists of several ranks can lie behind each other. All ranks have the same `sources`.
///
/// # Errors
/// When numbers are too large.
pub fn end_rows(rows: &Rows, capacity: usize, sources: &[Source]) -> Result<Launch> {
    let layout = Keys::new(sources)?;
    let len = count(OPERATION, "rows number below 2^31", capacity)?;
    let blocks = blocks_for(capacity, THREADS as usize, 1 << 16);
    Ok(
        Launch::new(Kernel::new("groups", KERNELS[3]), blocks, THREADS)
            .with(rows.keys)
            .with(rows.count)
            .with(len)
            .with(layout.nothing),
    )
}

/// The operands of [`place_rows`].
#[derive(Debug, Clone, Copy)]
pub struct PlaceRows {
    /// The listed rows; `row_of` is not read.
    pub rows: Rows,
    /// Rows that there is room for in the list.
    pub capacity: usize,
    /// `[rows, stride]` of `f32`.
    pub gradients: Address,
    /// Elements from one row to the next, a multiple of 4.
    pub stride: usize,
    /// Bits of a row's number in a key.
    pub row_bits: u32,
    /// The place of the first row of each table. `[tables]` of `u32`
    pub first_rows: Address,
    /// Receives each row at the place that its key tells, `[.., stride]` of `f32`; other rows stay.
    pub out: Address,
}

/// Puts the rows of a list to the places that their keys tell.
///
/// # Errors
/// When numbers are too large.
pub fn place_rows(operands: &PlaceRows) -> Result<Launch> {
    let stride = count(
        OPERATION,
        "rows have fewer than 2^31 columns",
        operands.stride,
    )?;
    let work = operands.capacity * operands.stride / 4;
    let blocks = blocks_for(work, THREADS as usize, 1 << 16);
    let kernel = Kernel::new("groups", KERNELS[5]);
    Ok(Launch::new(kernel, blocks, THREADS)
        .with(operands.rows.keys)
        .with(operands.rows.count)
        .with(operands.gradients)
        .with(stride)
        .with(operands.row_bits)
        .with(operands.first_rows)
        .with(operands.out))
}

/// The operands of [`list_asked`].
#[derive(Debug, Clone, Copy)]
pub struct ListAsked<'a> {
    /// What ranks ask for: bags of at most one id, `batch / ranks` of each rank.
    pub bags: Bags,
    /// Each feature of the batch, as they lie at `sources_on_device`.
    pub sources: &'a [Source],
    /// The same, in device memory.
    pub sources_on_device: Address,
    /// Each table, as they lie at `tables_on_device`.
    pub tables: &'a [Table],
    /// The same, in device memory.
    pub tables_on_device: Address,
    /// The gradient of each row, still multiplied by the loss scale, `[batch, columns]` of float32.
    pub dout: Matrix,
    /// Ranks that ask.
    pub ranks: usize,
    /// The number of lists of each rank, one behind the other, and that of the one which is written.
    pub lists: [usize; 2],
    /// Keys of all lists, each of `features * batch / ranks` of `u64`; those of empty bags count for nothing.
    pub keys: Address,
    /// Gradients of all lists, unscaled, `[.., stride]` of `f32`.
    pub gradients: Address,
    /// Elements from one row of gradients to the next.
    pub stride: usize,
    /// The [`Step`](super::Step), whose `overflow` is set where a gradient is not finite.
    pub step: Address,
}

/// Lists the rows that ranks ask for, those of each rank by themselves, for [`merge`] to take the lists of all ranks.
///
/// # Errors
/// When there is not one source a feature, shapes do not fit, or numbers are too large.
pub fn list_asked(operands: &ListAsked<'_>) -> Result<Launch> {
    let ListAsked {
        bags,
        sources,
        tables,
        dout,
        ranks,
        ..
    } = *operands;
    expect_len(OPERATION, "sources", sources.len(), bags.features)?;
    expect_columns(OPERATION, sources, tables, &dout, bags.batch)?;
    expect_dtype(OPERATION, "dout", &dout, DType::F32)?;
    let rows = bags.batch / ranks.max(1);
    expect_len(OPERATION, "the bags of a feature", bags.batch, ranks * rows)?;
    let dim = dim_max(tables)?;
    let stride = operands.stride;
    expect_len(OPERATION, "a row of gradients", stride, stride.max(dim))?;
    let layout = Keys::new(sources)?;
    let entries = bags.batch * bags.features;
    count(OPERATION, "bags number below 2^31", entries)?;
    let lanes = dim.clamp(1, 32).next_power_of_two() as u32;
    let blocks = blocks_for(entries, (THREADS / lanes) as usize, 1 << 16);
    let [lists, list] = operands.lists;
    let kernel = Kernel::new("groups", KERNELS[6]);
    Ok(Launch::new(kernel, blocks, THREADS)
        .with(bags.ids)
        .with(bags.offsets)
        .with(operands.sources_on_device)
        .with(operands.tables_on_device)
        .with(bags.features as u32)
        .with(ranks as u32)
        .with(rows as u32)
        .with(layout.row_bits)
        .with(layout.nothing)
        .with_matrix(&dout)
        .with(lists as u32)
        .with(list as u32)
        .with(operands.keys)
        .with(operands.gradients)
        .with(stride as u64)
        .with(lanes)
        .with(operands.step))
}

/// Sorts the rows of several ranks' lists, which lie in the first of `memory.keys` (as many as its capacity), and
/// lists each row once where `rows` are asked for. Afterwards they are as lookups are, each a bag of its own: rows
/// that are equal lie in the order of the ranks.
///
/// # Errors
/// When numbers are too large.
pub fn merge(
    memory: &Memory,
    sources: &[Source],
    rows: Option<&Rows>,
) -> Result<(Vec<Launch>, Sorted)> {
    let layout = Keys::new(sources)?;
    let len = count(OPERATION, "rows number below 2^31", memory.capacity)?;
    let blocks = blocks_for(memory.capacity, THREADS as usize, 1 << 16);
    let number = Launch::new(Kernel::new("groups", KERNELS[4]), blocks, THREADS)
        .with(len)
        .with(memory.positions[0])
        .with(memory.bags)
        .with(memory.list_lengths);
    sorted(number, memory, layout, rows)
}

/// What follows once lookups are numbered.
fn sorted(
    number: Launch,
    memory: &Memory,
    layout: Keys,
    rows: Option<&Rows>,
) -> Result<(Vec<Launch>, Sorted)> {
    let capacity = count(OPERATION, "lookups number below 2^31", memory.capacity)?;
    let pairs = Pairs {
        keys: memory.keys,
        values: memory.positions,
        counts: memory.counts,
        totals: memory.totals,
        len: memory.capacity,
    };
    let (passes, place) = radix_sort::sort(&pairs, layout.bits)?;
    let sorted = Sorted {
        keys: memory.keys[place],
        positions: memory.positions[place],
        bags: memory.bags,
        layout,
    };
    let mut launches = vec![number];
    launches.extend(passes);
    if let Some(rows) = rows {
        launches.extend(list_rows(&sorted, memory, rows, capacity));
    }
    Ok((launches, sorted))
}

fn list_rows(sorted: &Sorted, memory: &Memory, rows: &Rows, capacity: u32) -> [Launch; 3] {
    let tiles = memory.capacity.div_ceil(TILE).max(1) as u32;
    let count = Launch::new(Kernel::new("groups", KERNELS[1]), tiles, THREADS)
        .with(sorted.keys)
        .with(capacity)
        .with(sorted.layout.nothing)
        .with(memory.counts);
    let list = Launch::new(Kernel::new("groups", KERNELS[2]), tiles, THREADS)
        .with(sorted.keys)
        .with(capacity)
        .with(sorted.layout.nothing)
        .with(memory.counts)
        .with(rows.keys)
        .with(rows.row_of);
    let scan = radix_sort::scan_rows(memory.counts, 1, tiles, rows.count);
    [count, scan, list]
}
