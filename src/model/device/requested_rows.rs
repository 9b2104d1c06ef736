//! Sharded tables of which each distinct id travels once: their rows come from the devices that hold them and are pooled
//! where they are used; the sums of their gradients go the same way back.
//!
//! ```text
//!                 every rank                                      owner of a part
//! send            [rows, width] of each owner  ◄── all_to_all ──   what ranks ask for, as bags of one id, [ranks * rows, width]
//! receive         the rows of each table, pooled to where nodes read them
//! send_gradients  [rows, width] for each owner ──► all_to_all ──►  [ranks * rows, width], summed by row
//! ```
//!
//! There is the same room for ids between any two ranks and in every table, so that the step can be recorded: that of the
//! most that any rank asks any owner for. It grows on all ranks in the same step.

use streamrec_kernels::DType;
use streamrec_kernels::cuda::{
    Address, Begun, DeviceError, Executor, Matrix, add,
    embedding_bag::{self, Bags, Lookup},
    groups::Source,
    sparse_optimizer::row_stride,
};
use streamrec_kernels::embedding_bag::Pooling;

use super::{
    DeviceNetwork, DeviceWeights,
    memory::{DeviceBuffer, columns, rows},
    pass::Pass,
    shards::{DeviceShards, Shards, share},
};
use crate::model::{ModelError, ParameterStore, RemoteLookup, layers::PassError};

/// What ranks hold of the tables whose ids travel once.
#[derive(Debug, Clone, Default)]
pub struct RowShards {
    /// Each part of a table as a lookup of its own, whose vectors are rows.
    pub shards: Shards,
    /// Of each owner's parts.
    pub blocks: Vec<Vec<RowBlock>>,
    /// The tables.
    pub tables: Vec<RowTable>,
    /// This rank's place in its tensor-parallel group.
    pub tp: [usize; 2],
}

/// Which rows of a table an owner has.
#[derive(Debug, Clone, Copy)]
pub struct RowBlock {
    /// The table's number.
    pub table: usize,
    /// The number of the range of its rows.
    pub block: usize,
}

/// A table whose ids travel once.
#[derive(Debug, Clone)]
pub struct RowTable {
    /// Columns of a whole row.
    pub dim: usize,
    /// Ranges of its rows with an owner each, or several that have columns of them.
    pub blocks: usize,
    /// The lookups in it.
    pub lookups: Vec<RemoteLookup>,
}

/// Where the gradients of the rows that a rank asked for are summed.
#[derive(Debug, Clone)]
pub struct RowRequest {
    /// Of each lookup: its table, and where its gradient lies.
    pub sources: Vec<Source>,
    /// Columns of each table's rows.
    pub dims: Vec<usize>,
    /// The first row of each table among all.
    pub first_rows: Vec<u32>,
    /// Receives the sums, `[all rows, row_stride]` of `f32`; rows that nobody looked up are zero.
    pub sums: Address,
    /// Rows of all tables.
    pub rows: usize,
    /// The most ids that all ranks ask this one for.
    pub owned_ids: usize,
    /// The most rows that all ranks ask for in all tables.
    pub all_ids: usize,
}

impl RowShards {
    /// Whether no table is such.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// The lookups with the number of their table; in a rank's bags they are the features.
    pub fn lookups(&self) -> impl Iterator<Item = (usize, &RemoteLookup)> {
        let tables = self.tables.iter().enumerate();
        tables.flat_map(|(table, of)| of.lookups.iter().map(move |lookup| (table, lookup)))
    }

    /// Columns of all vectors that are pooled of a sample.
    fn columns(&self) -> usize {
        self.lookups().map(|(_, lookup)| lookup.dim).sum()
    }

    fn parts(&self) -> impl Iterator<Item = &RowBlock> {
        self.blocks.iter().flatten()
    }
}

/// The same in a device's memory.
#[derive(Debug)]
pub(super) struct DeviceRows {
    of: RowShards,
    batch: usize,
    dtype: DType,
    memory: Option<RowMemory>,
}

/// Memory for `rows` rows of each owner and table.
#[derive(Debug)]
struct RowMemory {
    rows: usize,
    exchange: DeviceShards,
    /// Of each table, `[blocks * rows, dim]`.
    tables: Vec<DeviceBuffer>,
    pools: Vec<Pool>,
    /// Gradients of pooled vectors, `[samples, columns]`.
    gathered: DeviceBuffer,
    /// Those of rows, summed: `[all blocks * rows, stride]` of float32.
    sums: DeviceBuffer,
    stride: usize,
}

/// Lookups that are pooled to one place: a node, or with tensor-parallel ranks this rank's part of all vectors.
#[derive(Debug)]
struct Pool {
    node: usize,
    lookups: Vec<Lookup>,
    on_device: Address,
}

impl DeviceRows {
    /// Without memory yet.
    pub(super) fn new(of: RowShards, batch: usize, dtype: DType) -> Self {
        Self {
            of,
            batch,
            dtype,
            memory: None,
        }
    }

    /// Takes memory for so many rows of each owner and table.
    pub(super) fn reserve<E: Executor>(
        &mut self,
        executor: &mut E,
        (parameters, weights): (&ParameterStore, &DeviceWeights),
        rows: usize,
    ) -> Result<(), DeviceError> {
        let (of, samples) = (&self.of, share(self.batch, [0, self.of.tp[1]]).len());
        let shards = of.shards.clone();
        let exchange = DeviceShards::new(executor, (parameters, weights), shards, rows)?;
        let dtype = exchange.dtype();
        let mut tables = Vec::with_capacity(of.tables.len());
        for table in &of.tables {
            let len = table.blocks * rows * table.dim;
            tables.push(DeviceBuffer::new(executor, dtype, len)?);
        }
        let all: usize = of.tables.iter().map(|table| table.blocks * rows).sum();
        let dims = of.tables.iter().map(|table| table.dim);
        let stride = row_stride(dims.max().unwrap_or(0));
        let mut memory = RowMemory {
            rows,
            exchange,
            tables,
            pools: Vec::new(),
            gathered: DeviceBuffer::new(executor, self.dtype, samples * of.columns())?,
            sums: DeviceBuffer::new(executor, DType::F32, all * stride)?,
            stride,
        };
        memory.pools = self.pools(executor, &memory)?;
        self.memory = Some(memory);
        Ok(())
    }

    fn pools<E: Executor>(
        &self,
        executor: &mut E,
        memory: &RowMemory,
    ) -> Result<Vec<Pool>, DeviceError> {
        let alone = self.of.tp[1] == 1;
        let mut pools: Vec<Pool> = Vec::new();
        for (feature, (table, lookup)) in self.of.lookups().enumerate() {
            let node = if alone { lookup.node } else { 0 };
            if pools.last().is_none_or(|last| last.node != node) {
                pools.push(Pool {
                    node,
                    lookups: Vec::new(),
                    on_device: Address::NULL,
                });
            }
            let RowTable { dim, blocks, .. } = self.of.tables[table];
            let column = if alone {
                lookup.source.column
            } else {
                lookup.column
            };
            if let Some(last) = pools.last_mut() {
                last.lookups.push(Lookup {
                    table: memory.tables[table].address.0,
                    rows: (blocks * memory.rows) as i64,
                    row_stride: dim as i64,
                    dim: dim as u32,
                    feature: feature as u32,
                    column: column as u32,
                    mean: u32::from(lookup.source.pooling == Pooling::Mean),
                });
            }
        }
        for pool in &mut pools {
            pool.on_device = executor.allocate(size_of_val(pool.lookups.as_slice()))?;
            executor.upload(bytemuck::cast_slice(&pool.lookups), pool.on_device)?;
        }
        Ok(pools)
    }

    fn memory(&self) -> &RowMemory {
        self.memory.as_ref().expect("memory was reserved")
    }

    /// As an owner: begins to send the rows that all ranks ask for.
    pub(super) fn send<E: Executor>(
        &self,
        executor: &mut E,
        bags: Bags,
        first_bad: Address,
    ) -> Result<Begun, ModelError> {
        let RowMemory { exchange, rows, .. } = self.memory();
        exchange.send_vectors(executor, bags, *rows, first_bad)
    }

    /// Lets the device wait for the rows, and pools them: to where nodes read them, or to a matrix of all vectors.
    pub(super) fn receive<E: Executor>(
        &self,
        pass: &mut Pass<'_, E>,
        (begun, positions): (Begun, Bags),
        all: Option<&Matrix>,
    ) -> Result<(), PassError> {
        let memory = self.memory();
        let exchange = &memory.exchange;
        exchange.receive_vectors(pass.executor, begun, memory.rows)?;
        let received = exchange.vector_parts(memory.rows);
        for ((part, from), place) in received.zip(self.of.parts()) {
            let RowTable { dim, blocks, .. } = self.of.tables[place.table];
            let whole = memory.tables[place.table].view(blocks * memory.rows, dim);
            let block = place.block * memory.rows..(place.block + 1) * memory.rows;
            let into = columns(&rows(&whole, &block), &part.columns);
            pass.launch(add::copy(&from, &into, false))?;
        }
        for pool in &memory.pools {
            let operands = embedding_bag::Forward {
                bags: positions,
                lookups: &pool.lookups,
                lookups_on_device: pool.on_device,
                table: memory.exchange.dtype(),
                out: all.copied().unwrap_or_else(|| pass.value(pool.node)),
                first_bad: pass.network.first_bad,
            };
            pass.launch(embedding_bag::forward(&operands))?;
        }
        Ok(())
    }

    /// Brings the gradients of pooled vectors of a batch together, `[samples, columns]`.
    pub(super) fn gather<E: Executor>(
        &self,
        executor: &mut E,
        network: &DeviceNetwork,
        batch: usize,
    ) -> Result<Matrix, ModelError> {
        let samples = share(batch, self.of.tp);
        let whole = self
            .memory()
            .gathered
            .view(samples.len(), self.of.columns());
        let mut first = 0;
        for (_, lookup) in self.of.lookups() {
            let gradient = network.gradient(lookup.node, batch);
            let gradient = gradient.expect("the plan gives embeddings a gradient");
            let own = lookup.source.column..lookup.source.column + lookup.dim;
            let from = columns(&rows(&gradient, &samples), &own);
            let into = columns(&whole, &(first..first + lookup.dim));
            let launch = add::copy(&from, &into, false)
                .map_err(ModelError::kernel("gathering the gradients of rows"))?;
            executor.launch(&launch)?;
            first += lookup.dim;
        }
        Ok(whole)
    }

    /// How the gradients of [`gather`](Self::gather) are summed by row.
    pub(super) fn request(&self) -> RowRequest {
        let memory = self.memory();
        let (mut column, mut first) = (0, 0);
        let mut sources = Vec::new();
        for (table, lookup) in self.of.lookups() {
            sources.push(Source {
                rows: (self.of.tables[table].blocks * memory.rows) as i64,
                table: table as u32,
                column,
                mean: u32::from(lookup.source.pooling == Pooling::Mean),
                reserved: 0,
            });
            column += lookup.dim as u32;
        }
        let mut first_rows = Vec::new();
        for table in &self.of.tables {
            first_rows.push(first as u32);
            first += table.blocks * memory.rows;
        }
        let ranks = self.of.shards.owners.len();
        RowRequest {
            sources,
            dims: self.of.tables.iter().map(|table| table.dim).collect(),
            first_rows,
            sums: memory.sums.address,
            rows: first,
            owned_ids: ranks * memory.rows * self.of.shards.own().len(),
            all_ids: ranks * memory.rows * self.of.tables.len(),
        }
    }

    /// Begins to send the summed gradients to the owners.
    pub(super) fn send_gradients<E: Executor>(
        &self,
        executor: &mut E,
    ) -> Result<Begun, ModelError> {
        let memory = self.memory();
        let (rows_of_block, mut first_rows, mut first) = (memory.rows, Vec::new(), 0);
        for table in &self.of.tables {
            first_rows.push(first);
            first += table.blocks * rows_of_block;
        }
        let sums = memory.sums.view(first, memory.stride);
        let places = self.of.parts();
        for ((part, into), place) in memory.exchange.gradient_parts(rows_of_block).zip(places) {
            let start = first_rows[place.table] + place.block * rows_of_block;
            let own = rows(&sums, &(start..start + rows_of_block));
            let launch = add::copy(&columns(&own, &part.columns), &into, false)
                .map_err(ModelError::kernel("sending the gradients of rows"))?;
            executor.launch(&launch)?;
        }
        memory.exchange.begin_gradients(executor, rows_of_block)
    }

    /// Lets the device wait for what [`send_gradients`](Self::send_gradients) of all ranks sent.
    pub(super) fn receive_gradients<E: Executor>(
        &self,
        executor: &mut E,
        begun: Begun,
    ) -> Result<(), ModelError> {
        let RowMemory { exchange, rows, .. } = self.memory();
        exchange.receive_gradients(executor, begun, *rows)
    }

    /// The gradients that were received, `[ranks * rows, width]`.
    pub(super) fn gradients(&self) -> Matrix {
        let RowMemory { exchange, rows, .. } = self.memory();
        exchange.gradients(*rows)
    }
}
