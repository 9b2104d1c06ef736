//! What ranks that share tables do with rows before and after they exchange them.

use streamrec_kernels::DType;
use streamrec_kernels::cuda::groups::{
    ListAsked, PlaceRows, end_rows, list_asked, merge, place_rows,
};
use streamrec_kernels::cuda::sparse_optimizer::{UpdateRows, row_stride};
use streamrec_kernels::cuda::whole_rows::{Columns, of_columns, pack, packed_width, row_products};
use streamrec_kernels::cuda::{Address, Executor, Launch};

use super::lookups::Ids;
use super::tables::{Batch, RULE, Tables};
use super::{Memory, Operation, Outcome, Shapes, Visit};

/// Ranks that hold some columns of each row.
const RANKS: usize = 2;

pub fn each<E: Executor>(
    memory: &mut Memory<'_, E>,
    shapes: &Shapes,
    visit: Visit<'_, E>,
) -> Outcome<()> {
    let narrow = [shapes.features, shapes.rows, shapes.dim];
    for shape in [narrow, shapes.wide] {
        let tables = Tables::new(memory, shapes.batch, shape)?;
        let batch = Batch::new(memory, &tables, Ids::Uniform)?;
        for weights in [DType::F32, DType::Bf16, DType::F16] {
            whole_rows(memory, &tables, &batch, weights, visit)?;
        }
        if shape == narrow {
            lists(memory, &tables, &batch, visit)?;
            asked(memory, &tables, &batch, visit)?;
        }
    }
    Ok(())
}

/// Each rank has half of each row's columns.
fn whole_rows<E: Executor>(
    memory: &mut Memory<'_, E>,
    tables: &Tables,
    batch: &Batch,
    weights: DType,
    visit: Visit<'_, E>,
) -> Outcome<()> {
    let (sorting, sorted) = batch.sort()?;
    let (capacity, rows) = (batch.lookups.len(), batch.lookups.rows);
    let (half, width) = (tables.dim / RANKS, packed_width(tables.dim, RANKS));
    let own = tables.tables(weights, half);
    let operands = UpdateRows {
        tables_on_device: memory.upload(&own)?,
        tables: &own,
        weights,
        row_bits: sorted.layout.row_bits,
        rows: batch.rows,
        capacity,
        gradients: memory.numbers(DType::F32, capacity * row_stride(half))?,
        products: memory.zeros(24 * capacity)?,
        step: tables.step,
        not_finite: Address::NULL,
    };
    let columns = Columns {
        ranks: RANKS,
        width,
        own: memory.zeros(8 * capacity * width)?,
        all: memory.numbers(DType::F32, RANKS * capacity * 2 * width)?,
    };
    let shape = tables.describe(&format!(
        "uniform ids, {RANKS} ranks with {half} columns each, {weights} tables"
    ));
    let products = 24 * capacity;
    for (name, launch, bytes) in [
        (
            "products of columns",
            row_products(&operands)?,
            rows * (8 + (4 + weights.bytes()) * half) + products,
        ),
        (
            "columns packed",
            pack(&operands, &columns)?,
            rows * (8 + (12 + weights.bytes()) * half),
        ),
        (
            "products of whole rows",
            of_columns(&operands, &RULE, &columns)?,
            rows * (8 + 8 * tables.dim) + products,
        ),
    ] {
        let mut operation = Operation::new(name, shape.clone(), [(launch, bytes)]);
        operation.prepare = sorting.clone();
        visit(memory.executor, operation)?;
    }
    Ok(())
}

fn lists<E: Executor>(
    memory: &mut Memory<'_, E>,
    tables: &Tables,
    batch: &Batch,
    visit: Visit<'_, E>,
) -> Outcome<()> {
    let (sorting, sorted) = batch.sort()?;
    let (capacity, rows) = (batch.lookups.len(), batch.lookups.rows);
    let shape = tables.describe("uniform ids");
    let mut one =
        |name, prepare: &[Launch], launch: Launch, bytes: usize, memory: &mut Memory<'_, E>| {
            let mut operation = Operation::new(name, shape.clone(), [(launch, bytes)]);
            operation.prepare = prepare.to_vec();
            visit(memory.executor, operation)
        };
    let ended = end_rows(&batch.rows, capacity, &batch.sources)?;
    one(
        "end of a list of rows",
        &sorting,
        ended,
        8 * (capacity - rows),
        memory,
    )?;
    let first_rows: Vec<u32> = (0..tables.features)
        .map(|table| (table * tables.rows) as u32)
        .collect();
    let own = tables.tables(DType::F32, tables.dim);
    let placed = place_rows(&PlaceRows {
        rows: batch.rows,
        capacity,
        gradients: memory.numbers(DType::F32, capacity * tables.dim)?,
        stride: tables.dim,
        row_bits: sorted.layout.row_bits,
        first_rows: memory.upload(&first_rows)?,
        // The tables' memory serves as room for the gradient of every row.
        out: Address(own[0].weights),
    })?;
    one(
        "rows put to their places",
        &sorting,
        placed,
        rows * (8 + 8 * tables.dim),
        memory,
    )?;
    // The lists that are merged are the numbered lookups: as many keys as ranks send at most.
    let (merging, _) = merge(&batch.memory, &batch.sources, Some(&batch.rows))?;
    let shape = tables.describe("uniform ids");
    let mut operation = Operation::new("merge of lists", shape, batch.sort_bytes(merging));
    operation.prepare = sorting[..1].to_vec();
    visit(memory.executor, operation)
}

fn asked<E: Executor>(
    memory: &mut Memory<'_, E>,
    tables: &Tables,
    batch: &Batch,
    visit: Visit<'_, E>,
) -> Outcome<()> {
    let own = tables.tables(DType::F32, tables.dim);
    let (len, stride) = (batch.lookups.len(), row_stride(tables.dim));
    let launch = list_asked(&ListAsked {
        bags: batch.bags,
        sources: &batch.sources,
        sources_on_device: batch.sources_on_device,
        tables: &own,
        tables_on_device: memory.upload(&own)?,
        dout: memory.matrix(DType::F32, [tables.batch, tables.features * tables.dim])?,
        ranks: 1,
        lists: [1, 0],
        keys: memory.zeros(8 * len)?,
        gradients: memory.zeros(4 * len * stride)?,
        stride,
        step: tables.step,
    })?;
    let bytes = len * (24 + 8 * tables.dim);
    let operation = Operation::new(
        "rows that ranks ask for",
        tables.describe("uniform ids"),
        [(launch, bytes)],
    );
    visit(memory.executor, operation)
}
