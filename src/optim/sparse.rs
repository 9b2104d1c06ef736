use std::sync::Arc;

use streamrec_kernels::{
    Context,
    embedding_bag::RowGradients,
    sparse_optimizer::{
        self, SparseGradient, SparseRule, SparseState, SparseStep, WholeRows, row_products,
    },
};

use super::{OptimError, groups::Groups};
use crate::{
    comm::{Communicator, all_gather_pod, all_reduce_f64},
    config::{
        Reduction,
        optimizer::{OptimizerConfig, SparseOptimizerConfig},
    },
    model::{Extent, ModelError, NamedSlice, NamedSliceMut, ParameterStore, Table, TableId},
};

/// Updates the embedding tables, each with its own rule and state.
pub struct SparseOptimizer {
    learning_rate: f64,
    rule: SparseRule,
    tables: Vec<TableOptimizer>,
    reduction: Reduction,
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
        reduction: Reduction,
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
            reduction,
            world,
            learning_rate: config.sparse.learning_rate(),
            rule: rule(&config.sparse, None),
            tables,
        }
    }

    /// Whether a table is never updated.
    pub fn is_frozen(&self, table: TableId) -> bool {
        self.tables[table.index()].learning_rate_scale == 0.0
    }

    /// Whether ranks hold columns of a table's rows, and its update needs whole ones.
    pub fn needs_whole_rows(&self, table: TableId) -> bool {
        self.tables[table.index()].needs_whole_rows
    }

    /// Updates the rows of tables that their gradients touch; tables that are frozen are not asked for one. `factor` is the
    /// schedule's, `step` counts from 1, and `update` those that updated anything. Collective, where ranks hold columns of
    /// the same rows.
    ///
    /// # Errors
    /// When a gradient does not fit its table, that of a row is not finite, or ranks that hold the
    /// columns of a row cannot communicate.
    pub fn update<'a>(
        &mut self,
        context: &Context,
        parameters: &mut ParameterStore,
        gradient: impl Fn(TableId) -> SparseGradient<'a> + Sync,
        factor: f64,
        [step, update]: [u64; 2],
    ) -> Result<(), OptimError> {
        let apart = self.rows_apart(parameters, &gradient);
        let mut whole = self.whole_rows(context, parameters, &apart)?.into_iter();
        context.install(|| {
            for table in parameters.table_ids() {
                if self.is_frozen(table) {
                    continue;
                }
                let own = &mut self.tables[table.index()];
                let rate = (self.learning_rate * factor * own.learning_rate_scale) as f32;
                let whole = match own.needs_whole_rows {
                    true => whole.next(),
                    false => None,
                };
                let gradient = match (gradient(table), &whole) {
                    (SparseGradient::Rows(rows), Some(whole)) => {
                        SparseGradient::Columns { rows, whole }
                    }
                    (gradient, _) => gradient,
                };
                let weights = parameters.table_mut(table);
                let step = SparseStep::new(rate, update).rounded(weights.rounding(step));
                let (weights, state) = (weights.view_mut(), &mut own.state);
                sparse_optimizer::update(context, &own.rule, step, weights, state, gradient)
                    .map_err(|source| own.failed(source))?;
            }
            Ok(())
        })
    }

    /// The gradients of tables whose rows are apart, of which the update must know the whole.
    fn rows_apart<'a>(
        &self,
        parameters: &ParameterStore,
        gradient: impl Fn(TableId) -> SparseGradient<'a>,
    ) -> Vec<(TableId, &'a RowGradients)> {
        let apart = |table: TableId| {
            if self.is_frozen(table) || !self.needs_whole_rows(table) {
                return None;
            }
            match gradient(table) {
                SparseGradient::Rows(rows) => Some((table, rows)),
                _ => None,
            }
        };
        parameters.table_ids().filter_map(apart).collect()
    }

    /// What the update must know of the columns at other ranks, for each of the tables: all of them in one exchange.
    fn whole_rows(
        &self,
        context: &Context,
        parameters: &ParameterStore,
        apart: &[(TableId, &RowGradients)],
    ) -> Result<Vec<WholeRows>, OptimError> {
        let world = self.world.as_ref();
        if apart.is_empty() {
            return Ok(Vec::new());
        }
        if self.reduction == Reduction::Invariant {
            let gathered = apart.iter().map(|&(table, rows)| {
                let own = &self.tables[table.index()];
                Ok(own.gathered_rows(world, parameters.table(table), rows)?)
            });
            return gathered.collect();
        }
        let mut sums = Vec::new();
        for &(table, rows) in apart {
            let products = row_products(context, parameters.table(table).view(), rows);
            let products = products.map_err(|source| self.tables[table.index()].failed(source))?;
            sums.extend(products.into_flattened());
        }
        all_reduce_f64(world, &mut sums).map_err(ModelError::Comm)?;
        let mut rest = sums.as_chunks().0;
        let whole = apart.iter().map(|&(table, rows)| {
            let (own, after) = rest.split_at(rows.ids.len());
            rest = after;
            let table = &self.tables[table.index()];
            Ok(WholeRows::new(&table.rule, own, table.extent.width()))
        });
        whole.collect()
    }

    /// The rule of all tables; their decay is in their [`factors`](Self::factors).
    pub(super) fn rule(&self) -> SparseRule {
        self.rule
    }

    /// The learning rate before the schedule.
    pub(super) fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    /// A table's factor on the learning rate, and its weight decay.
    pub(super) fn factors(&self, table: TableId) -> (f32, f32) {
        let own = &self.tables[table.index()];
        (own.learning_rate_scale as f32, own.rule.weight_decay())
    }

    /// The state of each table.
    pub(super) fn states(&self) -> impl Iterator<Item = &SparseState> {
        self.tables.iter().map(|table| &table.state)
    }

    /// The state of each table, to write to.
    pub(super) fn states_mut(&mut self) -> impl Iterator<Item = &mut SparseState> {
        self.tables.iter_mut().map(|table| &mut table.state)
    }

    /// The state, for checkpoints: `optimizer.embedding.<table>.<state>`.
    pub fn named_slices(&self) -> impl Iterator<Item = NamedSlice<'_>> {
        self.tables.iter().flat_map(|table| {
            let tensors = table.state.tensors();
            tensors.map(|(state, tensor)| {
                let name = format!("optimizer.{}.{state}", table.name);
                NamedSlice::new(name, table.state_extent(self.world.as_ref()), tensor.f32())
            })
        })
    }

    /// The state, to restore a checkpoint into.
    pub fn named_slices_mut(&mut self) -> impl Iterator<Item = NamedSliceMut<'_>> {
        self.tables.iter_mut().flat_map(|table| {
            let name = &table.name;
            let extent = table.state_extent(self.world.as_ref());
            let tensors = table.state.tensors_mut();
            tensors.map(move |(state, tensor)| {
                let name = format!("optimizer.{name}.{state}");
                NamedSliceMut::new(name, extent.clone(), tensor.f32_mut())
            })
        })
    }
}

impl TableOptimizer {
    fn failed(&self, source: streamrec_kernels::Error) -> OptimError {
        OptimError::Kernel {
            what: format!("`{}`", self.name),
            source: Box::new(source),
        }
    }

    /// Gathers the columns of the touched rows and of their gradients from all ranks, so that sums over
    /// a row are taken in the order of one rank.
    fn gathered_rows(
        &self,
        world: &dyn Communicator,
        table: &Table,
        gradient: &RowGradients,
    ) -> Result<WholeRows, ModelError> {
        let (touched, dim) = (gradient.ids.len(), self.extent.width());
        let (mut own, mut scratch) = (gradient.rows.clone(), Vec::new());
        for &id in &gradient.ids {
            own.extend_from_slice(table.view().wide_row(id as usize, &mut scratch));
        }
        let parts = all_gather_pod(world, &own)?;
        let [mut gradients, mut weights] = [(); 2].map(|()| vec![0.0f32; touched * dim]);
        let mut first = 0;
        for part in &parts {
            let width = part.len().checked_div(2 * touched).unwrap_or(0);
            let (g, w) = part.split_at(part.len() / 2);
            for (whole, part) in [(&mut gradients, g), (&mut weights, w)] {
                for row in 0..touched {
                    whole[row * dim + first..][..width]
                        .copy_from_slice(&part[row * width..][..width]);
                }
            }
            first += width;
        }
        Ok(WholeRows::of_rows(&self.rule, &gradients, &weights, dim))
    }

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
