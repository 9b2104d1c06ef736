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
    dense: DenseOptimizer,
    sparse: SparseOptimizer,
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
        })
    }

    /// The factor on learning rates.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Updates the dense parameters in `step`, from 1. Returns the norm of their gradients before
    /// clipping.
    ///
    /// # Errors
    /// When a gradient is in flight or not finite; nothing is updated then.
    pub fn update_dense(
        &mut self,
        context: &Context,
        parameters: &mut ParameterStore,
        step: u64,
    ) -> Result<f64, OptimError> {
        self.dense
            .update(context, parameters, self.schedule.factor(step), step)
    }

    /// Whether a table keeps its first weights, so that nobody needs its gradient.
    pub fn is_frozen(&self, table: TableId) -> bool {
        self.sparse.is_frozen(table)
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
        gradient: impl Fn(TableId) -> SparseGradient<'a>,
    ) -> Result<(), OptimError> {
        let factor = self.schedule.factor(step);
        for table in parameters.table_ids() {
            if self.is_frozen(table) {
                continue;
            }
            let gradient = gradient(table);
            self.sparse
                .update(context, parameters, table, gradient, factor, step)?;
        }
        Ok(())
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
