use std::collections::BTreeMap;

use streamrec_artifact::{Graph, Node, Op, Shapes};

use super::BatchSplit;
use crate::config::Partition;

const FLOAT: f64 = 4.0;

/// What the dense layers of a model ask of one rank in a step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DenseLoad {
    /// Parameters that it holds.
    pub parameters: f64,
    /// Float operations, forward and backward.
    pub flops: f64,
    /// Operations, forward and backward, the smallest included.
    pub operations: f64,
    /// Bytes of activations and their gradients.
    pub activation_bytes: f64,
    /// Bytes that its tensor-parallel group adds up inside layers.
    pub shared_bytes: f64,
    /// Collectives inside layers.
    pub shared_calls: f64,
}

impl DenseLoad {
    /// Of a graph, whose layers a tensor-parallel group shares as `partitions` says.
    pub fn new(
        graph: &Graph,
        shapes: &Shapes,
        partitions: &BTreeMap<String, Partition>,
        split: &BatchSplit,
    ) -> Self {
        let rows = (split.batch * split.tp).div_ceil(split.ranks) as f64;
        let mut load = Self::default();
        for (node, &width) in graph.nodes.iter().zip(&shapes.widths) {
            load.activation_bytes += 2.0 * rows * width as f64 * FLOAT;
            load.operations += 3.0;
            let partition = partitions.get(&node.name).copied().unwrap_or_default();
            let parts = match partition {
                Partition::Replicated => 1.0,
                _ => split.tp as f64,
            };
            let parameters: usize = node.parameters().iter().map(|own| own.len()).sum();
            load.parameters += parameters as f64 / parts;
            // A product forward and two backward, a multiplication and an addition each.
            load.flops += 6.0 * rows * products(node, parameters) / parts;
            if split.tp > 1 {
                let sums = shared_widths(&node.op, partition);
                load.shared_bytes += rows * sums.iter().sum::<usize>() as f64 * FLOAT;
                load.shared_calls += sums.len() as f64;
            }
        }
        load
    }

    /// Bytes of the gradients of all parameters.
    pub fn gradient_bytes(&self) -> f64 {
        self.parameters * FLOAT
    }
}

/// Multiplications a sample, forward.
fn products(node: &Node, parameters: usize) -> f64 {
    match node.op {
        Op::DotInteraction { features, dim } => (features * (features - 1) / 2 * dim) as f64,
        _ => parameters as f64,
    }
}

/// The widths of what a group adds up for a layer, forward and backward.
fn shared_widths(op: &Op, partition: Partition) -> Vec<usize> {
    match (op, partition) {
        (_, Partition::Replicated) => Vec::new(),
        (Op::Linear { inputs, .. }, Partition::Column) => vec![*inputs],
        (Op::Linear { outputs, .. }, _) => vec![*outputs],
        (Op::Cross { dim } | Op::CrossLowRank { dim, .. }, _) => vec![*dim, *dim],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GraphBuilder, tests::fixture::schema};
    use crate::parallel::TensorPlan;

    fn load(ranks: usize, tp: usize) -> DenseLoad {
        let schema = schema(3, &[("a", 9), ("b", 9)], 1);
        let mut graph = GraphBuilder::new(&schema);
        let (dense, embeddings) = (graph.dense(), graph.embeddings("embeddings", |_| 4));
        let bottom = graph.mlp("bottom", dense, &[8, 4]);
        let vectors = graph.concat("vectors", &[bottom, embeddings]);
        let pairs = graph.dot_interaction("pairs", vectors, 4);
        let logits = graph.logits("logits", pairs);
        let graph = graph.finish(logits).unwrap();
        let shapes = graph.validate(&schema).unwrap();
        let partitions = match tp {
            1 => BTreeMap::new(),
            _ => TensorPlan::new(&graph, &BTreeMap::new()).partitions(),
        };
        let split = BatchSplit {
            batch: 100,
            ranks,
            tp,
        };
        DenseLoad::new(&graph, &shapes, &partitions, &split)
    }

    #[test]
    fn floats_are_counted_layer_by_layer() {
        // 3-8-4 with biases, 3 pairs of 4, 4 + 3 inputs of the logit with a bias.
        let parameters = (3 * 8 + 8) + (8 * 4 + 4) + (7 + 1);
        let alone = load(1, 1);
        assert_eq!(alone.parameters, parameters as f64);
        assert_eq!(alone.flops, (6 * 100 * (parameters + 3 * 4)) as f64);
        assert_eq!(alone.shared_bytes, 0.0);
        assert_eq!(load(4, 1).flops, alone.flops / 4.0);
    }

    #[test]
    fn a_group_shares_a_pair_of_layers_for_two_sums() {
        let (alone, shared) = (load(1, 1), load(2, 2));
        // The pair's input backward, its output forward.
        assert_eq!(shared.shared_bytes, (100 * (3 + 4) * 4) as f64);
        assert_eq!(shared.shared_calls, 2.0);
        assert_eq!(alone.parameters - shared.parameters, (32 + 36) as f64 / 2.0);
    }
}
