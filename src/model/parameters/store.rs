use std::sync::Arc;

use streamrec_artifact::{Graph, Parameter, Shapes};
use streamrec_kernels::{Context, DType, Tensor, TensorMut, TensorRef};

use super::{BucketSettings, Gradients, ParamId, ParameterLayout, initial_values};
use crate::{comm::Communicator, model::ModelError};

/// An embedding table of a [`ParameterStore`]: its place among the graph's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(usize);

impl TableId {
    /// The place among the tables.
    pub fn index(self) -> usize {
        self.0
    }
}

/// An embedding table.
#[derive(Debug)]
pub struct Table {
    /// Its name (`embedding.<table>`), shape and first values.
    pub parameter: Parameter,
    /// `[rows, dim]`
    weights: Tensor,
}

impl Table {
    /// The weights, `[rows, dim]`.
    pub fn view(&self) -> TensorRef<'_> {
        self.weights.view()
    }

    /// The weights to write to, `[rows, dim]`.
    pub fn view_mut(&mut self) -> TensorMut<'_> {
        TensorMut::from_f32(self.weights.f32_mut(), &self.parameter.shape)
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.parameter.shape[0]
    }

    /// The width of its vectors.
    pub fn dim(&self) -> usize {
        self.parameter.shape[1]
    }
}

/// A named tensor: name, shape, elements.
pub type NamedTensor<'a> = (String, Vec<usize>, &'a [f32]);
/// A named tensor to write to: name, shape, elements.
pub type NamedTensorMut<'a> = (String, Vec<usize>, &'a mut [f32]);

/// Collects parameters, then makes their [`ParameterStore`].
#[derive(Debug)]
pub struct ParameterBuilder {
    seed: u64,
    dense: Vec<Parameter>,
    tables: Vec<Parameter>,
}

impl ParameterBuilder {
    /// No parameters yet. First values depend on `seed`, and on each parameter's name.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            dense: Vec::new(),
            tables: Vec::new(),
        }
    }

    /// Adds a dense parameter. Add them in forward order.
    pub fn dense(&mut self, parameter: Parameter) -> ParamId {
        self.dense.push(parameter);
        ParamId(self.dense.len() - 1)
    }

    /// Adds an embedding table.
    pub fn table(&mut self, parameter: Parameter) -> TableId {
        self.tables.push(parameter);
        TableId(self.tables.len() - 1)
    }

    /// Adds all parameters of a graph, whose shapes validation gave.
    pub fn graph(mut self, graph: &Graph, shapes: &Shapes) -> Self {
        graph.parameters().into_iter().for_each(|parameter| {
            self.dense(parameter);
        });
        for (table, &rows) in graph.tables.iter().zip(&shapes.table_rows) {
            self.table(table.parameter(rows));
        }
        self
    }

    /// Allocates and initialises everything. Waits for all ranks.
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
        let layout = Arc::new(ParameterLayout::new(self.dense, buckets));
        let mut weights = Tensor::zeros(context, DType::F32, &[layout.len()]);
        for (placed, values) in layout.slices_mut(weights.f32_mut()) {
            initial_values::fill(context, self.seed, &placed.parameter, values);
        }
        let gradients = Gradients::new(Arc::clone(&layout), comm)?;
        let tables = self.tables.into_iter().map(|parameter| {
            let mut weights = Tensor::zeros(context, DType::F32, &parameter.shape);
            initial_values::fill(context, self.seed, &parameter, weights.f32_mut());
            Table { parameter, weights }
        });
        Ok(ParameterStore {
            layout,
            weights,
            gradients,
            tables: tables.collect(),
        })
    }

    fn check_names(&self) -> Result<(), ModelError> {
        let mut names: Vec<&str> = self
            .dense
            .iter()
            .chain(&self.tables)
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

/// All parameters of a model, with the gradients of the dense ones.
///
/// Dense master weights lie in one arena in bucket order, gradients in one buffer a bucket.
/// Embedding tables are tensors of their own, whose gradients are sparse and never stored whole.
#[derive(Debug)]
pub struct ParameterStore {
    layout: Arc<ParameterLayout>,
    /// `[layout.len()]`
    weights: Tensor,
    gradients: Gradients,
    tables: Vec<Table>,
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

    /// A dense parameter's weights, in its shape.
    pub fn weight(&self, id: ParamId) -> TensorRef<'_> {
        weight(&self.layout, &self.weights, id)
    }

    /// A dense parameter's weights to write to, in its shape.
    pub fn weight_mut(&mut self, id: ParamId) -> TensorMut<'_> {
        let placed = self.layout.get(id);
        let elements = &mut self.weights.f32_mut()[placed.arena.clone()];
        TensorMut::from_f32(elements, &placed.parameter.shape)
    }

    /// The gradients of the dense parameters.
    pub fn gradients(&self) -> &Gradients {
        &self.gradients
    }

    /// The gradients of the dense parameters, to write to.
    pub fn gradients_mut(&mut self) -> &mut Gradients {
        &mut self.gradients
    }

    /// Weights to read beside gradients to write to.
    pub fn weights_and_gradients(&mut self) -> (Weights<'_>, &mut Gradients) {
        (
            Weights {
                layout: &self.layout,
                arena: &self.weights,
            },
            &mut self.gradients,
        )
    }

    /// The arena of weights to write to beside the gradients, for the optimiser.
    pub fn arena_and_gradients(&mut self) -> (&mut [f32], &mut Gradients) {
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

    /// The number of weights, tables included.
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

    /// All weights, for checkpoint and export: dense ones, then tables.
    pub fn named_tensors(&self) -> impl Iterator<Item = NamedTensor<'_>> {
        let dense = self
            .layout
            .slices(self.weights.f32())
            .map(|(placed, elements)| {
                (
                    placed.parameter.name.clone(),
                    placed.parameter.shape.clone(),
                    elements,
                )
            });
        dense.chain(self.tables.iter().map(|Table { parameter, weights }| {
            (
                parameter.name.clone(),
                parameter.shape.clone(),
                weights.f32(),
            )
        }))
    }

    /// All weights, to load into.
    pub fn named_tensors_mut(&mut self) -> impl Iterator<Item = NamedTensorMut<'_>> {
        let slices = self.layout.slices_mut(self.weights.f32_mut());
        let dense = slices.map(|(placed, elements)| {
            (
                placed.parameter.name.clone(),
                placed.parameter.shape.clone(),
                elements,
            )
        });
        dense.chain(self.tables.iter_mut().map(|Table { parameter, weights }| {
            (
                parameter.name.clone(),
                parameter.shape.clone(),
                weights.f32_mut(),
            )
        }))
    }

    /// Replaces the weights of one parameter.
    ///
    /// # Errors
    /// When there is no such parameter, or its shape is another.
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
        let mut tensors = self.named_tensors_mut();
        let (_, expected, into) = tensors
            .find(|(known, ..)| known == name)
            .ok_or_else(|| refuse("the model has no parameter of this name".into()))?;
        if expected != shape || into.len() != elements.len() {
            return Err(refuse(format!(
                "the model's shape is {expected:?}, got {shape:?}"
            )));
        }
        into.copy_from_slice(elements);
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
    /// A parameter's weights, in its shape.
    pub fn get(&self, id: ParamId) -> TensorRef<'a> {
        weight(self.layout, self.arena, id)
    }
}

fn weight<'a>(layout: &ParameterLayout, arena: &'a Tensor, id: ParamId) -> TensorRef<'a> {
    let placed = layout.get(id);
    TensorRef::from_f32(&arena.f32()[placed.arena.clone()], &placed.parameter.shape)
}
