//! Embedding tables: lookups, sorting, updates.

use streamrec_kernels::DType;
use streamrec_kernels::cuda::embedding_bag::{self, Bags, Forward, Lookup};
use streamrec_kernels::cuda::groups::{self, Build, Rows, Sorted, Source, build};
use streamrec_kernels::cuda::radix_sort::counts_len;
use streamrec_kernels::cuda::sparse_optimizer::{
    Gradients, Partial, Table, UpdateRows, fuses, row_stride, sum, tiles, update, update_rows,
};
use streamrec_kernels::cuda::{Address, DeviceError, Executor, Launch, Matrix, Step};
use streamrec_kernels::sparse_optimizer::SparseRule;

use super::lookups::{Ids, Lookups};
use super::{FLOATS, Memory, Operation, Outcome, Shapes, Visit, Work};

/// The rule of all updates: one number a row.
pub const RULE: SparseRule = SparseRule::RowWiseAdagrad {
    eps: 1e-8,
    initial_accumulator: 0.0,
    weight_decay: 0.0,
    max_row_norm: None,
};

/// One table a feature, one id a sample.
pub struct Tables {
    pub batch: usize,
    pub features: usize,
    pub rows: usize,
    pub dim: usize,
    weights: Address,
    sums_of_squares: Address,
    pub step: Address,
    /// What updates lower when they meet a gradient that is not finite.
    not_finite: Address,
}

impl Tables {
    pub fn new<E: Executor>(
        memory: &mut Memory<'_, E>,
        batch: usize,
        [features, rows, dim]: [usize; 3],
    ) -> Result<Self, DeviceError> {
        Ok(Self {
            weights: memory.numbers(DType::F32, features * rows * dim)?,
            sums_of_squares: memory.zeros(4 * features * rows)?,
            step: memory.upload(&[Step::new(0.01, 3, [0.9, 0.99])])?,
            not_finite: memory.complaint()?,
            batch,
            features,
            rows,
            dim,
        })
    }

    /// Fills the same memory with weights of another type.
    fn fill<E: Executor>(
        &self,
        memory: &mut Memory<'_, E>,
        dtype: DType,
    ) -> Result<(), DeviceError> {
        memory.fill(self.weights, dtype, self.features * self.rows * self.dim)
    }

    fn columns(&self) -> usize {
        self.features * self.dim
    }

    pub fn describe(&self, what: &str) -> String {
        let Self {
            batch,
            features,
            rows,
            dim,
            ..
        } = self;
        format!("{features} tables of {rows} x {dim}, batch {batch}, {what}")
    }

    fn table(&self, feature: usize, dtype: DType) -> Address {
        Address(self.weights.0 + (feature * self.rows * self.dim * dtype.bytes()) as u64)
    }

    /// The first `dim` columns of each table.
    pub fn tables(&self, dtype: DType, dim: usize) -> Vec<Table> {
        let table = |feature: usize| Table {
            weights: self.table(feature, dtype).0,
            first: self.sums_of_squares.0 + (4 * feature * self.rows) as u64,
            second: 0,
            row_stride: self.dim as i64,
            first_row: (feature * self.rows) as u64,
            dim: dim as u32,
            learning_rate_scale: 1.0,
            weight_decay: 0.0,
            columns: self.dim as u32,
            first_column: 0,
            reserved: 0,
        };
        (0..self.features).map(table).collect()
    }
}

/// A batch's ids in a device's memory, with room to sort them.
pub struct Batch {
    pub lookups: Lookups,
    pub what: Ids,
    pub bags: Bags,
    pub sources: Vec<Source>,
    pub sources_on_device: Address,
    pub memory: groups::Memory,
    pub rows: Rows,
    first_bad: Address,
}

impl Batch {
    pub fn new<E: Executor>(
        memory: &mut Memory<'_, E>,
        tables: &Tables,
        what: Ids,
    ) -> Result<Self, DeviceError> {
        let lookups = Lookups::new(what, tables.batch, tables.features, tables.rows);
        let capacity = lookups.len();
        let source = |feature: usize| Source {
            rows: tables.rows as i64,
            table: feature as u32,
            column: (feature * tables.dim) as u32,
            mean: 0,
            reserved: 0,
        };
        let sources: Vec<Source> = (0..tables.features).map(source).collect();
        Ok(Self {
            bags: Bags {
                ids: memory.upload(&lookups.ids)?,
                offsets: memory.upload(&lookups.offsets)?,
                weights: Address::NULL,
                batch: tables.batch,
                features: tables.features,
            },
            sources_on_device: memory.upload(&sources)?,
            memory: groups::Memory {
                keys: [memory.zeros(8 * capacity)?, memory.zeros(8 * capacity)?],
                positions: [memory.zeros(4 * capacity)?, memory.zeros(4 * capacity)?],
                bags: memory.zeros(4 * capacity)?,
                counts: memory.zeros(4 * counts_len(capacity))?,
                totals: memory.zeros(4 * 256)?,
                list_lengths: memory.zeros(8)?,
                capacity,
            },
            rows: Rows {
                keys: memory.zeros(8 * capacity)?,
                row_of: memory.zeros(4 * capacity)?,
                count: memory.zeros(4)?,
            },
            first_bad: memory.complaint()?,
            lookups,
            what,
            sources,
        })
    }

    /// The launches that sort, and list the rows.
    pub fn sort(&self) -> Outcome<(Vec<Launch>, Sorted)> {
        Ok(build(&Build {
            bags: self.bags,
            sources: &self.sources,
            sources_on_device: self.sources_on_device,
            memory: self.memory,
            rows: Some(self.rows),
            first_bad: self.first_bad,
        })?)
    }

    /// The launches that sort, each with its bytes.
    pub fn sort_bytes(&self, launches: Vec<Launch>) -> Vec<(Launch, usize)> {
        let (len, rows) = (self.lookups.len(), self.lookups.rows);
        let counts = 4 * counts_len(len);
        let bytes = |name: &str| match name {
            "number_lookups" => 8 * len + 8 * self.lookups.offsets.len() + 16 * len,
            "number_rows" => 8 * len,
            "radix_count" => 8 * len + counts,
            "scan_rows" => 2 * counts,
            "radix_scatter" => 24 * len + counts,
            "count_rows" => 8 * len,
            _ => 12 * len + 8 * rows,
        };
        let bytes = |launch: Launch| {
            let bytes = bytes(launch.kernel.name);
            (launch, bytes)
        };
        launches.into_iter().map(bytes).collect()
    }
}

pub fn each<E: Executor>(
    memory: &mut Memory<'_, E>,
    shapes: &Shapes,
    visit: Visit<'_, E>,
) -> Outcome<()> {
    let narrow = [shapes.features, shapes.rows, shapes.dim];
    for shape in [narrow, shapes.wide] {
        let tables = Tables::new(memory, shapes.batch, shape)?;
        let batches = [
            Batch::new(memory, &tables, Ids::Uniform)?,
            Batch::new(memory, &tables, Ids::Zipf)?,
        ];
        // Outputs, and gradients of them: never both at a time.
        let mut outs = Vec::new();
        for dtype in FLOATS {
            outs.push(memory.matrix(dtype, [tables.batch, tables.columns()])?);
        }
        let work = Rooms::new(memory, &tables, batches[0].lookups.len())?;
        for weights in FLOATS {
            tables.fill(memory, weights)?;
            for batch in &batches {
                forward(memory, &tables, batch, weights, &outs, visit)?;
                if weights == DType::F32 {
                    sort(memory, &tables, batch, visit)?;
                }
                for dout in &outs {
                    memory.fill(dout.address, dout.dtype, dout.shape[0] * dout.shape[1])?;
                    backward(memory, &tables, batch, (*dout, weights), &work, visit)?;
                }
            }
        }
    }
    Ok(())
}

fn forward<E: Executor>(
    memory: &mut Memory<'_, E>,
    tables: &Tables,
    batch: &Batch,
    weights: DType,
    outs: &[Matrix],
    visit: Visit<'_, E>,
) -> Outcome<()> {
    let lookup = |feature: usize| Lookup {
        table: tables.table(feature, weights).0,
        rows: tables.rows as i64,
        row_stride: tables.dim as i64,
        dim: tables.dim as u32,
        feature: feature as u32,
        column: (feature * tables.dim) as u32,
        mean: 0,
    };
    let lookups: Vec<Lookup> = (0..tables.features).map(lookup).collect();
    let lookups_on_device = memory.upload(&lookups)?;
    for out in outs {
        let launch = embedding_bag::forward(&Forward {
            bags: batch.bags,
            lookups: &lookups,
            lookups_on_device,
            table: weights,
            out: *out,
            first_bad: batch.first_bad,
        })?;
        let rows = batch.lookups.rows * tables.dim * weights.bytes();
        let ids = 8 * batch.lookups.len() + 8 * batch.lookups.offsets.len();
        let bytes = ids + rows + super::memory::bytes(out);
        let shape = tables.describe(&format!("{}, {weights} to {}", batch.what, out.dtype));
        let mut operation = Operation::new("embedding forward", shape, [(launch, bytes)]);
        operation.untouched.push(batch.first_bad);
        visit(memory.executor, operation)?;
    }
    Ok(())
}

fn sort<E: Executor>(
    memory: &mut Memory<'_, E>,
    tables: &Tables,
    batch: &Batch,
    visit: Visit<'_, E>,
) -> Outcome<()> {
    let (launches, _) = batch.sort()?;
    let shape = tables.describe(&batch.what.to_string());
    let mut operation = Operation::new("sort of lookups", shape, batch.sort_bytes(launches));
    operation.untouched.push(batch.first_bad);
    visit(memory.executor, operation)
}

/// Memory of the updates.
struct Rooms {
    partial: Partial,
    gradients: Address,
}

impl Rooms {
    fn new<E: Executor>(
        memory: &mut Memory<'_, E>,
        tables: &Tables,
        capacity: usize,
    ) -> Result<Self, DeviceError> {
        let stride = row_stride(tables.dim);
        let floats = 4 * tiles(capacity) * stride;
        Ok(Self {
            partial: Partial {
                heads: memory.zeros(floats)?,
                tails: memory.zeros(floats)?,
                lists: memory.zeros(8 * tiles(capacity))?,
                list_lengths: Address::NULL,
            },
            gradients: memory.zeros(4 * capacity * stride)?,
        })
    }
}

fn backward<E: Executor>(
    memory: &mut Memory<'_, E>,
    tables: &Tables,
    batch: &Batch,
    (dout, weights): (Matrix, DType),
    rooms: &Rooms,
    visit: Visit<'_, E>,
) -> Outcome<()> {
    let own = tables.tables(weights, tables.dim);
    let list_lengths = batch.memory.list_lengths;
    let (sorting, sorted) = batch.sort()?;
    let gradients = Gradients {
        bags: batch.bags,
        sorted,
        capacity: batch.lookups.len(),
        sources: &batch.sources,
        sources_on_device: batch.sources_on_device,
        tables: &own,
        tables_on_device: memory.upload(&own)?,
        dout,
        scaled: true,
        partial: Partial {
            list_lengths,
            ..rooms.partial
        },
        step: tables.step,
    };
    // A lookup's key, position and bag, and its gradient.
    let lookups = batch.lookups.len() * (16 + tables.dim * dout.dtype.bytes());
    // A row of several pieces is written and read as these.
    let pieces = 4 * batch.lookups.pieces * tables.dim;
    let long_rows = batch.lookups.long_rows;
    let short_rows = batch.lookups.rows - long_rows;
    // A row is read and written, and so is its number.
    let row = 2 * (tables.dim * weights.bytes() + 4);
    let mut two = |name, launches: [Launch; 2], row: usize, what: String| -> Outcome<()> {
        let bytes = [
            lookups + pieces + short_rows * row,
            8 + pieces + long_rows * row,
        ];
        let mut operation = Operation::new(
            name,
            tables.describe(&what),
            launches.into_iter().zip(bytes),
        );
        operation.prepare = sorting.clone();
        operation.variants[0].insert(0, Work::Zero(list_lengths, 8));
        operation.untouched.push(tables.not_finite);
        visit(memory.executor, operation)
    };
    let pair = weights == DType::F32 || weights == dout.dtype;
    if pair && fuses(tables.dim, dout.dtype) {
        let launches = update(&gradients, &RULE, weights, tables.not_finite)?;
        let what = format!("{}, {} gradients, {weights} tables", batch.what, dout.dtype);
        two("backward with update", launches, row, what)?;
    }
    if weights == DType::F32 {
        let launches = sum(&gradients, &batch.rows, rooms.gradients)?;
        let what = format!("{}, {} gradients", batch.what, dout.dtype);
        two("backward, rows summed", launches, 4 * tables.dim, what)?;
    }
    if dout.dtype == DType::F32 {
        summed(memory, tables, batch, weights, rooms, visit)?;
    }
    Ok(())
}

/// The update of rows whose gradients have been summed.
fn summed<E: Executor>(
    memory: &mut Memory<'_, E>,
    tables: &Tables,
    batch: &Batch,
    weights: DType,
    rooms: &Rooms,
    visit: Visit<'_, E>,
) -> Outcome<()> {
    let own = tables.tables(weights, tables.dim);
    let (sorting, sorted) = batch.sort()?;
    let operands = UpdateRows {
        tables: &own,
        tables_on_device: memory.upload(&own)?,
        weights,
        row_bits: sorted.layout.row_bits,
        rows: batch.rows,
        capacity: batch.lookups.len(),
        gradients: rooms.gradients,
        products: Address::NULL,
        step: tables.step,
        not_finite: tables.not_finite,
    };
    let launch = update_rows(&operands, &RULE)?;
    // Key and gradient are read, the row and its number read and written.
    let row = 8 + 4 * tables.dim + 2 * (tables.dim * weights.bytes() + 4);
    let shape = tables.describe(&format!("{}, {weights} tables", batch.what));
    let work = [(launch, batch.lookups.rows * row)];
    let mut operation = Operation::new("update of summed rows", shape, work);
    operation.prepare = sorting;
    operation.untouched.push(tables.not_finite);
    visit(memory.executor, operation)
}
