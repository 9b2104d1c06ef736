//! Updates on a device.

mod control;

use streamrec_kernels::cuda::{
    Address, DeviceError, Executor, Matrix,
    dense_optimizer::{self, Arenas, DenseRule, Span, Spans},
    embedding_bag::Bags,
    groups::{self, Build, Memory, Rows},
    radix_sort::counts_len,
    sparse_optimizer::{self, Gradients, Partial, Table, UpdateRows, row_stride, tiles},
    step::{self, Scaler},
};
use streamrec_kernels::{DType, sparse_optimizer::SparseRule};
use tracing::trace_span;

use super::{LossScalerState, OptimError, Optimizer};
use crate::{
    config::LossScaleConfig,
    model::{
        ModelError, ParameterStore,
        device::{DeviceWeights, TableRound, TableRounds},
    },
};

use control::Control;
pub use control::DeviceVerdict;

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
    rounds: Vec<RoundTables>,
    control: Control,
    /// Sums of rows are tested before anything is updated: with a scaled loss, and where rows are
    /// too long for the fused update.
    sums_first: bool,
    memory: Option<LookupMemory>,
}

/// The tables of a round as kernels know them.
#[derive(Debug)]
struct RoundTables {
    tables: Vec<Table>,
    on_device: Address,
    /// Where touched rows and their sums are kept.
    sums: Option<(Rows, Address)>,
}

/// Working memory for up to `capacity` lookups, which all rounds share.
#[derive(Debug, Clone, Copy)]
struct LookupMemory {
    sort: Memory,
    partial: Partial,
}

impl DeviceOptimizer {
    /// Memory for the state of `optimizer`; [`upload`](Self::upload) fills it.
    ///
    /// # Errors
    /// When rows are too long, or the device has not so much memory.
    pub fn new<E: Executor>(
        executor: &mut E,
        optimizer: &Optimizer,
        parameters: &ParameterStore,
        weights: &DeviceWeights,
        rounds: &TableRounds,
        scales_loss: bool,
    ) -> Result<Self, OptimError> {
        let spans: Vec<Span> = optimizer.dense.device_spans();
        let chunks = dense_optimizer::chunks(&spans);
        let arena = parameters.layout().len() * size_of::<f32>();
        let (dense_rule, sparse_rule) = (optimizer.dense.device_rule(), optimizer.sparse.rule());
        let mut device = |error: &mut Option<DeviceError>, bytes: usize| {
            executor.allocate(bytes).unwrap_or_else(|failed| {
                error.get_or_insert(failed);
                Address::NULL
            })
        };
        let mut error = None;
        let mut take = |bytes| device(&mut error, bytes);
        let mut dense_states = [Address::NULL; 2];
        dense_states[..dense_rule.states()].fill_with(|| take(arena));
        let control = Control(take(Control::BYTES));
        let table_states = optimizer.sparse.states().map(|state| {
            let mut own = [Address::NULL; 2];
            for (into, (_, tensor)) in own.iter_mut().zip(state.tensors()) {
                *into = take(tensor.len() * size_of::<f32>());
            }
            own
        });
        let table_states: Vec<_> = table_states.collect();
        let on_device = Spans {
            spans: take(size_of_val(spans.as_slice())),
            chunks: take(size_of_val(chunks.as_slice())),
            chunk_count: chunks.len(),
        };
        let squares = take(2 * chunks.len().max(1) * size_of::<f64>());
        if let Some(error) = error {
            return Err(ModelError::from(error).into());
        }
        upload(executor, &spans, on_device.spans)?;
        upload(executor, &chunks, on_device.chunks)?;
        upload(executor, &[u64::MAX; 2], control.not_finite())?;
        let mut of_rounds = Vec::new();
        let mut dim_max = 0;
        for round in rounds.rounds() {
            let tables = tables(optimizer, parameters, weights, &table_states, round);
            dim_max = tables
                .iter()
                .fold(dim_max, |max, table| max.max(table.dim as usize));
            let on_device = executor.allocate(size_of_val(tables.as_slice()));
            let on_device = on_device.map_err(ModelError::from)?;
            upload(executor, &tables, on_device)?;
            of_rounds.push(RoundTables {
                tables,
                on_device,
                sums: None,
            });
        }
        Ok(Self {
            dense_rule,
            sparse_rule,
            clip_norm: optimizer.dense.clip_norm(),
            spans: on_device,
            squares,
            dense_states,
            table_states,
            rounds: of_rounds,
            control,
            sums_first: scales_loss || !sparse_optimizer::fuses(dim_max, weights.compute_dtype()),
            memory: None,
        })
    }

    /// Takes memory for batches of up to `capacity` lookups. Not for the steady state.
    ///
    /// # Errors
    /// When the device has not so much.
    pub fn reserve<E: Executor>(
        &mut self,
        executor: &mut E,
        capacity: usize,
    ) -> Result<(), DeviceError> {
        let dims = self.rounds.iter().flat_map(|round| &round.tables);
        let stride = row_stride(dims.map(|table| table.dim as usize).max().unwrap_or(0));
        if self.sums_first {
            for round in &mut self.rounds {
                let rows = Rows {
                    keys: executor.allocate(8 * capacity)?,
                    row_of: executor.allocate(4 * capacity)?,
                    count: executor.allocate(4)?,
                };
                round.sums = Some((rows, executor.allocate(4 * capacity * stride)?));
            }
        }
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
        self.memory = Some(LookupMemory { sort, partial });
        Ok(())
    }

    /// Takes the state of the host's optimiser, and where its loss scaling stands.
    ///
    /// # Errors
    /// When the device fails.
    pub fn upload<E: Executor>(
        &self,
        executor: &mut E,
        optimizer: &Optimizer,
        scaling: Option<(LossScaleConfig, LossScalerState)>,
    ) -> Result<(), OptimError> {
        let dense = optimizer.dense.state_arenas().zip(self.dense_states);
        for (arena, at) in dense {
            upload(executor, arena.f32(), at)?;
        }
        for (state, places) in optimizer.sparse.states().zip(&self.table_states) {
            for ((_, tensor), &at) in state.tensors().zip(places) {
                upload(executor, tensor.f32(), at)?;
            }
        }
        let scaler = match scaling {
            Some((config, state)) => Scaler {
                scale: state.scale,
                scale_max: LossScaleConfig::MAX,
                growth_steps: config.growth_steps,
                clean_steps: state.clean_steps,
                skipped_steps: state.skipped_steps,
            },
            None => Scaler {
                scale: 1.0,
                scale_max: 1.0,
                growth_steps: 0,
                clean_steps: 0,
                skipped_steps: 0,
            },
        };
        upload(executor, &[scaler], self.control.scaler())
    }

    /// Gives the state to the host's optimiser.
    ///
    /// # Errors
    /// When the device fails.
    pub fn download<E: Executor>(
        &self,
        executor: &mut E,
        optimizer: &mut Optimizer,
    ) -> Result<(), OptimError> {
        let dense = optimizer.dense.state_arenas_mut().zip(self.dense_states);
        for (arena, at) in dense {
            download(executor, at, arena.f32_mut())?;
        }
        for (state, places) in optimizer.sparse.states_mut().zip(&self.table_states) {
            for ((_, tensor), &at) in state.tensors_mut().zip(places) {
                download(executor, at, tensor.f32_mut())?;
            }
        }
        Ok(())
    }

    /// The [`Step`] that kernels read.
    pub fn step(&self) -> Address {
        self.control.step()
    }

    /// Where the loss is to be written, `[1]` of `f64`.
    pub fn loss(&self) -> Address {
        self.control.loss()
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

    /// Updates everything, if all gradients and the loss are finite. `dout` are the gradients of all
    /// pooled vectors.
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
        rounds: &TableRounds,
        bags: Bags,
        dout: Option<Matrix>,
    ) -> Result<(), OptimError> {
        let of_rounds = || self.rounds.iter().zip(rounds.rounds());
        let tables = dout.filter(|_| !self.rounds.is_empty());
        let control = self.control;
        if let (Some(dout), true) = (tables, self.sums_first) {
            let _span = trace_span!("sum table gradients").entered();
            for (own, round) in of_rounds() {
                self.group(executor, own, round, bags, dout, |gradients| {
                    let (rows, out) = own.sums.as_ref().expect("memory was reserved");
                    sparse_optimizer::sum(gradients, rows, *out)
                })?;
            }
        }
        {
            let _span = trace_span!("update dense weights").entered();
            let (spans, gradients) = (&self.spans, weights.gradients());
            let squares =
                dense_optimizer::squares(spans, gradients, self.squares, control.squares());
            launch_all(executor, "the norm of the gradients", squares)?;
            let (squares, loss, clip) = (control.squares(), control.loss(), self.clip_norm);
            let (scaler, step) = (control.scaler(), control.step());
            let judge = step::judge(squares, loss, clip, scaler, step, control.verdict());
            launch_all(executor, "the verdict", Ok([judge]))?;
            let arenas = Arenas {
                weights: weights.masters(),
                gradients,
                states: self.dense_states,
                copy: weights.copy(),
            };
            let update = dense_optimizer::update(spans, &arenas, &self.dense_rule, step);
            launch_all(executor, "dense parameters", update)?;
        }
        let Some(dout) = tables else {
            return Ok(());
        };
        let _span = trace_span!("update tables").entered();
        for (own, round) in of_rounds() {
            match self.sums_first {
                true => self.update_rows(executor, own, round)?,
                false => self.group(executor, own, round, bags, dout, |gradients| {
                    let (rule, not_finite) = (&self.sparse_rule, control.not_finite());
                    sparse_optimizer::update(gradients, rule, DType::F32, not_finite)
                })?,
            }
        }
        Ok(())
    }

    /// Groups a round's lookups by row, then does what `then` makes of their gradients.
    fn group<E: Executor>(
        &self,
        executor: &mut E,
        own: &RoundTables,
        round: &TableRound,
        bags: Bags,
        dout: Matrix,
        then: impl FnOnce(
            &Gradients<'_>,
        ) -> streamrec_kernels::Result<[streamrec_kernels::cuda::Launch; 2]>,
    ) -> Result<(), OptimError> {
        let LookupMemory { sort, partial } = self.memory.expect("memory was reserved");
        let operands = Build {
            bags,
            sources: &round.sources,
            sources_on_device: round.sources_on_device,
            memory: sort,
            rows: own.sums.map(|(rows, _)| rows),
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
            partial,
            step: self.control.step(),
        };
        launch_all(executor, "the tables", then(&gradients))
    }

    fn update_rows<E: Executor>(
        &self,
        executor: &mut E,
        own: &RoundTables,
        round: &TableRound,
    ) -> Result<(), OptimError> {
        let (rows, gradients) = own.sums.expect("memory was reserved");
        let memory = self.memory.expect("memory was reserved");
        let keys = groups::Keys::new(&round.sources).map_err(failed("the tables"))?;
        let operands = UpdateRows {
            tables: &own.tables,
            tables_on_device: own.on_device,
            weights: DType::F32,
            row_bits: keys.row_bits,
            rows,
            capacity: memory.sort.capacity,
            gradients,
            step: self.control.step(),
            not_finite: self.control.not_finite(),
        };
        let launch = sparse_optimizer::update_rows(&operands, &self.sparse_rule);
        launch_all(executor, "the tables", launch.map(|launch| [launch]))
    }

    /// What became of the last step. Waits for it.
    ///
    /// # Errors
    /// When something of the step failed.
    pub fn verdict<E: Executor>(&self, executor: &mut E) -> Result<DeviceVerdict, DeviceError> {
        self.control.verdict_of_step(executor)
    }
}

fn tables(
    optimizer: &Optimizer,
    parameters: &ParameterStore,
    weights: &DeviceWeights,
    states: &[[Address; 2]],
    round: &TableRound,
) -> Vec<Table> {
    let first_rows: Vec<u64> = parameters
        .tables()
        .scan(0, |next, (_, table)| {
            let first = *next;
            *next += table.rows() as u64;
            Some(first)
        })
        .collect();
    let table = |&id: &crate::model::TableId| {
        let (own, [first, second]) = (parameters.table(id), states[id.index()]);
        let (learning_rate_scale, weight_decay) = optimizer.sparse.factors(id);
        Table {
            weights: weights.table(id).0,
            first: first.0,
            second: second.0,
            row_stride: own.dim() as i64,
            first_row: first_rows[id.index()],
            dim: own.dim() as u32,
            learning_rate_scale,
            weight_decay,
            reserved: 0,
        }
    };
    round.tables.iter().map(table).collect()
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

fn upload<E: Executor, T: bytemuck::NoUninit>(
    executor: &mut E,
    from: &[T],
    to: Address,
) -> Result<(), OptimError> {
    if from.is_empty() {
        return Ok(());
    }
    let bytes = bytemuck::cast_slice(from);
    Ok(executor.upload(bytes, to).map_err(ModelError::from)?)
}

fn download<E: Executor>(
    executor: &mut E,
    from: Address,
    to: &mut [f32],
) -> Result<(), OptimError> {
    let bytes = bytemuck::cast_slice_mut(to);
    Ok(executor.download(from, bytes).map_err(ModelError::from)?)
}
