//! The model as a static graph: what the trainer trains and what serving interprets.
//!
//! A node's value is a matrix `[batch, width]`. Nodes stand in topological order, and each names the nodes
//! it reads. Weights belong to nodes ([`Node::parameters`]) and tables to the graph ([`GraphTable`]).

mod error;
mod shapes;
#[cfg(test)]
mod tests;

pub use error::GraphError;
pub use shapes::Shapes;

use serde::{Deserialize, Serialize};

use crate::feature_schema::Pooling;
use crate::parameter::Parameter;

/// The greatest width of a node, and of a table's vectors.
pub const MAX_WIDTH: usize = 1 << 20;

/// A model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Graph {
    /// The embedding tables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<GraphTable>,
    /// The nodes, each after those it reads.
    pub nodes: Vec<Node>,
    /// The node whose value is the logits, `[batch, labels]`.
    pub output: String,
}

/// One embedding table: weights `embedding.<name>`, `[rows, dim]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GraphTable {
    /// The table's name.
    pub name: String,
    /// The table of the feature schema that says what its rows are. Several may share the same rows.
    pub rows_of: String,
    /// The width of its vectors.
    pub dim: usize,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// The node's name; its weights are `<name>.<weight>`.
    pub name: String,
    /// The nodes it reads, all of them earlier.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// What it computes.
    pub op: Op,
}

/// What a node computes from `x`, its input, `[batch, width]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// The dense features, `[batch, dense]`. No inputs.
    Dense,
    /// The pooled vectors of bags side by side, `[batch, sum of dims]`. No inputs.
    EmbeddingBag {
        /// The bags, in the order of their columns.
        lookups: Vec<LookupSpec>,
    },
    /// `activation(x W^T + b)`, `[batch, outputs]`.
    Linear {
        /// The width of `x`.
        inputs: usize,
        /// The width of the result.
        outputs: usize,
        /// Whether there is a `b`.
        bias: bool,
        /// What is applied last.
        #[serde(default)]
        activation: Activation,
    },
    /// The first vector, then all pairwise dot products, `[batch, dim + features (features - 1) / 2]`.
    ///
    /// `x` is `features` vectors of `dim`, the first of them the dense one. Products are the strict lower
    /// triangle row by row: pair `(i, j)`, `j < i`, is at `dim + i (i - 1) / 2 + j`.
    /// DLRM: <https://arxiv.org/abs/1906.00091>.
    DotInteraction {
        /// How many vectors.
        features: usize,
        /// Their width.
        dim: usize,
    },
    /// `x0 * (x W^T + b) + x`, inputs `[x0, x]`, `[batch, dim]`. DCN-v2: <https://arxiv.org/abs/2008.13535>.
    Cross {
        /// The width of `x0` and `x`.
        dim: usize,
    },
    /// `x0 * ((x V^T) W^T + b) + x`, inputs `[x0, x]`, `[batch, dim]`.
    CrossLowRank {
        /// The width of `x0` and `x`.
        dim: usize,
        /// The width between `V` and `W`.
        rank: usize,
    },
    /// `0.5 * sum_d ((sum_f v_fd)^2 - sum_f v_fd^2)`, `[batch, 1]`; `x` is `features` vectors `v_f` of `dim`.
    /// DeepFM: <https://arxiv.org/abs/1703.04247>.
    FactorizationMachine {
        /// How many vectors.
        features: usize,
        /// Their width.
        dim: usize,
    },
    /// The sum of `features` vectors of `dim`, `[batch, dim]`.
    SumFeatures {
        /// How many vectors.
        features: usize,
        /// Their width.
        dim: usize,
    },
    /// The inputs side by side, `[batch, sum of widths]`.
    Concat,
    /// The sum of the inputs, all of one width; an input of width 1 is added to each column.
    Add,
}

/// One bag of an [`Op::EmbeddingBag`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookupSpec {
    /// The categorical feature whose rows are looked up.
    pub feature: String,
    /// The graph's table.
    pub table: String,
    /// How the vectors of a bag become one; an empty bag is zeros.
    #[serde(default)]
    pub pooling: Pooling,
}

/// What a linear node applies last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// `max(x, 0)`.
    Relu,
}

impl Graph {
    /// The table `name`.
    pub fn table(&self, name: &str) -> Option<&GraphTable> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// The dense parameters: those of each node, in the order of the nodes.
    pub fn parameters(&self) -> Vec<Parameter> {
        self.nodes.iter().flat_map(Node::parameters).collect()
    }
}

impl Op {
    /// The operation's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::EmbeddingBag { .. } => "embedding_bag",
            Self::Linear { .. } => "linear",
            Self::DotInteraction { .. } => "dot_interaction",
            Self::Cross { .. } => "cross",
            Self::CrossLowRank { .. } => "cross_low_rank",
            Self::FactorizationMachine { .. } => "factorization_machine",
            Self::SumFeatures { .. } => "sum_features",
            Self::Concat => "concat",
            Self::Add => "add",
        }
    }

    /// The least and the greatest number of inputs.
    fn arity(&self) -> (usize, usize) {
        match self {
            Self::Dense | Self::EmbeddingBag { .. } => (0, 0),
            Self::Cross { .. } | Self::CrossLowRank { .. } => (2, 2),
            Self::Concat | Self::Add => (1, usize::MAX),
            _ => (1, 1),
        }
    }

    /// Its sizes, all of which must be above 0.
    fn sizes(&self) -> Vec<(&'static str, usize)> {
        match *self {
            Self::Linear {
                inputs, outputs, ..
            } => vec![("inputs", inputs), ("outputs", outputs)],
            Self::Cross { dim } => vec![("dim", dim)],
            Self::CrossLowRank { dim, rank } => vec![("dim", dim), ("rank", rank)],
            Self::DotInteraction { features, dim }
            | Self::FactorizationMachine { features, dim }
            | Self::SumFeatures { features, dim } => vec![("features", features), ("dim", dim)],
            Self::Dense | Self::EmbeddingBag { .. } | Self::Concat | Self::Add => Vec::new(),
        }
    }

    /// The width that every input must have, where the operation fixes it.
    fn input_width(&self) -> Option<usize> {
        match *self {
            Self::Linear { inputs, .. } => Some(inputs),
            Self::Cross { dim } | Self::CrossLowRank { dim, .. } => Some(dim),
            Self::DotInteraction { features, dim }
            | Self::FactorizationMachine { features, dim }
            | Self::SumFeatures { features, dim } => Some(features.saturating_mul(dim)),
            Self::Dense | Self::EmbeddingBag { .. } | Self::Concat | Self::Add => None,
        }
    }
}
