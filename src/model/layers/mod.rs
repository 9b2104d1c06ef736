//! Layers: one for each operation of a graph, with hand-derived forward and backward.
//!
//! A layer computes a node's value from its inputs' values, and later, from the value's gradient,
//! the gradients of its inputs and parameters. It owns what it must remember in between, sized for
//! the planned batch; views of everything else come with each call. Matrices are `[rows, columns]`,
//! a row a sample. Layers that a tensor-parallel group shares add up or gather matrices
//! inside their passes; all others know nothing of ranks.

mod add;
mod column_parallel;
mod concat;
mod cross;
mod cross_low_rank;
mod dense;
mod dot_interaction;
mod embedding_bag;
mod factorization_machine;
mod group_matrix;
mod linear;
mod pass;
mod row_parallel;
mod sum_features;

use streamrec_artifact::{Activation, Graph, Node, Op};
use streamrec_kernels::{Context, cuda::DeviceError, linear as kernel};

pub(super) use embedding_bag::{EmbeddingBag, TableBag};
pub(super) use pass::{
    Backward, Forward, GradientBuffers, InputGradient, InputGradients, Inputs, value,
};

use super::{
    ModelError, ParamId, ParameterStore, RemoteLookup, TableId, TensorParallel, plan::Masks,
};
use crate::config::Partition;
use streamrec_artifact::FeatureSchema;

/// A node's computation.
pub(super) trait Layer: Send + Sync {
    /// The parameters, in the order of the node's.
    fn parameters(&self) -> &[ParamId] {
        &[]
    }

    /// Columns of working memory that a backward pass needs.
    fn workspace(&self) -> usize {
        0
    }

    /// Computes the value.
    fn forward(&mut self, pass: Forward<'_>) -> Result<(), PassError>;

    /// Computes the gradients of inputs and parameters. The gradient of the value may be
    /// overwritten: nobody reads it afterwards, unless it is that of embeddings.
    fn backward(&mut self, pass: Backward<'_>) -> Result<(), PassError>;
}

/// Why a layer failed; the network adds the node.
pub(super) enum PassError {
    Kernel(streamrec_kernels::Error),
    Model(ModelError),
}

impl PassError {
    /// The error of the node `name` in `pass`, `forward` or `backward`.
    pub(super) fn at(self, name: &str, pass: &'static str) -> ModelError {
        match self {
            Self::Model(error) => error,
            Self::Kernel(source) => ModelError::Node {
                node: name.to_owned(),
                pass,
                source: Box::new(source),
            },
        }
    }
}

impl From<streamrec_kernels::Error> for PassError {
    fn from(error: streamrec_kernels::Error) -> Self {
        Self::Kernel(error)
    }
}

impl From<DeviceError> for PassError {
    fn from(error: DeviceError) -> Self {
        Self::Model(error.into())
    }
}

impl From<ModelError> for PassError {
    fn from(error: ModelError) -> Self {
        Self::Model(error)
    }
}

/// What layers are made from.
pub(super) struct LayerContext<'a> {
    pub(super) context: &'a Context,
    pub(super) graph: &'a Graph,
    pub(super) schema: &'a FeatureSchema,
    pub(super) parameters: &'a ParameterStore,
    pub(super) shared: &'a TensorParallel,
    /// The lookups of all nodes in sharded tables.
    pub(super) remote: &'a [RemoteLookup],
    /// The most samples of a batch.
    pub(super) batch: usize,
    /// Who masks gradients of rectified values.
    pub(super) masks: &'a Masks,
}

impl LayerContext<'_> {
    /// The node's parameters in the store.
    pub(super) fn parameters(&self, node: &Node) -> Result<Vec<ParamId>, ModelError> {
        let find = |parameter: streamrec_artifact::Parameter| {
            let missing = || missing(&parameter.name);
            let id = self.parameters.find(&parameter.name).ok_or_else(missing)?;
            let got = &self.parameters.layout().get(id).parameter.shape;
            if *got == parameter.shape {
                return Ok(id);
            }
            let problem = format!(
                "the graph's shape is {:?}, the store's {got:?}",
                parameter.shape
            );
            Err(ModelError::Parameter {
                parameter: parameter.name,
                problem,
            })
        };
        node.parameters().into_iter().map(find).collect()
    }
}

/// The graph's table `name` in the store.
fn table(graph: &Graph, parameters: &ParameterStore, name: &str) -> Result<TableId, ModelError> {
    let table = graph.table(name).ok_or_else(|| missing(name))?;
    let parameter = table.parameter_name();
    parameters
        .find_table(&parameter)
        .ok_or_else(|| missing(&parameter))
}

fn missing(parameter: &str) -> ModelError {
    let problem = "the graph needs it, the parameter store does not have it".into();
    ModelError::Parameter {
        parameter: parameter.into(),
        problem,
    }
}

/// The layer of a node of a valid graph, which stands at `index`.
pub(super) fn build(
    index: usize,
    node: &Node,
    of: &LayerContext<'_>,
) -> Result<Box<dyn Layer>, ModelError> {
    let parameters = of.parameters(node)?;
    Ok(match &node.op {
        Op::Dense => Box::new(dense::Dense),
        Op::EmbeddingBag { lookups } => Box::new(EmbeddingBag::new(index, lookups, of)?),
        Op::Linear { activation, .. } => {
            let activation = kernel_activation(*activation);
            match of.shared.partition(&node.name) {
                Partition::Column => Box::new(column_parallel::ColumnParallel::new(
                    node, parameters, activation, of,
                )?),
                Partition::Row => Box::new(row_parallel::RowParallel::new(
                    node, parameters, activation, of,
                )?),
                _ => Box::new(linear::Linear::new(parameters, activation, index, of.masks)),
            }
        }
        Op::DotInteraction { features, dim } => Box::new(dot_interaction::DotInteraction {
            features: *features,
            dim: *dim,
        }),
        Op::Cross { dim } => Box::new(cross::Cross::new(node, parameters, *dim, of)?),
        Op::CrossLowRank { dim, .. } => Box::new(cross_low_rank::CrossLowRank::new(
            node, parameters, *dim, of,
        )?),
        Op::FactorizationMachine { features, dim } => {
            Box::new(factorization_machine::FactorizationMachine {
                features: *features,
                dim: *dim,
            })
        }
        Op::SumFeatures { features, dim } => Box::new(sum_features::SumFeatures {
            features: *features,
            dim: *dim,
        }),
        Op::Concat => Box::new(concat::Concat),
        Op::Add => Box::new(add::Add),
    })
}

fn kernel_activation(activation: Activation) -> kernel::Activation {
    match activation {
        Activation::None => kernel::Activation::None,
        Activation::Relu => kernel::Activation::Relu,
    }
}
