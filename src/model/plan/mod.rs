//! Where every value and gradient of a graph lies, decided once.
//!
//! ```text
//! bottom ─┐                     value buffers   [ bottom | embeddings ]   one, 'features' a view
//!         ├─ features ─ inter.                  [ interaction ]
//! embed. ─┘                     gradients       the same places, in buffers that are reused
//! ```
//!
//! 1. [`Places`]: each node's value gets a range of columns of a buffer. What a concatenation reads
//!    is written straight into its columns wherever that is possible.
//! 2. [`GradientPlan`]: walks the graph backward once and notes for every write of a gradient
//!    whether it overwrites or adds, so that fan-out costs nothing but the additions.
//!
//! The plan never allocates buffers, and never looks at data.

mod gradient;
mod mask;
mod place;

use streamrec_artifact::{Graph, Op, Shapes};

use super::TensorParallel;

pub(super) use gradient::{GradientPlan, GradientWrite};
pub(super) use mask::Masks;
pub(super) use place::{Place, Places};

/// What the planner needs to know of a node.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PlannedNode {
    /// Columns of its value on this rank.
    pub(super) width: usize,
    /// The nodes it reads.
    pub(super) inputs: Vec<usize>,
    /// How it takes part.
    pub(super) role: Role,
}

/// How a node takes part in the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The batch's dense features: the value lies in the batch.
    Dense,
    /// Embedding vectors: their gradient is read after the backward pass, by the tables.
    Embeddings,
    /// A concatenation.
    Concat,
    /// A linear layer, which need not compute the gradient of its input.
    Linear,
    /// A cross layer, which computes the gradients of two inputs at once.
    Cross,
    /// Anything else that computes.
    Other,
}

/// The nodes of a graph, as the planner sees them.
pub(super) fn nodes(graph: &Graph, shapes: &Shapes, shared: &TensorParallel) -> Vec<PlannedNode> {
    let role = |op: &Op| match op {
        Op::Dense => Role::Dense,
        Op::EmbeddingBag { .. } => Role::Embeddings,
        Op::Concat => Role::Concat,
        Op::Linear { .. } => Role::Linear,
        Op::Cross { .. } | Op::CrossLowRank { .. } => Role::Cross,
        _ => Role::Other,
    };
    let node = |(index, node): (usize, &streamrec_artifact::Node)| PlannedNode {
        width: shared.local_width(&node.name, shapes.widths[index]),
        inputs: shapes.inputs[index].clone(),
        role: role(&node.op),
    };
    graph.nodes.iter().enumerate().map(node).collect()
}

/// The nodes whose values depend on no embedding, and the others, each in their order.
pub(super) fn by_embeddings(nodes: &[PlannedNode]) -> [Vec<usize>; 2] {
    let mut depends = Vec::with_capacity(nodes.len());
    for node in nodes {
        let of_inputs = node.inputs.iter().any(|&input| depends[input]);
        depends.push(node.role == Role::Embeddings || of_inputs);
    }
    let (others, free) = (0..nodes.len()).partition(|&node| depends[node]);
    [free, others]
}

/// The first node that reads the value of an embedding node; the number of nodes where none does.
pub(super) fn first_reader_of_embeddings(nodes: &[PlannedNode]) -> usize {
    let reads = |node: &PlannedNode| {
        let mut inputs = node.inputs.iter();
        inputs.any(|&input| nodes[input].role == Role::Embeddings)
    };
    nodes.iter().position(reads).unwrap_or(nodes.len())
}

#[cfg(test)]
mod tests;
