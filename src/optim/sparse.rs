use streamrec_kernels::{
    Context,
    sparse_optimizer::{self, SparseGradient, SparseRule, SparseState},
};

use super::{OptimError, groups::Groups};
use crate::{
    config::optimizer::{OptimizerConfig, SparseOptimizerConfig},
    model::{Extent, NamedSlice, NamedSliceMut, ParameterStore, TableId},
};

/// Updates the embedding tables, each with its own rule and state.
pub struct SparseOptimizer {
    learning_rate: f64,
    tables: Vec<TableOptimizer>,
}

struct TableOptimizer {
    /// Of the table's weights.
    name: String,
    extent: Extent,
    learning_rate_scale: f64,
    rule: SparseRule,
    state: SparseState,
}

impl SparseOptimizer {
    pub(super) fn new(
        context: &Context,
        config: &OptimizerConfig,
        groups: &Groups<'_>,
        parameters: &ParameterStore,
    ) -> Self {
        let table = |(_, table): (TableId, &crate::model::Table)| {
            let name = table.parameter.name.clone();
            let rule = rule(&config.sparse, groups.weight_decay(&name));
            let state = SparseState::new(context, &rule, table.rows(), table.dim());
            let learning_rate_scale = groups.learning_rate_scale(&name);
            TableOptimizer {
                name,
                extent: table.extent.clone(),
                learning_rate_scale,
                rule,
                state,
            }
        };
        let tables = parameters.tables().map(table).collect();
        Self {
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
    /// When the gradient does not fit the table, or that of a row is not finite.
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
        let weights = parameters.table_mut(table).view_mut();
        sparse_optimizer::update(
            context,
            &own.rule,
            rate,
            step,
            weights,
            &mut own.state,
            gradient,
        )
        .map_err(|source| OptimError::Kernel {
            what: format!("`{}`", own.name),
            source: Box::new(source),
        })
    }

    /// The state, for checkpoints: `optimizer.embedding.<table>.<state>`.
    pub fn named_slices(&self) -> impl Iterator<Item = NamedSlice<'_>> {
        self.tables.iter().flat_map(|table| {
            let tensors = table.state.tensors();
            tensors.map(|(state, tensor)| NamedSlice {
                name: format!("optimizer.{}.{state}", table.name),
                extent: state_extent(&table.extent, tensor.shape()),
                values: tensor.f32(),
            })
        })
    }

    /// The state, to restore a checkpoint into.
    pub fn named_slices_mut(&mut self) -> impl Iterator<Item = NamedSliceMut<'_>> {
        self.tables.iter_mut().flat_map(|table| {
            let (name, extent) = (&table.name, &table.extent);
            let tensors = table.state.tensors_mut();
            tensors.map(move |(state, tensor)| NamedSliceMut {
                name: format!("optimizer.{name}.{state}"),
                extent: state_extent(extent, tensor.shape()),
                values: tensor.f32_mut(),
            })
        })
    }
}

/// The part of a table's state that is here: the table's rows, and its columns unless a row has one
/// value.
fn state_extent(table: &Extent, local_shape: &[usize]) -> Extent {
    let mut extent = table.clone();
    if local_shape[1] != table.columns.len() {
        (extent.shape[1], extent.columns) = (1, 0..1);
    }
    extent
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
