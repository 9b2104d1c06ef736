use std::sync::Arc;

use streamrec_artifact::{Graph, Parameter, Shapes};
use streamrec_kernels::{
    Context, DType, Tensor, TensorMut, TensorRef, cast, sparse_optimizer::Rounding,
};

use super::{
    BucketSettings, Extent, Gradients, NamedSlice, NamedSliceMut, ParamId, ParameterLayout, Placed,
    Table, TableId, initial_values,
};
use crate::{
    comm::Communicator,
    config::Precision,
    model::{ModelError, TensorParallel},
};

/// Collects parameters, then makes their [`ParameterStore`].
#[derive(Debug)]
pub struct ParameterBuilder {
    seed: u64,
    compute: DType,
    /// Of tables.
    stored: DType,
    dense: Vec<(Parameter, Extent)>,
    /// With the part of a sharded table that is here.
    tables: Vec<(Parameter, Option<Extent>)>,
    /// This rank and the ranks of its tensor-parallel group.
    tensor_parallel: (usize, usize),
}

impl ParameterBuilder {
    /// No parameters yet. First values depend on `seed`, and on each parameter's name.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            compute: DType::F32,
            stored: DType::F32,
            dense: Vec::new(),
            tables: Vec::new(),
            tensor_parallel: (0, 1),
        }
    }

    /// Lets layers compute in a precision. Weights, gradients and state stay float32.
    pub fn precision(mut self, precision: Precision) -> Self {
        self.compute = dtype(precision);
        self
    }

    /// Stores tables in a precision. Their gradients and state stay float32.
    pub fn table_precision(mut self, precision: Precision) -> Self {
        self.stored = dtype(precision);
        self
    }

    /// Adds a dense parameter. Add them in forward order.
    pub fn dense(&mut self, parameter: Parameter) -> ParamId {
        let extent = Extent::whole(&parameter.shape);
        self.dense_part(parameter, extent)
    }

    /// Adds the part `extent` of a dense parameter.
    fn dense_part(&mut self, parameter: Parameter, extent: Extent) -> ParamId {
        self.dense.push((parameter, extent));
        ParamId(self.dense.len() - 1)
    }

    /// Adds an embedding table.
    pub fn table(&mut self, parameter: Parameter) -> TableId {
        self.tables.push((parameter, None));
        TableId(self.tables.len() - 1)
    }

    /// Adds all parameters of a graph, whose shapes validation gave, as far as this rank holds them.
    pub fn graph(mut self, graph: &Graph, shapes: &Shapes, shared: &TensorParallel) -> Self {
        self.tensor_parallel = (shared.comm().rank(), shared.comm().size());
        for (parameter, extent) in graph.nodes.iter().flat_map(|node| shared.parameters(node)) {
            self.dense_part(parameter, extent);
        }
        for (table, &rows) in graph.tables.iter().zip(&shapes.table_rows) {
            self.table(table.parameter(rows));
        }
        self
    }

    /// Shards tables: `extents` are the parts of them that are here, `None` for replicated ones, in the
    /// order of the tables.
    pub fn shard_tables(mut self, extents: impl IntoIterator<Item = Option<Extent>>) -> Self {
        for ((_, own), extent) in self.tables.iter_mut().zip(extents) {
            *own = extent;
        }
        self
    }

    /// Allocates and initialises everything. `comm` joins the ranks that add up gradients: those that
    /// hold the same parts. Waits for all of them.
    ///
    /// # Errors
    /// When two parameters have one name, or the communicator has no memory.
    pub fn build(
        self,
        context: &Context,
        comm: &dyn Communicator,
        buckets: BucketSettings,
    ) -> Result<ParameterStore, ModelError> {
        self.check_names()?;
        let (rank, ranks) = self.tensor_parallel;
        let place = |extent: Extent| match extent.is_whole() {
            true => extent.replicated(comm.rank() * ranks + rank, comm.size() * ranks),
            false => extent.replicated(comm.rank(), comm.size()),
        };
        let dense = self.dense.into_iter();
        let dense = dense.map(|(parameter, extent)| (parameter, place(extent)));
        let layout = Arc::new(ParameterLayout::new(dense.collect(), buckets));
        let mut weights = Tensor::zeros(context, DType::F32, &[layout.len()]);
        for (placed, values) in layout.slices_mut(weights.f32_mut()) {
            let Placed {
                parameter, extent, ..
            } = placed;
            initial_values::fill(context, self.seed, parameter, extent, values);
        }
        let gradients = Gradients::new(Arc::clone(&layout), comm)?;
        let compute = self.compute.is_half().then(|| ComputeCopy {
            weights: Tensor::zeros(context, self.compute, &[layout.len()]),
            stale: true,
        });
        let (seed, mut first_row) = (self.seed, 0);
        let tables = self.tables.into_iter().map(|(parameter, own)| {
            let sharded = own.is_some();
            let extent = own.unwrap_or_else(|| place(Extent::whole(&parameter.shape)));
            let weights = initial_values::table(context, seed, &parameter, &extent, self.stored);
            let rounding = Rounding {
                seed,
                step: 0,
                first_row: first_row + extent.rows.start as u64,
                first_column: extent.columns.start as u32,
            };
            first_row += parameter.shape[0] as u64;
            Table {
                parameter,
                extent,
                sharded,
                rounding,
                weights,
            }
        });
        Ok(ParameterStore {
            layout,
            weights,
            compute,
            gradients,
            stored: self.stored,
            tables: tables.collect(),
        })
    }

    fn check_names(&self) -> Result<(), ModelError> {
        let mut names: Vec<&str> = self
            .dense
            .iter()
            .map(|(parameter, _)| parameter)
            .chain(self.tables.iter().map(|(parameter, _)| parameter))
            .map(|parameter| parameter.name.as_str())
            .collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(ModelError::Parameter {
                parameter: pair[0].into(),
                problem: "two parameters have this name, expected different ones".into(),
            }),
            None => Ok(()),
        }
    }
}

/// The type of numbers of a precision.
pub fn dtype(precision: Precision) -> DType {
    match precision {
        Precision::Fp32 => DType::F32,
        Precision::Bf16 => DType::Bf16,
        Precision::Fp16 => DType::F16,
    }
}

/// All parameters of a model, with the gradients of the dense ones.
///
/// Dense master weights lie in one arena in bucket order, gradients in one buffer a bucket; both are
/// float32. Where layers compute in half precision, they read a rounded copy of the arena, which
/// [`refresh`](Self::refresh) renews after the masters changed.
/// Embedding tables are tensors of their own, float32 or in half precision, whose gradients are sparse and never stored
/// whole.
#[derive(Debug)]
pub struct ParameterStore {
    layout: Arc<ParameterLayout>,
    /// `[layout.len()]`
    weights: Tensor,
    compute: Option<ComputeCopy>,
    gradients: Gradients,
    stored: DType,
    tables: Vec<Table>,
}

/// The dense weights in the type of the products.
#[derive(Debug)]
struct ComputeCopy {
    /// `[layout.len()]`
    weights: Tensor,
    /// Whether the masters changed since.
    stale: bool,
}

impl ParameterStore {
    /// Where dense parameters lie.
    pub fn layout(&self) -> &Arc<ParameterLayout> {
        &self.layout
    }

    /// The dense parameter of this name.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.layout.find(name)
    }

    /// The embedding table whose parameter has this name, `embedding.<table>`.
    pub fn find_table(&self, name: &str) -> Option<TableId> {
        self.tables
            .iter()
            .position(|table| table.parameter.name == name)
            .map(TableId)
    }

    /// The type in which layers compute.
    pub fn compute_dtype(&self) -> DType {
        self.compute
            .as_ref()
            .map_or(DType::F32, |copy| copy.weights.dtype())
    }

    /// The type in which tables are stored.
    pub fn table_dtype(&self) -> DType {
        self.stored
    }

    /// Rounds the masters into the copy that layers compute with, if they changed since.
    pub fn refresh(&mut self, context: &Context) -> Result<(), ModelError> {
        let Some(copy) = self.compute.as_mut().filter(|copy| copy.stale) else {
            return Ok(());
        };
        cast::round(context, self.weights.f32(), &mut copy.weights).map_err(ModelError::kernel(
            "the copy of the weights to compute with",
        ))?;
        copy.stale = false;
        Ok(())
    }

    /// The masters, `[layout.len()]`.
    pub(in crate::model) fn masters(&self) -> &[f32] {
        self.weights.f32()
    }

    /// The masters, of which a copy to compute with is old from now on.
    pub(in crate::model) fn masters_mut(&mut self) -> &mut [f32] {
        if let Some(copy) = &mut self.compute {
            copy.stale = true;
        }
        self.weights.f32_mut()
    }

    /// The arena that layers compute with.
    ///
    /// # Panics
    /// When the masters changed after the last [`refresh`](Self::refresh).
    fn computed(&self) -> &Tensor {
        match &self.compute {
            None => &self.weights,
            Some(copy) => {
                assert!(!copy.stale, "weights changed: refresh the store first");
                &copy.weights
            }
        }
    }

    /// What is here of a dense parameter's weights, as layers compute with them.
    pub fn weight(&self, id: ParamId) -> TensorRef<'_> {
        weight(&self.layout, self.computed(), id)
    }

    /// What is here of a weight and of the bias that may follow it.
    pub fn weight_and_bias(
        &self,
        parameters: &[ParamId],
    ) -> (TensorRef<'_>, Option<TensorRef<'_>>) {
        let bias = parameters.get(1).map(|&bias| self.weight(bias));
        (self.weight(parameters[0]), bias)
    }

    /// What is here of a dense parameter's weights, to write to.
    pub fn weight_mut(&mut self, id: ParamId) -> TensorMut<'_> {
        let layout = Arc::clone(&self.layout);
        let placed = layout.get(id);
        let elements = &mut self.masters_mut()[placed.arena.clone()];
        TensorMut::from_f32(elements, &placed.extent.local_matrix())
    }

    /// The gradients of the dense parameters.
    pub fn gradients(&self) -> &Gradients {
        &self.gradients
    }

    /// The gradients of the dense parameters, to write to.
    pub fn gradients_mut(&mut self) -> &mut Gradients {
        &mut self.gradients
    }

    /// Weights to compute with beside gradients to write to.
    ///
    /// # Panics
    /// When the masters changed after the last [`refresh`](Self::refresh).
    pub fn weights_and_gradients(&mut self) -> (Weights<'_>, &mut Gradients) {
        let arena = match &self.compute {
            None => &self.weights,
            Some(copy) => {
                assert!(!copy.stale, "weights changed: refresh the store first");
                &copy.weights
            }
        };
        let layout = &self.layout;
        (Weights { layout, arena }, &mut self.gradients)
    }

    /// The arena of weights to write to beside the gradients, for the optimiser.
    pub fn arena_and_gradients(&mut self) -> (&mut [f32], &mut Gradients) {
        if let Some(copy) = &mut self.compute {
            copy.stale = true;
        }
        (self.weights.f32_mut(), &mut self.gradients)
    }

    /// An embedding table.
    pub fn table(&self, id: TableId) -> &Table {
        &self.tables[id.0]
    }

    /// An embedding table, to write to.
    pub fn table_mut(&mut self, id: TableId) -> &mut Table {
        &mut self.tables[id.0]
    }

    /// All tables.
    pub fn tables(&self) -> impl ExactSizeIterator<Item = (TableId, &Table)> {
        self.tables
            .iter()
            .enumerate()
            .map(|(index, table)| (TableId(index), table))
    }

    /// The ids of all tables.
    pub fn table_ids(&self) -> impl ExactSizeIterator<Item = TableId> + use<> {
        (0..self.tables.len()).map(TableId)
    }

    /// The number of weights of the whole model, tables included.
    pub fn count(&self) -> usize {
        let dense = self
            .layout
            .parameters()
            .iter()
            .map(|placed| placed.parameter.len());
        dense
            .chain(self.tables.iter().map(|table| table.parameter.len()))
            .sum()
    }

    /// All weights that are here, for checkpoint and export: dense ones, then tables.
    pub fn named_slices(&self) -> impl Iterator<Item = NamedSlice<'_>> {
        let dense = self.layout.slices(self.weights.f32());
        let dense = dense.map(|(placed, values)| {
            NamedSlice::new(placed.parameter.name.clone(), placed.extent.clone(), values)
        });
        dense.chain(self.tables.iter().map(|table| NamedSlice {
            name: table.parameter.name.clone(),
            extent: table.extent.clone(),
            values: table.weights.view(),
        }))
    }

    /// All weights that are here, to load into.
    pub fn named_slices_mut(&mut self) -> impl Iterator<Item = NamedSliceMut<'_>> {
        if let Some(copy) = &mut self.compute {
            copy.stale = true;
        }
        let dense = self.layout.slices_mut(self.weights.f32_mut());
        let dense = dense.map(|(placed, values)| {
            NamedSliceMut::new(placed.parameter.name.clone(), placed.extent.clone(), values)
        });
        dense.chain(self.tables.iter_mut().map(|table| NamedSliceMut {
            name: table.parameter.name.clone(),
            extent: table.extent.clone(),
            values: table.weights.view_mut(),
        }))
    }

    /// Replaces what is here of the weights of one parameter.
    ///
    /// # Errors
    /// When there is no such parameter, or what is here has another shape.
    pub fn load_named(
        &mut self,
        name: &str,
        shape: &[usize],
        elements: &[f32],
    ) -> Result<(), ModelError> {
        let refuse = |problem: String| ModelError::Parameter {
            parameter: name.into(),
            problem,
        };
        let mut slices = self.named_slices_mut();
        let mut slice = slices
            .find(|slice| slice.name == name)
            .ok_or_else(|| refuse("the model has no parameter of this name".into()))?;
        let expected = slice.extent.local_shape();
        if expected != shape || slice.extent.len() != elements.len() {
            return Err(refuse(format!(
                "the model's shape is {expected:?}, got {shape:?}"
            )));
        }
        slice.values.set_f32(elements);
        Ok(())
    }
}

/// The weights of the dense parameters, to read.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    layout: &'a ParameterLayout,
    arena: &'a Tensor,
}

impl<'a> Weights<'a> {
    /// What is here of a parameter's weights.
    pub fn get(&self, id: ParamId) -> TensorRef<'a> {
        weight(self.layout, self.arena, id)
    }
}

fn weight<'a>(layout: &ParameterLayout, arena: &'a Tensor, id: ParamId) -> TensorRef<'a> {
    let placed = layout.get(id);
    let range = placed.arena.clone();
    let [rows, columns] = placed.extent.local_matrix();
    arena.matrix_at(range.start, rows, columns)
}
