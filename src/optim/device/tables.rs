//! Updates of embedding tables on a device, round by round.

use streamrec_kernels::DType;
use streamrec_kernels::cuda::{
    Address, DeviceError, Executor, Launch, Matrix,
    embedding_bag::Bags,
    groups::{self, Build, ListAsked, Memory, Rows},
    radix_sort::counts_len,
    sparse_optimizer::{
        self, Gradients, Partial, Table, UpdateRows, fuses, fuses_types, row_stride, tiles,
    },
};
use streamrec_kernels::sparse_optimizer::SparseRule;

use super::{
    Control, OptimError, TableGradients, failed, launch_all,
    row_exchange::{PendingRows, RowExchange},
    upload,
    whole_rows::RowProducts,
};
use crate::{
    model::{
        ModelError, ParameterStore,
        device::{DeviceWeights, TableRound, TableRounds},
    },
    optim::Optimizer,
};

/// Tables that are updated with one kind of lookups: replicated ones with this rank's, or sharded ones that this device
/// holds with those of all ranks.
#[derive(Debug)]
pub(super) struct DeviceTables {
    pub(super) rule: SparseRule,
    pub(super) rounds: Vec<RoundTables>,
    control: Control,
    /// The longest row, of sums.
    stride: usize,
    /// Sums of rows are tested before anything is updated: with a scaled loss, where rows are too long for the fused
    /// update or of a type that it does not take with the gradients', where ranks hold columns of them, and where sums are
    /// not to depend on the ranks.
    pub(super) sums_first: bool,
    /// The type in which they are stored.
    stored: DType,
    memory: Option<LookupMemory>,
    /// Of replicated tables with several ranks, and with several micro-batches.
    exchange: Option<RowExchange>,
    /// Lists of rows that this device keeps: one for each micro-batch, or for each micro-batch of each asking rank.
    lists: usize,
    /// How many ranks ask, where the rows of each are kept apart until those of all micro-batches are there.
    pub(super) asking: Option<usize>,
}

/// What tables are made of.
#[derive(Clone, Copy)]
pub(super) struct TableSource<'a> {
    pub(super) optimizer: &'a Optimizer,
    pub(super) parameters: &'a ParameterStore,
    pub(super) weights: &'a DeviceWeights,
    /// Of each table, in the order of the store.
    pub(super) states: &'a [[Address; 2]],
    pub(super) sums_first: bool,
    pub(super) control: Control,
}

/// The tables of a round as kernels know them.
#[derive(Debug)]
pub(super) struct RoundTables {
    pub(super) tables: Vec<Table>,
    pub(super) on_device: Address,
    /// Rows of all its tables.
    pub(super) rows: usize,
    /// This rank's sums, where they are formed: those of each micro-batch.
    pub(super) sums: Option<RowSums>,
    /// As [`TableRound::columns_apart`].
    pub(super) columns_apart: Option<usize>,
    /// Where columns of rows are apart.
    pub(super) products: Option<RowProducts>,
}

/// Touched rows with their gradients; lists of several lie one behind the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowSums {
    pub(super) rows: Rows,
    /// `[capacity, row_stride]` of `f32`
    pub(super) gradients: Address,
    /// Rows that there is room for in a list.
    pub(super) capacity: usize,
}

/// Working memory for up to `capacity` lookups, which all rounds share.
#[derive(Debug, Clone, Copy)]
pub(super) struct LookupMemory {
    pub(super) sort: Memory,
    pub(super) partial: Partial,
}

impl RoundTables {
    /// Elements from one row of sums to the next.
    pub(super) fn stride(&self) -> usize {
        row_stride(self.dim_max())
    }

    fn dim_max(&self) -> usize {
        let dims = self.tables.iter().map(|table| table.dim as usize);
        dims.max().unwrap_or(0)
    }
}

impl RowSums {
    /// Memory for `lists` lists of the rows of `lookups` lookups, at most `capacity` different ones.
    pub(super) fn new<E: Executor>(
        executor: &mut E,
        lists: usize,
        [lookups, capacity]: [usize; 2],
        stride: usize,
    ) -> Result<Self, DeviceError> {
        let rows = Rows {
            keys: executor.allocate(8 * lists * capacity)?,
            row_of: executor.allocate(4 * lookups)?,
            count: executor.allocate(4)?,
        };
        Ok(Self {
            rows,
            gradients: executor.allocate(4 * lists * capacity * stride)?,
            capacity,
        })
    }

    /// The list of a micro-batch.
    fn list(&self, index: usize, stride: usize) -> Self {
        let first = (index * self.capacity) as u64;
        Self {
            rows: Rows {
                keys: Address(self.rows.keys.0 + 8 * first),
                ..self.rows
            },
            gradients: Address(self.gradients.0 + 4 * first * stride as u64),
            ..*self
        }
    }
}

impl LookupMemory {
    pub(super) fn new<E: Executor>(
        executor: &mut E,
        capacity: usize,
        stride: usize,
    ) -> Result<Self, DeviceError> {
        let floats = 4 * tiles(capacity) * stride;
        let mut take = |bytes: usize| executor.allocate(bytes);
        let sort = Memory {
            keys: [take(8 * capacity)?, take(8 * capacity)?],
            positions: [take(4 * capacity)?, take(4 * capacity)?],
            bags: take(4 * capacity)?,
            counts: take(4 * counts_len(capacity))?,
            totals: take(4 * 256)?,
            list_lengths: take(8)?,
            capacity,
        };
        let partial = Partial {
            heads: take(floats)?,
            tails: take(floats)?,
            lists: take(8 * tiles(capacity))?,
            list_lengths: sort.list_lengths,
        };
        Ok(Self { sort, partial })
    }
}

impl DeviceTables {
    /// Of some rounds; `ranks` exchange `lists` lists of rows each: one for each micro-batch, or for each micro-batch of each
    /// of `asking` ranks, where these are kept apart.
    pub(super) fn new<E: Executor>(
        executor: &mut E,
        of: &TableSource<'_>,
        rounds: &TableRounds,
        (ranks, lists, asking): (usize, usize, Option<usize>),
    ) -> Result<Self, OptimError> {
        let TableSource {
            optimizer,
            parameters,
            weights,
            states,
            sums_first,
            control,
        } = *of;
        let mut of_rounds = Vec::new();
        for round in rounds.rounds() {
            let tables = tables(optimizer, parameters, weights, states, round);
            let rows = round.tables.iter().map(|&id| parameters.table(id).rows());
            let on_device = executor.allocate(size_of_val(tables.as_slice()));
            let on_device = on_device.map_err(ModelError::from)?;
            upload(executor, &tables, on_device)?;
            of_rounds.push(RoundTables {
                rows: rows.sum(),
                tables,
                on_device,
                sums: None,
                columns_apart: round.columns_apart,
                products: None,
            });
        }
        let dim_max = of_rounds.iter().map(RoundTables::dim_max).max();
        let dim_max = dim_max.unwrap_or(0);
        let exchange = match (ranks * lists, of_rounds.is_empty()) {
            (2.., false) => Some(RowExchange::new(executor, [ranks, lists])?),
            _ => None,
        };
        let apart = of_rounds.iter().any(|round| round.columns_apart.is_some());
        // Ranks exchange float32 sums, and micro-batches are added up so.
        let gradient = match exchange {
            Some(_) => DType::F32,
            None => weights.compute_dtype(),
        };
        Ok(Self {
            rule: optimizer.sparse.rule(),
            rounds: of_rounds,
            control,
            stride: row_stride(dim_max),
            sums_first: sums_first
                || apart
                || !fuses(dim_max, gradient)
                || !fuses_types(gradient, weights.table_dtype()),
            stored: weights.table_dtype(),
            memory: None,
            exchange,
            lists,
            asking,
        })
    }

    /// As [`DeviceOptimizer::reserve`](super::DeviceOptimizer::reserve).
    pub(super) fn reserve<E: Executor>(
        &mut self,
        executor: &mut E,
        capacity: usize,
    ) -> Result<(), DeviceError> {
        if self.sums_first || self.exchange.is_some() {
            for round in &mut self.rounds {
                let rows = match self.asking {
                    Some(ranks) => capacity / ranks,
                    // A row is touched once, however often it is looked up.
                    None => capacity.min(round.rows).max(1),
                };
                let (lists, stride) = (self.lists, round.stride());
                let sums = RowSums::new(executor, lists, [capacity, rows], stride)?;
                round.sums = Some(sums);
            }
        }
        // Rows that ranks ask for are merged in memory of the exchange.
        if self.asking.is_none() {
            self.memory = Some(LookupMemory::new(executor, capacity, self.stride)?);
        }
        match &mut self.exchange {
            Some(exchange) => {
                exchange.reserve(executor, &self.rounds, self.sums_first, self.stride)
            }
            None => Ok(()),
        }
    }

    /// Sums this rank's rows of micro-batch `index`, where sums are needed; after the last, begins to send them.
    pub(super) fn sum<E: Executor>(
        &self,
        executor: &mut E,
        &TableGradients { rounds, bags, dout }: &TableGradients<'_>,
        index: usize,
    ) -> Result<PendingRows, OptimError> {
        if !self.sums_first && self.exchange.is_none() {
            return Ok(PendingRows::default());
        }
        for (own, round) in self.rounds.iter().zip(rounds.rounds()) {
            let sums = own.sums.expect("memory was reserved");
            if let Some(ranks) = self.asking {
                let lists = [self.lists / ranks, index];
                let list = self.list_asked((own, round, sums), (bags, dout), (ranks, lists));
                launch_all(executor, "the tables", list.map(|launch| [launch]))?;
                continue;
            }
            let sums = sums.list(index, own.stride());
            let rows = Some(sums.rows);
            self.group(executor, (own, round, rows), bags, dout, |gradients| {
                sparse_optimizer::sum(gradients, &sums.rows, sums.gradients)
            })?;
            if self.exchange.is_some() {
                let end = groups::end_rows(&sums.rows, sums.capacity, &round.sources);
                launch_all(executor, "the tables", end.map(|launch| [launch]))?;
            }
        }
        match &self.exchange {
            Some(exchange) if index + 1 == self.lists => {
                exchange.send(executor, &self.rounds, self.control.overflow())
            }
            _ => Ok(PendingRows::default()),
        }
    }

    /// Keeps the rows that each rank asked for in a micro-batch apart: number `lists[1]` of its `lists[0]`.
    fn list_asked(
        &self,
        (own, round, sums): (&RoundTables, &TableRound, RowSums),
        (bags, dout): (Bags, Matrix),
        (ranks, lists): (usize, [usize; 2]),
    ) -> streamrec_kernels::Result<Launch> {
        groups::list_asked(&ListAsked {
            bags,
            sources: &round.sources,
            sources_on_device: round.sources_on_device,
            tables: &own.tables,
            tables_on_device: own.on_device,
            dout,
            ranks,
            lists,
            keys: sums.rows.keys,
            gradients: sums.gradients,
            stride: own.stride(),
            step: self.control.step(),
        })
    }

    /// Sums the rows of all ranks, once they are there, where sums are tested before the update.
    pub(super) fn merge<E: Executor>(
        &self,
        executor: &mut E,
        rounds: &TableRounds,
    ) -> Result<(), OptimError> {
        let (Some(exchange), true) = (&self.exchange, self.sums_first) else {
            return Ok(());
        };
        for (index, (own, round)) in self.rounds.iter().zip(rounds.rounds()).enumerate() {
            let place = (index, own, round);
            exchange.merge(executor, place, self.control, |gradients, merged| {
                let sums = merged.sums.as_ref().expect("memory was reserved");
                sparse_optimizer::sum(gradients, &sums.rows, sums.gradients)
            })?;
        }
        Ok(())
    }

    /// Updates the touched rows, unless the verdict is against it.
    pub(super) fn update<E: Executor>(
        &self,
        executor: &mut E,
        &TableGradients { rounds, bags, dout }: &TableGradients<'_>,
    ) -> Result<(), OptimError> {
        let fused = |gradients: &Gradients<'_>| {
            let not_finite = self.control.not_finite();
            sparse_optimizer::update(gradients, &self.rule, self.stored, not_finite)
        };
        for (index, (own, round)) in self.rounds.iter().zip(rounds.rounds()).enumerate() {
            match (&self.exchange, self.sums_first) {
                (None, false) => {
                    self.group(executor, (own, round, None), bags, dout, fused)?;
                }
                (_, true) => {
                    let operands = self.rows_to_update(index, round)?;
                    let launch = sparse_optimizer::update_rows(&operands, &self.rule);
                    launch_all(executor, "the tables", launch.map(|launch| [launch]))?;
                }
                (Some(exchange), false) => {
                    exchange.merge(
                        executor,
                        (index, own, round),
                        self.control,
                        |gradients, _| fused(gradients),
                    )?;
                }
            }
        }
        Ok(())
    }

    /// Groups a round's lookups by row, then does what `then` makes of their gradients.
    fn group<E: Executor>(
        &self,
        executor: &mut E,
        (own, round, rows): (&RoundTables, &TableRound, Option<Rows>),
        bags: Bags,
        dout: Matrix,
        then: impl FnOnce(&Gradients<'_>) -> streamrec_kernels::Result<[Launch; 2]>,
    ) -> Result<(), OptimError> {
        let LookupMemory { sort, partial } = self.memory.expect("memory was reserved");
        let operands = Build {
            bags,
            sources: &round.sources,
            sources_on_device: round.sources_on_device,
            memory: sort,
            rows,
            first_bad: self.control.first_bad(),
        };
        let (launches, sorted) = groups::build(&operands).map_err(failed("the tables"))?;
        launch_all(executor, "the tables", Ok(launches))?;
        let gradients = Gradients {
            bags,
            sorted,
            capacity: sort.capacity,
            sources: &round.sources,
            sources_on_device: round.sources_on_device,
            tables: &own.tables,
            tables_on_device: own.on_device,
            dout,
            scaled: true,
            partial,
            step: self.control.step(),
        };
        launch_all(executor, "the tables", then(&gradients))
    }

    /// A round's rows, once all of them are summed.
    pub(super) fn rows_to_update(
        &self,
        index: usize,
        round: &TableRound,
    ) -> Result<UpdateRows<'_>, OptimError> {
        let own = &self.rounds[index];
        let sums = match &self.exchange {
            Some(exchange) => exchange.sums(index),
            None => own.sums,
        };
        let sums = sums.expect("memory was reserved");
        let keys = groups::Keys::new(&round.sources).map_err(failed("the tables"))?;
        let products = own.products.map(|products| products.at);
        Ok(UpdateRows {
            tables: &own.tables,
            tables_on_device: own.on_device,
            weights: self.stored,
            row_bits: keys.row_bits,
            rows: sums.rows,
            capacity: sums.capacity,
            gradients: sums.gradients,
            products: products.unwrap_or(Address::NULL),
            step: self.control.step(),
            not_finite: self.control.not_finite(),
        })
    }
}

fn tables(
    optimizer: &Optimizer,
    parameters: &ParameterStore,
    weights: &DeviceWeights,
    states: &[[Address; 2]],
    round: &TableRound,
) -> Vec<Table> {
    let table = |&id: &crate::model::TableId| {
        let (own, [first, second]) = (parameters.table(id), states[id.index()]);
        let (learning_rate_scale, weight_decay) = optimizer.sparse.factors(id);
        // Seed and step come with each step.
        let rounding = own.rounding(0);
        Table {
            weights: weights.table(id).0,
            first: first.0,
            second: second.0,
            row_stride: own.dim() as i64,
            first_row: rounding.first_row,
            dim: own.dim() as u32,
            learning_rate_scale,
            weight_decay,
            columns: own.extent.width() as u32,
            first_column: rounding.first_column,
            reserved: 0,
        }
    };
    round.tables.iter().map(table).collect()
}
