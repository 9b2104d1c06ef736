use std::sync::Arc;

use streamrec_kernels::{
    Context,
    sparse_optimizer::{self, SparseGradient, SparseRule, SparseState, WholeRows, row_products},
};

use super::{OptimError, groups::Groups};
use crate::{
    comm::{Communicator, all_reduce_f64},
    config::optimizer::{OptimizerConfig, SparseOptimizerConfig},
    model::{Extent, ModelError, NamedSlice, NamedSliceMut, ParameterStore, TableId},
};

/// Updates the embedding tables, each with its own rule and state.
pub struct SparseOptimizer {
    learning_rate: f64,
    tables: Vec<TableOptimizer>,
    /// The ranks that hold the columns of column-wise tables.
    world: Arc<dyn Communicator>,
}

struct TableOptimizer {
    /// Of the table's weights.
    name: String,
    extent: Extent,
    learning_rate_scale: f64,
    rule: SparseRule,
    state: SparseState,
    /// Whether other ranks hold columns that take part in the update of a row.
    needs_whole_rows: bool,
}

impl SparseOptimizer {
    pub(super) fn new(
        context: &Context,
        config: &OptimizerConfig,
        groups: &Groups<'_>,
        parameters: &ParameterStore,
        world: Arc<dyn Communicator>,
    ) -> Self {
        let table = |(_, table): (TableId, &crate::model::Table)| {
            let name = table.parameter.name.clone();
            let rule = rule(&config.sparse, groups.weight_decay(&name));
            let state = SparseState::new(context, &rule, table.rows(), table.dim());
            let learning_rate_scale = groups.learning_rate_scale(&name);
            let needs_whole_rows =
                table.extent.columns.len() < table.extent.width() && rule.couples_columns();
            TableOptimizer {
                name,
                extent: table.extent.clone(),
                learning_rate_scale,
                rule,
                state,
                needs_whole_rows,
            }
        };
        let tables = parameters.tables().map(table).collect();
        Self {
            world,
            learning_rate: config.sparse.learning_rate(),
            tables,
        }
    }

    /// Whether a table is never updated.
    pub fn is_frozen(&self, table: TableId) -> bool {
        self.tables[table.index()].learning_rate_scale == 0.0
    }

    /// Updates each row of a table that `gradient` touches. `factor` is the schedule's, `step`
    /// counts from 1.
    ///
    /// # Errors
    /// When the gradient does not fit the table, that of a row is not finite, or ranks that hold the
    /// columns of a row cannot communicate.
    pub fn update(
        &mut self,
        context: &Context,
        parameters: &mut ParameterStore,
        table: TableId,
        gradient: SparseGradient<'_>,
        factor: f64,
        step: u64,
    ) -> Result<(), OptimError> {
        let own = &mut self.tables[table.index()];
        let rate = (self.learning_rate * factor * own.learning_rate_scale) as f32;
        let failed = |source| OptimError::Kernel {
            what: format!("`{}`", own.name),
            source: Box::new(source),
        };
        let parameter = parameters.table_mut(table);
        let state = &mut own.state;
        match gradient {
            SparseGradient::Rows(gradient) if own.needs_whole_rows => {
                let products = row_products(context, parameter.view(), gradient).map_err(failed)?;
                let mut products: Vec<f64> = products.into_flattened();
                all_reduce_f64(self.world.as_ref(), &mut products).map_err(ModelError::Comm)?;
                let dim = own.extent.width();
                let whole = WholeRows::new(&own.rule, products.as_chunks().0, dim);
                let weights = parameter.view_mut();
                sparse_optimizer::update_columns(
                    context, &own.rule, rate, step, weights, state, gradient, &whole,
                )
            }
            gradient => {
                let weights = parameter.view_mut();
                sparse_optimizer::update(context, &own.rule, rate, step, weights, state, gradient)
            }
        }
        .map_err(failed)
    }

    /// The state, for checkpoints: `optimizer.embedding.<table>.<state>`.
    pub fn named_slices(&self) -> impl Iterator<Item = NamedSlice<'_>> {
        self.tables.iter().flat_map(|table| {
            let tensors = table.state.tensors();
            tensors.map(|(state, tensor)| NamedSlice {
                name: format!("optimizer.{}.{state}", table.name),
                extent: table.state_extent(self.world.as_ref()),
                values: tensor.f32(),
            })
        })
    }

    /// The state, to restore a checkpoint into.
    pub fn named_slices_mut(&mut self) -> impl Iterator<Item = NamedSliceMut<'_>> {
        self.tables.iter_mut().flat_map(|table| {
            let name = &table.name;
            let extent = table.state_extent(self.world.as_ref());
            let tensors = table.state.tensors_mut();
            tensors.map(move |(state, tensor)| NamedSliceMut {
                name: format!("optimizer.{name}.{state}"),
                extent: extent.clone(),
                values: tensor.f32_mut(),
            })
        })
    }
}

impl TableOptimizer {
    /// The part of each state tensor that is here: the table's rows, and its columns unless a row has
    /// one value. That is the same on all ranks that hold columns of the row.
    fn state_extent(&self, world: &dyn Communicator) -> Extent {
        let mut extent = self.extent.clone();
        if matches!(self.rule, SparseRule::RowWiseAdagrad { .. }) {
            let apart = extent.columns.len() < extent.width();
            (extent.shape[1], extent.columns) = (1, 0..1);
            if apart {
                extent = extent.replicated(world.rank(), world.size());
            }
        }
        extent
    }
}

fn rule(config: &SparseOptimizerConfig, group_decay: Option<f64>) -> SparseRule {
    let decay = |own: f64| group_decay.unwrap_or(own) as f32;
    let norm = |max: Option<f64>| max.map(|max| max as f32);
    match *config {
        SparseOptimizerConfig::Sgd {
            weight_decay,
            max_row_norm,
            ..
        } => SparseRule::Sgd {
            weight_decay: decay(weight_decay),
            max_row_norm: norm(max_row_norm),
        },
        SparseOptimizerConfig::RowWiseAdagrad {
            eps,
            initial_accumulator,
            weight_decay,
            max_row_norm,
            ..
        } => SparseRule::RowWiseAdagrad {
            eps: eps as f32,
            initial_accumulator: initial_accumulator as f32,
            weight_decay: decay(weight_decay),
            max_row_norm: norm(max_row_norm),
        },
        SparseOptimizerConfig::Adagrad {
            eps,
            initial_accumulator,
            weight_decay,
            max_row_norm,
            ..
        } => SparseRule::Adagrad {
            eps: eps as f32,
            initial_accumulator: initial_accumulator as f32,
            weight_decay: decay(weight_decay),
            max_row_norm: norm(max_row_norm),
        },
        SparseOptimizerConfig::LazyAdam {
            beta1,
            beta2,
            eps,
            weight_decay,
            max_row_norm,
            ..
        } => SparseRule::LazyAdam {
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            eps: eps as f32,
            weight_decay: decay(weight_decay),
            max_row_norm: norm(max_row_norm),
        },
    }
}
