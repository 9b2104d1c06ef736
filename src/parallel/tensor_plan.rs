use std::{collections::BTreeMap, fmt};

use streamrec_artifact::{Graph, Op};

use crate::config::Partition;

/// How a tensor-parallel group shares each layer of a model.
///
/// ```text
/// mlp    0 column ─► 1 row ─► 2 column ─► 3 row ─► ...    one all-reduce forward, one backward a pair
/// cross  full: column-parallel, gathered; low rank: V column-parallel, W row-parallel
/// ```
///
/// A linear layer that only one other linear layer reads makes a pair with it; a layer that finds no
/// partner is small enough to be replicated (the last of an odd tower, a model's wide part).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlan {
    layers: Vec<(String, Partition)>,
}

impl TensorPlan {
    /// The plan of a graph; `overrides` name layers whose partition is given.
    pub fn new(graph: &Graph, overrides: &BTreeMap<String, Partition>) -> Self {
        let mut chosen = overrides.clone();
        for node in &graph.nodes {
            if chosen.contains_key(&node.name) {
                continue;
            }
            let partition = match node.op {
                Op::Linear { .. } => match partner(graph, &node.name) {
                    Some(next) if !chosen.contains_key(next) => {
                        chosen.insert(next.to_owned(), Partition::Row);
                        Partition::Column
                    }
                    _ => Partition::Replicated,
                },
                Op::Cross { .. } => Partition::Column,
                Op::CrossLowRank { .. } => Partition::Rank,
                _ => continue,
            };
            chosen.insert(node.name.clone(), partition);
        }
        // In the order of the model; names that it does not have come last, to be refused.
        let mut layers = Vec::with_capacity(chosen.len());
        for node in &graph.nodes {
            layers.extend(chosen.remove_entry(&node.name));
        }
        layers.extend(chosen);
        Self { layers }
    }

    /// Each layer with its partition.
    pub fn partitions(&self) -> BTreeMap<String, Partition> {
        self.layers.iter().cloned().collect()
    }
}

/// The linear layer that alone reads a node.
fn partner<'a>(graph: &'a Graph, node: &str) -> Option<&'a str> {
    let mut readers = graph
        .nodes
        .iter()
        .filter(|reader| reader.inputs.iter().any(|input| input == node));
    match (readers.next(), readers.next()) {
        (Some(reader), None) if matches!(reader.op, Op::Linear { .. }) => Some(&reader.name),
        _ => None,
    }
}

impl fmt::Display for TensorPlan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.layers.iter().map(|(name, _)| name.len()).max();
        let width = width.unwrap_or(0);
        for (index, (name, partition)) in self.layers.iter().enumerate() {
            let end = if index + 1 < self.layers.len() {
                "\n"
            } else {
                ""
            };
            write!(formatter, "{name:width$}  {partition}{end}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GraphBuilder, tests::fixture::schema};

    fn graph() -> Graph {
        let schema = schema(3, &[("a", 9)], 1);
        let mut graph = GraphBuilder::new(&schema);
        let (dense, embeddings) = (graph.dense(), graph.embeddings("embeddings", |_| 4));
        let bottom = graph.mlp("bottom", dense, &[8, 8, 4]);
        let x0 = graph.concat("x0", &[bottom, embeddings]);
        let full = graph.cross("full", x0, x0);
        let low = graph.cross_low_rank("low", x0, full, 2);
        let top = graph.mlp("top", low, &[8]);
        let logits = graph.logits("logits", top);
        graph.finish(logits).unwrap()
    }

    #[test]
    fn towers_are_cut_in_pairs_and_an_odd_layer_is_replicated() {
        let plan = TensorPlan::new(&graph(), &BTreeMap::new());
        let expected = "\
bottom.0  column-parallel
bottom.1  row-parallel
bottom.2  replicated
full      column-parallel
low       V column-parallel, W row-parallel
top.0     column-parallel
logits    row-parallel";
        assert_eq!(plan.to_string(), expected);
    }

    #[test]
    fn a_layer_that_a_user_names_is_as_the_user_says() {
        let overrides = BTreeMap::from([
            ("bottom.0".to_owned(), Partition::Replicated),
            ("logits".to_owned(), Partition::Replicated),
        ]);
        let partitions = TensorPlan::new(&graph(), &overrides).partitions();
        for (name, expected) in [
            ("bottom.0", Partition::Replicated),
            ("bottom.1", Partition::Column),
            ("bottom.2", Partition::Row),
            ("top.0", Partition::Replicated),
            ("logits", Partition::Replicated),
        ] {
            assert_eq!(partitions[name], expected, "{name}");
        }
    }
}
