use std::sync::Arc;

use streamrec_kernels::{Context, sparse_optimizer::SparseGradient};

use super::{DenseOptimizer, OptimError, Schedule, SparseOptimizer, groups::Groups};
use crate::{
    config::{Reduction, optimizer::OptimizerConfig},
    model::{NamedSlice, NamedSliceMut, ParameterStore, TableId},
    parallel::Mesh,
};

/// Everything that updates a model's parameters.
pub struct Optimizer {
    schedule: Schedule,
    pub(super) dense: DenseOptimizer,
    pub(super) sparse: SparseOptimizer,
    /// Steps that updated nothing.
    skipped_steps: u64,
}

impl Optimizer {
    /// The optimiser of a checked config, with fresh state, for the parameters of a store.
    /// The ranks of the mesh share what the store holds parts of.
    ///
    /// # Errors
    /// When a group matches no parameter.
    pub fn new(
        context: &Context,
        config: &OptimizerConfig,
        parameters: &ParameterStore,
        mesh: &Mesh,
        reduction: Reduction,
    ) -> Result<Self, OptimError> {
        let groups = Groups::new(&config.groups, parameters)?;
        Ok(Self {
            schedule: Schedule::new(config.schedule),
            dense: DenseOptimizer::new(context, config, &groups, parameters, Arc::clone(&mesh.tp)),
            sparse: SparseOptimizer::new(
                context,
                config,
                &groups,
                parameters,
                reduction,
                Arc::clone(&mesh.world),
            ),
            skipped_steps: 0,
        })
    }

    /// The factor on learning rates.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The learning rates of `step`, from 1, of dense parameters and of tables.
    pub fn learning_rates(&self, step: u64) -> [f64; 2] {
        let factor = self.schedule.factor(step);
        [self.dense.learning_rate(), self.sparse.learning_rate()].map(|rate| rate * factor)
    }

    /// Tells how many steps so far updated nothing: rules that count steps count the others.
    pub fn set_skipped_steps(&mut self, steps: u64) {
        self.skipped_steps = steps;
    }

    /// Updates the dense parameters in `step`, from 1. Returns the norm of their gradients before
    /// clipping.
    ///
    /// # Errors
    /// When a gradient is in flight or not finite; no dense parameter is updated then.
    pub fn update_dense(
        &mut self,
        context: &Context,
        parameters: &mut ParameterStore,
        step: u64,
    ) -> Result<f64, OptimError> {
        let norm = self.dense_norm(context, parameters)?;
        if !norm.is_finite() {
            return Err(OptimError::NotFinite { norm, step });
        }
        self.update_scaled_dense(context, parameters, [norm, 1.0], step)?;
        Ok(norm)
    }

    /// The global norm of the dense gradients, not finite where one of them is not. Collective in the
    /// tensor-parallel group.
    ///
    /// # Errors
    /// When a gradient is in flight.
    pub fn dense_norm(
        &self,
        context: &Context,
        parameters: &ParameterStore,
    ) -> Result<f64, OptimError> {
        self.dense.norm(context, parameters.gradients())
    }

    /// Updates the dense parameters in `step`, from 1, with gradients that are still to be multiplied
    /// by `unscale`; `norm` is theirs afterwards.
    ///
    /// # Errors
    /// When a gradient is in flight; nothing is updated then.
    pub fn update_scaled_dense(
        &mut self,
        context: &Context,
        parameters: &mut ParameterStore,
        [norm, unscale]: [f64; 2],
        step: u64,
    ) -> Result<(), OptimError> {
        let (factor, update) = (self.schedule.factor(step), step - self.skipped_steps);
        self.dense
            .update(context, parameters, [norm, unscale], factor, update)
    }

    /// Whether a table keeps its first weights, so that nobody needs its gradient.
    pub fn is_frozen(&self, table: TableId) -> bool {
        self.sparse.is_frozen(table)
    }

    /// Whether ranks hold columns of a table's rows, and its update needs sums over whole ones.
    pub fn needs_whole_rows(&self, table: TableId) -> bool {
        self.sparse.needs_whole_rows(table)
    }

    /// Updates the touched rows of all tables in `step`, from 1. Frozen ones are not asked for a
    /// gradient.
    ///
    /// # Errors
    /// When a gradient does not fit its table, or is not finite.
    pub fn update_tables<'a>(
        &mut self,
        context: &Context,
        parameters: &mut ParameterStore,
        step: u64,
        gradient: impl Fn(TableId) -> SparseGradient<'a> + Sync,
    ) -> Result<(), OptimError> {
        let (factor, update) = (self.schedule.factor(step), step - self.skipped_steps);
        self.sparse
            .update(context, parameters, gradient, factor, [step, update])
    }

    /// All state, for checkpoints: `optimizer.<parameter>.<state>`.
    pub fn named_slices(&self) -> impl Iterator<Item = NamedSlice<'_>> {
        self.dense.named_slices().chain(self.sparse.named_slices())
    }

    /// All state, to restore a checkpoint into.
    pub fn named_slices_mut(&mut self) -> impl Iterator<Item = NamedSliceMut<'_>> {
        self.dense
            .named_slices_mut()
            .chain(self.sparse.named_slices_mut())
    }
}
