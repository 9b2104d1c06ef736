//! Updates on a device.
//!
//! ```text
//! sum_tables    rows' gradients summed ─► to all ranks in flight     where ranks exchange them, or sums are tested first
//! merge_tables  those of all ranks, merged by row in rank order
//! update        norm ▸ verdict ▸ dense weights ▸ tables
//! ```

mod control;
mod row_exchange;
mod tables;

use streamrec_kernels::cuda::{
    Address, DeviceError, Executor, Matrix,
    dense_optimizer::{self, Arenas, DenseRule, Span, Spans},
    embedding_bag::Bags,
    step::{self, Scaler},
};
use streamrec_kernels::sparse_optimizer::SparseRule;
use tracing::trace_span;

use super::{LossScalerState, OptimError, Optimizer};
use crate::{
    config::LossScaleConfig,
    model::{
        ModelError, ParameterStore,
        device::{DeviceWeights, TableRounds},
    },
};

use control::Control;
pub use control::DeviceVerdict;
pub use row_exchange::PendingRows;
use tables::DeviceTables;

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
    tables: DeviceTables,
    control: Control,
}

impl DeviceOptimizer {
    /// Memory for the state of `optimizer`; [`upload`](Self::upload) fills it. Tables are replicated on the devices of
    /// all ranks.
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
        upload(executor, &spans, on_device.spans)?;
        upload(executor, &chunks, on_device.chunks)?;
        upload(executor, &[u64::MAX; 2], control.not_finite())?;
        Ok(Self {
            dense_rule,
            sparse_rule,
            clip_norm: optimizer.dense.clip_norm(),
            spans: on_device,
            squares,
            dense_states,
            tables: DeviceTables::new(
                executor,
                optimizer,
                parameters,
                weights,
                rounds,
                (scales_loss, control),
            )?,
            control,
        })
    }

    /// Takes memory for batches of up to `capacity` lookups, the same on all ranks. Not for the steady state.
    ///
    /// # Errors
    /// When the device has not so much.
    pub fn reserve<E: Executor>(
        &mut self,
        executor: &mut E,
        capacity: usize,
    ) -> Result<(), DeviceError> {
        self.tables.reserve(executor, capacity)
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
        self.tables.upload(executor, &optimizer.sparse)?;
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
        self.tables.download(executor, &mut optimizer.sparse)
    }

    /// The [`Step`] that kernels read.
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

    /// Sums the gradients of touched rows, where they are tested before the update or other ranks need them, and begins
    /// to send them to all ranks. `dout` are the gradients of all pooled vectors.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// When no memory was [reserved](Self::reserve) for the lookups of tables.
    pub fn sum_tables<E: Executor>(
        &self,
        executor: &mut E,
        rounds: &TableRounds,
        bags: Bags,
        dout: Option<Matrix>,
    ) -> Result<PendingRows, OptimError> {
        let Some(dout) = dout else {
            return Ok(PendingRows::default());
        };
        let _span = trace_span!("sum table gradients").entered();
        self.tables.sum(executor, rounds, bags, dout)
    }

    /// Waits, on the device, for the rows of all ranks.
    ///
    /// # Errors
    /// When the device fails.
    pub fn merge_tables<E: Executor>(
        &self,
        executor: &mut E,
        rounds: &TableRounds,
        pending: PendingRows,
    ) -> Result<(), OptimError> {
        let _span = trace_span!("merge table gradients").entered();
        self.tables.merge(executor, rounds, pending)
    }

    /// Updates everything, if all gradients and the loss are finite; those of dense weights and the loss are those of
    /// all ranks by now. `dout` are the gradients of all pooled vectors.
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
        let control = self.control;
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
        let Some(dout) = dout else {
            return Ok(());
        };
        let _span = trace_span!("update tables").entered();
        self.tables.update(executor, rounds, bags, dout)
    }

    /// What became of the last step. Waits for it.
    ///
    /// # Errors
    /// When something of the step failed.
    pub fn verdict<E: Executor>(&self, executor: &mut E) -> Result<DeviceVerdict, DeviceError> {
        self.control.verdict_of_step(executor)
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
