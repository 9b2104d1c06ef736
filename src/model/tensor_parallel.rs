use std::{collections::BTreeMap, fmt, sync::Arc};

use streamrec_artifact::{Graph, Node, Op, Parameter};

use super::{Extent, ModelError};
use crate::{
    comm::{Communicator, SingleRank},
    config::Partition,
};

/// Which nodes a tensor-parallel group shares, and how.
///
/// ```text
/// x ─► column-parallel ─► [rows, outputs / tp] ─► row-parallel ─► partial sums ─► all-reduce ─► y
///        backward: all-reduce of dx                                        bias, activation: after
/// ```
#[derive(Clone)]
pub struct TensorParallel {
    comm: Arc<dyn Communicator>,
    partitions: BTreeMap<String, Partition>,
    /// Column-parallel nodes whose outputs stay apart, since only row-parallel nodes read them.
    apart: Vec<String>,
}

impl TensorParallel {
    /// A group of one: everything is replicated.
    pub fn none() -> Self {
        Self {
            comm: Arc::new(SingleRank),
            partitions: BTreeMap::new(),
            apart: Vec::new(),
        }
    }

    /// Shares the nodes of a graph that `partitions` names among the ranks of `comm`; the others are
    /// replicated.
    ///
    /// # Errors
    /// When there is no such node, its operation cannot be shared so, or its width does not divide.
    pub fn new(
        comm: Arc<dyn Communicator>,
        graph: &Graph,
        mut partitions: BTreeMap<String, Partition>,
    ) -> Result<Self, ModelError> {
        partitions.retain(|_, partition| *partition != Partition::Replicated);
        for (name, &partition) in &partitions {
            let node = graph.nodes.iter().find(|node| node.name == *name);
            let node = node.ok_or_else(|| unknown(name, graph))?;
            check(node, partition, comm.size())?;
        }
        let is_apart = |node: &&Node| {
            let mut readers = graph.nodes.iter().filter(|n| n.inputs.contains(&node.name));
            let is_row = |reader: &Node| partitions.get(&reader.name) == Some(&Partition::Row);
            partitions.get(&node.name) == Some(&Partition::Column)
                && matches!(node.op, Op::Linear { .. })
                && node.name != graph.output
                && readers.all(is_row)
        };
        let apart = graph.nodes.iter().filter(is_apart);
        Ok(Self {
            apart: apart.map(|node| node.name.clone()).collect(),
            comm,
            partitions,
        })
    }

    /// The ranks of the group.
    pub fn comm(&self) -> &Arc<dyn Communicator> {
        &self.comm
    }

    /// How a node is shared.
    pub fn partition(&self, node: &str) -> Partition {
        self.partitions.get(node).copied().unwrap_or_default()
    }

    /// Whether each rank keeps its own columns of a node's value.
    pub(super) fn is_apart(&self, node: &str) -> bool {
        self.apart.iter().any(|name| name == node)
    }

    /// The columns of a node's value on this rank, of `width`.
    pub(super) fn local_width(&self, node: &str, width: usize) -> usize {
        if self.is_apart(node) {
            width / self.comm.size()
        } else {
            width
        }
    }

    /// The parameters of a node with the part of each that this rank holds.
    pub(super) fn parameters(&self, node: &Node) -> Vec<(Parameter, Extent)> {
        let (rank, ranks) = (self.comm.rank(), self.comm.size());
        let partition = self.partition(&node.name);
        let extent = |(index, parameter): (usize, Parameter)| {
            let whole = Extent::whole(&parameter.shape);
            let extent = match (partition, index) {
                (Partition::Column, _) | (Partition::Rank, 0) => whole.row_part(rank, ranks),
                (Partition::Row, 0) | (Partition::Rank, 1) => whole.column_part(rank, ranks),
                _ => whole,
            };
            (parameter, extent)
        };
        node.parameters()
            .into_iter()
            .enumerate()
            .map(extent)
            .collect()
    }
}

impl fmt::Debug for TensorParallel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TensorParallel")
            .field("ranks", &self.comm.size())
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}

fn check(node: &Node, partition: Partition, ranks: usize) -> Result<(), ModelError> {
    let refuse = |problem: String| ModelError::Partition {
        node: node.name.clone(),
        problem,
    };
    let (what, width) = match (&node.op, partition) {
        (Op::Linear { outputs, .. }, Partition::Column) => ("outputs", *outputs),
        (Op::Linear { inputs, .. }, Partition::Row) => ("inputs", *inputs),
        (Op::Cross { dim }, Partition::Column) => ("outputs", *dim),
        (Op::CrossLowRank { rank, .. }, Partition::Rank) => ("columns between V and W", *rank),
        (op, partition) => {
            return Err(refuse(format!(
                "an operation `{}` cannot be {partition}; expected one of: linear `column` or \
                 `row`, cross `column`, cross_low_rank `rank`, any `replicated`",
                op.name()
            )));
        }
    };
    if width.is_multiple_of(ranks) {
        return Ok(());
    }
    Err(refuse(format!(
        "it has {width} {what}, which {ranks} ranks cannot share equally; make that a multiple of \
         {ranks}, or set `parallel.layers.\"{}\" = \"replicated\"`",
        node.name
    )))
}

fn unknown(name: &str, graph: &Graph) -> ModelError {
    let shared = |node: &&Node| {
        matches!(
            node.op,
            Op::Linear { .. } | Op::Cross { .. } | Op::CrossLowRank { .. }
        )
    };
    let names: Vec<&str> = graph
        .nodes
        .iter()
        .filter(shared)
        .map(|node| node.name.as_str())
        .collect();
    ModelError::Partition {
        node: name.into(),
        problem: format!("the model has no such layer; it has {}", names.join(", ")),
    }
}
