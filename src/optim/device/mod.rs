//! Updates on a device.
//!
//! ```text
//! sum_tables    rows' gradients summed ─► to all ranks in flight     where ranks exchange them, or sums are tested first
//! merge_tables  those of all ranks, merged by row in rank order
//! sum_owned     sums of the rows of sharded tables that this device holds ─► verdict, norms of rows of all ranks;
//!               those of each rank apart, until all are there, where sums are not to depend on the ranks
//! update        norm ▸ verdict ▸ dense weights ▸ tables
//! ```

mod control;
mod requested_rows;
mod row_exchange;
mod state;
mod tables;
mod whole_rows;

use streamrec_kernels::cuda::{
    Address, Collective, DeviceError, Executor, Group, Matrix,
    collective::{Element, Reduce},
    dense_optimizer::{self, Arenas, DenseRule, Span, Spans},
    embedding_bag::Bags,
    step,
};
use streamrec_kernels::sparse_optimizer::SparseRule;
use tracing::trace_span;

use super::{OptimError, Optimizer};
use crate::{
    config::Reduction,
    model::{
        ModelError, ParameterStore,
        device::{DeviceWeights, RemoteRoom, RowRequest, TableRounds},
    },
};

use control::Control;
pub use control::DeviceVerdict;
use requested_rows::RequestedRows;
pub use row_exchange::PendingRows;
use state::upload;
use tables::{DeviceTables, TableSource};

/// Updates the parameters on a device as an [`Optimizer`] does on the CPU, whose state it holds.
#[derive(Debug)]
pub struct DeviceOptimizer {
    dense_rule: DenseRule,
    sparse_rule: SparseRule,
    clip_norm: Option<f64>,
    spans: Spans,
    /// Working memory of the norm.
    squares: Address,
    dense_states: [Address; 2],
    /// Of each table, in the order of the store.
    table_states: Vec<[Address; 2]>,
    tables: DeviceTables,
    /// Sharded tables that this device holds: those whose vectors travel, and those whose rows do.
    owned: [Option<DeviceTables>; 2],
    /// The rows that this rank asks others for.
    requested: Option<RequestedRows>,
    micro_batches: usize,
    control: Control,
}

/// Where the gradients of tables come from.
#[derive(Debug, Clone, Copy)]
pub struct TableGradients<'a> {
    /// The tables with their lookups.
    pub rounds: &'a TableRounds,
    /// The lookups of this step.
    pub bags: Bags,
    /// The gradients of all pooled vectors.
    pub dout: Matrix,
}

impl DeviceOptimizer {
    /// Memory for the state of `optimizer`; [`upload`](Self::upload) fills it. `rounds` are those of replicated tables,
    /// and of sharded ones that this device holds.
    ///
    /// # Errors
    /// When rows are too long, or the device has not so much memory.
    pub fn new<E: Executor>(
        executor: &mut E,
        optimizer: &Optimizer,
        parameters: &ParameterStore,
        weights: &DeviceWeights,
        (rounds, owned): (&TableRounds, [Option<&TableRounds>; 2]),
        (scales_loss, reduction, micro_batches): (bool, Reduction, usize),
    ) -> Result<Self, OptimError> {
        let spans: Vec<Span> = optimizer.dense.device_spans();
        let chunks = dense_optimizer::chunks(&spans);
        let arena = parameters.layout().len() * size_of::<f32>();
        let (dense_rule, sparse_rule) = (optimizer.dense.device_rule(), optimizer.sparse.rule());
        let mut take = |bytes| executor.allocate(bytes).map_err(ModelError::from);
        let mut dense_states = [Address::NULL; 2];
        for state in &mut dense_states[..dense_rule.states()] {
            *state = take(arena)?;
        }
        let control = Control(take(Control::BYTES)?);
        let on_device = Spans {
            spans: take(size_of_val(spans.as_slice()))?,
            chunks: take(size_of_val(chunks.as_slice()))?,
            chunk_count: chunks.len(),
        };
        let squares = take(2 * chunks.len().max(1) * size_of::<f64>())?;
        let mut table_states = Vec::new();
        for state in optimizer.sparse.states() {
            let mut own = [Address::NULL; 2];
            for (into, (_, tensor)) in own.iter_mut().zip(state.tensors()) {
                *into = take(tensor.len() * size_of::<f32>())?;
            }
            table_states.push(own);
        }
        upload(executor, &spans, on_device.spans)?;
        upload(executor, &chunks, on_device.chunks)?;
        upload(executor, &[u64::MAX; 2], control.not_finite())?;
        let source = TableSource {
            optimizer,
            parameters,
            weights,
            states: &table_states,
            // With invariant reduction one kernel updates tables, wherever they lie.
            sums_first: scales_loss || reduction == Reduction::Invariant,
            control,
        };
        let [_, ranks] = executor.rank(Group::DataParallel);
        let tables = DeviceTables::new(executor, &source, rounds, (ranks, micro_batches, None))?;
        // Whoever holds a table has the gradients of all ranks.
        let mut of_owned = |rounds: Option<&TableRounds>, lists, asking| {
            let new = |rounds| DeviceTables::new(executor, &source, rounds, (1, lists, asking));
            rounds.map(new).transpose()
        };
        let [vectors, rows] = owned;
        let (lists, asking) = match reduction {
            Reduction::Fast => (micro_batches, None),
            Reduction::Invariant => (ranks * micro_batches, Some(ranks)),
        };
        let owned = [
            of_owned(vectors, micro_batches, None)?,
            of_owned(rows, lists, asking)?,
        ];
        Ok(Self {
            dense_rule,
            sparse_rule,
            clip_norm: optimizer.dense.clip_norm(),
            spans: on_device,
            squares,
            dense_states,
            table_states,
            tables,
            owned,
            requested: None,
            micro_batches,
            control,
        })
    }

    /// Takes memory for micro-batches of up to `capacity` lookups, the same on all ranks. Not for the steady state.
    ///
    /// # Errors
    /// When the device has not so much.
    pub fn reserve<E: Executor>(
        &mut self,
        executor: &mut E,
        capacity: usize,
    ) -> Result<(), DeviceError> {
        if let [Some(owned), _] = &mut self.owned {
            let [_, ranks] = executor.rank(Group::World);
            owned.reserve_products(executor, ranks * self.micro_batches * capacity)?;
        }
        self.tables.reserve(executor, capacity)
    }

    /// Takes memory for what all ranks look up in the tables that this device holds, the same on all of them; `request` tells
    /// how gradients of rows that this rank asks for are summed, where ids travel once.
    ///
    /// # Errors
    /// When the device has not so much.
    pub fn reserve_owned<E: Executor>(
        &mut self,
        executor: &mut E,
        room: RemoteRoom,
        request: Option<RowRequest>,
    ) -> Result<(), DeviceError> {
        let [vectors, rows] = &mut self.owned;
        if let Some(vectors) = vectors {
            vectors.reserve(executor, room.ids)?;
        }
        let Some(request) = request else {
            return Ok(());
        };
        if let Some(rows) = rows {
            rows.reserve_products(executor, self.micro_batches * request.all_ids)?;
            rows.reserve(executor, request.owned_ids)?;
        }
        self.requested = Some(RequestedRows::new(executor, request, room.positions)?);
        Ok(())
    }

    /// Sums the gradients of pooled vectors by the rows that this rank asked for.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// When no memory was [reserved](Self::reserve_owned) for them.
    pub fn sum_requested<E: Executor>(
        &self,
        executor: &mut E,
        gradients: (Bags, Matrix),
    ) -> Result<(), OptimError> {
        let _span = trace_span!("sum row gradients").entered();
        let requested = self.requested.as_ref().expect("memory was reserved");
        requested.sum(executor, gradients, self.control)
    }

    /// The [`Step`](streamrec_kernels::cuda::Step) that kernels read.
    pub fn step(&self) -> Address {
        self.control.step()
    }

    /// Where the loss is to be written, `[1]` of `f64`.
    pub fn loss(&self) -> Address {
        self.control.loss()
    }

    /// Where it is told that a gradient of a table is not finite, `[1]` of `u32`.
    pub fn overflow(&self) -> Address {
        self.control.overflow()
    }

    /// Begins a step, from the numbers that came with the batch: `input: [1]` of
    /// [`StepInput`](step::StepInput).
    ///
    /// # Errors
    /// When the device fails.
    pub fn begin<E: Executor>(&self, executor: &mut E, input: Address) -> Result<(), DeviceError> {
        let betas = |first: f32, second: f32| [first, second];
        let dense = match self.dense_rule {
            DenseRule::Adam(rule) => betas(rule.beta1, rule.beta2),
            _ => betas(0.0, 0.0),
        };
        let sparse = match self.sparse_rule {
            SparseRule::LazyAdam { beta1, beta2, .. } => betas(beta1, beta2),
            _ => betas(0.0, 0.0),
        };
        let (scaler, step) = (self.control.scaler(), self.control.step());
        executor.launch(&step::begin(input, scaler, [dense, sparse], step))
    }

    /// Sums the gradients of touched rows of replicated tables in micro-batch `index`, where they are tested before the
    /// update or others are added to them, and after the last begins to send them to all ranks.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// When no memory was [reserved](Self::reserve) for the lookups of tables.
    pub fn sum_tables<E: Executor>(
        &self,
        executor: &mut E,
        gradients: Option<&TableGradients<'_>>,
        index: usize,
    ) -> Result<PendingRows, OptimError> {
        let _span = trace_span!("sum table gradients").entered();
        match gradients {
            Some(gradients) => self.tables.sum(executor, gradients, index),
            None => Ok(PendingRows::default()),
        }
    }

    /// Waits, on the device, for the rows of all ranks.
    ///
    /// # Errors
    /// When the device fails.
    pub fn merge_tables<E: Executor>(
        &self,
        executor: &mut E,
        gradients: Option<&TableGradients<'_>>,
        pending: PendingRows,
    ) -> Result<(), OptimError> {
        let _span = trace_span!("merge table gradients").entered();
        pending.finish(executor)?;
        match gradients {
            Some(gradients) => self.tables.merge(executor, gradients.rounds),
            None => Ok(()),
        }
    }

    /// Sums the gradients of touched rows of the sharded tables that this device holds in micro-batch `index`, where they
    /// are tested before the update or others are added to them. After the last all ranks know of the test, and of the
    /// norms of rows of which each holds some columns. Every rank of a job with sharded tables does this.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// When no memory was [reserved](Self::reserve) for the lookups of tables.
    pub fn sum_owned<E: Executor>(
        &self,
        executor: &mut E,
        gradients: [Option<&TableGradients<'_>>; 2],
        index: usize,
    ) -> Result<(), OptimError> {
        let _span = trace_span!("sum sharded table gradients").entered();
        let owned = || {
            let tables = self.owned.iter().zip(gradients);
            tables.filter_map(|(tables, gradients)| tables.as_ref().zip(gradients))
        };
        for (tables, gradients) in owned() {
            tables.sum(executor, gradients, index)?.finish(executor)?;
        }
        if index + 1 < self.micro_batches {
            return Ok(());
        }
        let mut exchanged = vec![Collective::AllReduce {
            at: self.control.overflow(),
            len: 1,
            element: Element::U32,
            reduce: Reduce::Max,
        }];
        for (tables, gradients) in owned() {
            tables.merge(executor, gradients.rounds)?;
            exchanged.extend(tables.row_products(executor, gradients.rounds)?);
        }
        let begun = executor.begin(Group::World, "the verdict", &exchanged);
        let begun = begun.map_err(ModelError::from)?;
        executor.finish(begun).map_err(ModelError::from)?;
        for (tables, gradients) in owned() {
            tables.gathered_products(executor, gradients.rounds)?;
        }
        Ok(())
    }

    /// Updates everything, if all gradients and the loss are finite; those of dense weights and the loss are those of
    /// all ranks by now. Gradients are those of replicated tables and of sharded ones that this device holds.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// When no memory was [reserved](Self::reserve) for the lookups of tables.
    pub fn update<E: Executor>(
        &self,
        executor: &mut E,
        weights: &DeviceWeights,
        [tables, vectors, rows]: [Option<&TableGradients<'_>>; 3],
    ) -> Result<(), OptimError> {
        self.update_dense(executor, weights)?;
        let _span = trace_span!("update tables").entered();
        if let Some(gradients) = tables {
            self.tables.update(executor, gradients)?;
        }
        for (tables, gradients) in self.owned.iter().zip([vectors, rows]) {
            if let (Some(tables), Some(gradients)) = (tables, gradients) {
                tables.update(executor, gradients)?;
            }
        }
        Ok(())
    }

    /// Gives the verdict, and updates the dense weights.
    fn update_dense<E: Executor>(
        &self,
        executor: &mut E,
        weights: &DeviceWeights,
    ) -> Result<(), OptimError> {
        let _span = trace_span!("update dense weights").entered();
        let control = self.control;
        let (spans, gradients) = (&self.spans, weights.gradients());
        let squares = dense_optimizer::squares(spans, gradients, self.squares, control.squares());
        launch_all(executor, "the norm of the gradients", squares)?;
        self.add_up_norm(executor)?;
        let (squares, loss, clip) = (control.squares(), control.loss(), self.clip_norm);
        let (scaler, step) = (control.scaler(), control.step());
        let judge = step::judge(squares, loss, clip, scaler, step, control.verdict_at());
        launch_all(executor, "the verdict", Ok([judge]))?;
        let arenas = Arenas {
            weights: weights.masters(),
            gradients,
            states: self.dense_states,
            copy: weights.copy(),
        };
        let update = dense_optimizer::update(spans, &arenas, &self.dense_rule, step);
        launch_all(executor, "dense parameters", update)
    }

    /// Adds up the squares of what a tensor-parallel group shares.
    fn add_up_norm<E: Executor>(&self, executor: &mut E) -> Result<(), OptimError> {
        let group = Group::TensorParallel;
        if executor.rank(group)[1] == 1 {
            return Ok(());
        }
        let sum = Collective::AllReduce {
            at: self.control.shared_squares(),
            len: 1,
            element: Element::F64,
            reduce: Reduce::Sum,
        };
        let begun = executor.begin(group, "the norm of shared layers", &[sum]);
        let begun = begun.map_err(ModelError::from)?;
        Ok(executor.finish(begun).map_err(ModelError::from)?)
    }

    /// Where it is told what became of a step, and in how many bytes.
    pub fn told(&self) -> (Address, usize) {
        (self.control.0, Control::BYTES)
    }

    /// What became of a step, from a copy of what is [told](Self::told) behind it.
    ///
    /// # Panics
    /// When there are fewer bytes.
    pub fn verdict(&self, told: &[u8]) -> DeviceVerdict {
        self.control.verdict(told)
    }
}

fn failed(what: &str) -> impl FnOnce(streamrec_kernels::Error) -> OptimError {
    move |source| OptimError::Kernel {
        what: what.to_owned(),
        source: Box::new(source),
    }
}

fn launch_all<E: Executor>(
    executor: &mut E,
    what: &str,
    launches: streamrec_kernels::Result<impl IntoIterator<Item = streamrec_kernels::cuda::Launch>>,
) -> Result<(), OptimError> {
    for launch in launches.map_err(failed(what))? {
        executor.launch(&launch).map_err(ModelError::from)?;
    }
    Ok(())
}
