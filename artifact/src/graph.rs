//! The model as a static graph: what the trainer trains and what serving interprets.
//!
//! A node's value is a matrix `[batch, width]`. Nodes stand in topological order, and each names the nodes
//! it reads. Weights belong to nodes ([`Node::parameters`]) and tables to the graph ([`GraphTable`]).

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::feature_schema::{FeatureSchema, Pooling};
use crate::nearest_name::{nearest, suggestion};
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

/// The sizes of a valid graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shapes {
    /// The width of each node, in the order of the nodes.
    pub widths: Vec<usize>,
    /// Where each node's inputs stand among the nodes, in the order of the nodes.
    pub inputs: Vec<Vec<usize>>,
    /// The rows of each table, in the order of the graph's tables.
    pub table_rows: Vec<usize>,
    /// Where the output stands among the nodes.
    pub output: usize,
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

impl Graph {
    /// Checks the graph against a schema and infers its shapes.
    ///
    /// # Errors
    /// The first fault, by the name of its node or table.
    pub fn validate(&self, schema: &FeatureSchema) -> Result<Shapes, GraphError> {
        let table_rows = self.check_tables(schema)?;
        let (mut widths, mut inputs) = (Vec::new(), Vec::new());
        let mut earlier = HashMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let reads = resolve_inputs(node, &earlier)?;
            let input_widths: Vec<usize> = reads.iter().map(|&input| widths[input]).collect();
            widths.push(self.width(node, &input_widths, schema)?);
            inputs.push(reads);
            if node.name.is_empty() || earlier.insert(node.name.as_str(), index).is_some() {
                return Err(GraphError::NodeName {
                    node: node.name.clone(),
                });
            }
        }
        let output = *earlier
            .get(self.output.as_str())
            .ok_or_else(|| GraphError::UnknownNode {
                reader: "output".to_owned(),
                nearest: nearest(&self.output, earlier.keys().copied()).map(str::to_owned),
                input: self.output.clone(),
            })?;
        if widths[output] != schema.labels.len() {
            let (width, labels) = (widths[output], schema.labels.len());
            return Err(GraphError::Output {
                node: self.output.clone(),
                width,
                labels,
            });
        }
        self.check_all_used(&inputs, output)?;
        self.check_parameter_names()?;
        Ok(Shapes {
            widths,
            inputs,
            table_rows,
            output,
        })
    }

    /// The table `name`.
    pub fn table(&self, name: &str) -> Option<&GraphTable> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// The dense parameters: those of each node, in the order of the nodes.
    pub fn parameters(&self) -> Vec<Parameter> {
        self.nodes.iter().flat_map(Node::parameters).collect()
    }

    fn check_tables(&self, schema: &FeatureSchema) -> Result<Vec<usize>, GraphError> {
        let mut names = HashSet::new();
        let mut rows = Vec::with_capacity(self.tables.len());
        for table in &self.tables {
            let name = || table.name.clone();
            if table.name.is_empty() || !names.insert(&table.name) {
                return Err(GraphError::TableName { table: name() });
            }
            if table.dim == 0 || table.dim > MAX_WIDTH {
                return Err(GraphError::TableDim {
                    table: name(),
                    dim: table.dim,
                });
            }
            let Some(of) = schema.table(&table.rows_of) else {
                return Err(GraphError::RowsOf {
                    table: name(),
                    rows_of: table.rows_of.clone(),
                });
            };
            rows.push(of.rows);
        }
        Ok(rows)
    }

    fn width(
        &self,
        node: &Node,
        inputs: &[usize],
        schema: &FeatureSchema,
    ) -> Result<usize, GraphError> {
        for (size, value) in node.op.sizes() {
            if value == 0 || value > MAX_WIDTH {
                return Err(GraphError::Size {
                    node: node.name.clone(),
                    op: node.op.name(),
                    size,
                    value,
                });
            }
        }
        if let Some(expected) = node.op.input_width() {
            for (input, &got) in node.inputs.iter().zip(inputs) {
                if got != expected {
                    let (op, input) = (node.op.name(), input.clone());
                    return Err(GraphError::InputWidth {
                        node: node.name.clone(),
                        op,
                        input,
                        expected,
                        got,
                    });
                }
            }
        }
        let width = match &node.op {
            Op::Dense => schema.dense.len(),
            Op::EmbeddingBag { lookups } => self.bag_width(node, lookups, schema)?,
            Op::Linear { outputs, .. } => *outputs,
            // In bounds: features and dim are at most MAX_WIDTH = 2^20 each.
            Op::DotInteraction { features, dim } => dim + features * (features - 1) / 2,
            Op::Cross { dim } | Op::CrossLowRank { dim, .. } | Op::SumFeatures { dim, .. } => *dim,
            Op::FactorizationMachine { .. } => 1,
            Op::Concat => inputs.iter().sum(),
            Op::Add => add_width(node, inputs)?,
        };
        match width {
            1..=MAX_WIDTH => Ok(width),
            _ => Err(GraphError::Width {
                node: node.name.clone(),
                op: node.op.name(),
                width,
            }),
        }
    }

    fn bag_width(
        &self,
        node: &Node,
        lookups: &[LookupSpec],
        schema: &FeatureSchema,
    ) -> Result<usize, GraphError> {
        let mut width = 0;
        for lookup in lookups {
            let (node, feature, table) = (&node.name, &lookup.feature, &lookup.table);
            let Some(of) = schema.categorical.iter().find(|of| of.name == *feature) else {
                let known = schema.categorical.iter().map(|of| of.name.as_str());
                return Err(GraphError::UnknownFeature {
                    node: node.clone(),
                    feature: feature.clone(),
                    nearest: nearest(feature, known).map(str::to_owned),
                });
            };
            let Some(found) = self.table(table) else {
                return Err(GraphError::UnknownTable {
                    node: node.clone(),
                    table: table.clone(),
                });
            };
            if found.rows_of != of.table {
                return Err(GraphError::OtherRows {
                    node: node.clone(),
                    feature: feature.clone(),
                    expected: of.table.clone(),
                    table: table.clone(),
                    got: found.rows_of.clone(),
                });
            }
            width += found.dim;
        }
        Ok(width)
    }

    /// A node or table that nothing reads would never get a gradient.
    fn check_all_used(&self, inputs: &[Vec<usize>], output: usize) -> Result<(), GraphError> {
        let mut used = vec![false; self.nodes.len()];
        used[output] = true;
        let mut tables = HashSet::new();
        for index in (0..self.nodes.len()).rev() {
            if !used[index] {
                return Err(GraphError::UnusedNode {
                    node: self.nodes[index].name.clone(),
                });
            }
            inputs[index].iter().for_each(|&input| used[input] = true);
            if let Op::EmbeddingBag { lookups } = &self.nodes[index].op {
                tables.extend(lookups.iter().map(|lookup| lookup.table.as_str()));
            }
        }
        match self
            .tables
            .iter()
            .find(|table| !tables.contains(table.name.as_str()))
        {
            Some(table) => Err(GraphError::UnusedTable {
                table: table.name.clone(),
            }),
            None => Ok(()),
        }
    }

    fn check_parameter_names(&self) -> Result<(), GraphError> {
        let tables = self.tables.iter().map(GraphTable::parameter_name);
        let mut seen = HashSet::new();
        for name in self
            .parameters()
            .into_iter()
            .map(|parameter| parameter.name)
            .chain(tables)
        {
            if !seen.insert(name.clone()) {
                return Err(GraphError::ParameterName { parameter: name });
            }
        }
        Ok(())
    }
}

fn resolve_inputs(node: &Node, earlier: &HashMap<&str, usize>) -> Result<Vec<usize>, GraphError> {
    let (least, most) = node.op.arity();
    if !(least..=most).contains(&node.inputs.len()) {
        let (op, got) = (node.op.name(), node.inputs.len());
        return Err(GraphError::Arity {
            node: node.name.clone(),
            op,
            least,
            most,
            got,
        });
    }
    let position = |input: &String| {
        earlier
            .get(input.as_str())
            .copied()
            .ok_or_else(|| GraphError::UnknownNode {
                reader: node.name.clone(),
                input: input.clone(),
                nearest: nearest(input, earlier.keys().copied()).map(str::to_owned),
            })
    };
    node.inputs.iter().map(position).collect()
}

fn add_width(node: &Node, inputs: &[usize]) -> Result<usize, GraphError> {
    let width = inputs.iter().copied().max().unwrap_or(0);
    match inputs
        .iter()
        .zip(&node.inputs)
        .find(|&(&got, _)| got != width && got != 1)
    {
        Some((&got, input)) => Err(GraphError::InputWidth {
            node: node.name.clone(),
            op: node.op.name(),
            input: input.clone(),
            expected: width,
            got,
        }),
        None => Ok(width),
    }
}

/// A graph that cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The messages tell.
pub enum GraphError {
    #[error("node `{node}`: names of nodes must be there and differ")]
    NodeName { node: String },
    #[error(
        "`{reader}` reads node `{input}`, and no earlier node has that name{}",
        suggestion(nearest)
    )]
    UnknownNode {
        reader: String,
        input: String,
        nearest: Option<String>,
    },
    #[error("node `{node}` ({op}) has {got} inputs, expected {least}{}", if most == least { String::new() } else { " or more".to_owned() })]
    Arity {
        node: String,
        op: &'static str,
        least: usize,
        most: usize,
        got: usize,
    },
    #[error("node `{node}` ({op}): {size} is {value}, expected 1 to {MAX_WIDTH}")]
    Size {
        node: String,
        op: &'static str,
        size: &'static str,
        value: usize,
    },
    #[error("node `{node}` ({op}): input `{input}` is {got} wide, expected {expected}")]
    InputWidth {
        node: String,
        op: &'static str,
        input: String,
        expected: usize,
        got: usize,
    },
    #[error("node `{node}` ({op}) is {width} wide, expected 1 to {MAX_WIDTH}")]
    Width {
        node: String,
        op: &'static str,
        width: usize,
    },
    #[error(
        "node `{node}` looks up feature `{feature}`, which is no categorical feature of the schema{}",
        suggestion(nearest)
    )]
    UnknownFeature {
        node: String,
        feature: String,
        nearest: Option<String>,
    },
    #[error("node `{node}` looks up table `{table}`, which the graph does not have")]
    UnknownTable { node: String, table: String },
    #[error(
        "node `{node}`: feature `{feature}` has the rows of `{expected}`, table `{table}` those of `{got}`"
    )]
    OtherRows {
        node: String,
        feature: String,
        expected: String,
        table: String,
        got: String,
    },
    #[error("table `{table}`: names of tables must be there and differ")]
    TableName { table: String },
    #[error("table `{table}`: dim is {dim}, expected 1 to {MAX_WIDTH}")]
    TableDim { table: String, dim: usize },
    #[error("table `{table}` has the rows of `{rows_of}`, which is no table of the schema")]
    RowsOf { table: String, rows_of: String },
    #[error("the output `{node}` is {width} wide, the schema has {labels} labels")]
    Output {
        node: String,
        width: usize,
        labels: usize,
    },
    #[error("node `{node}` does not lead to the output; remove it or read it")]
    UnusedNode { node: String },
    #[error("no node looks up table `{table}`; remove it")]
    UnusedTable { table: String },
    #[error("two parameters are named `{parameter}`; rename a node")]
    ParameterName { parameter: String },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature_schema::{
        CategoricalFeature, DenseFeature, DenseSource, Encoding, TableSchema,
    };

    fn schema() -> FeatureSchema {
        let categorical = ["user", "video"].map(|name| CategoricalFeature {
            name: name.into(),
            input: name.into(),
            encoding: Encoding::Hash { rows: 10 },
            table: name.into(),
            pooling: Pooling::Sum,
            max_length: None,
        });
        let dense = ["age", "length"].map(|name| DenseFeature {
            name: name.into(),
            source: DenseSource::Column(name.into()),
            steps: Vec::new(),
            fill: 0.0,
        });
        let table = |name: &str| TableSchema {
            name: name.into(),
            rows: 10,
            dim: None,
        };
        FeatureSchema {
            inputs: Vec::new(),
            dense: dense.to_vec(),
            categorical: categorical.to_vec(),
            tables: vec![table("user"), table("video")],
            labels: vec!["click".into(), "like".into()],
        }
    }

    fn node(name: &str, inputs: &[&str], op: Op) -> Node {
        Node {
            name: name.into(),
            inputs: inputs.iter().map(|&input| input.into()).collect(),
            op,
        }
    }

    fn linear(inputs: usize, outputs: usize, activation: Activation) -> Op {
        Op::Linear {
            inputs,
            outputs,
            bias: true,
            activation,
        }
    }

    /// A small DLRM with a wide part: every kind of node that has no parameters of its own is covered below.
    fn graph() -> Graph {
        let lookups = |suffix: &str| {
            let lookup = |feature: &str| LookupSpec {
                feature: feature.into(),
                table: format!("{feature}{suffix}"),
                pooling: Pooling::Sum,
            };
            Op::EmbeddingBag {
                lookups: vec![lookup("user"), lookup("video")],
            }
        };
        let table = |name: &str, rows_of: &str, dim| GraphTable {
            name: name.into(),
            rows_of: rows_of.into(),
            dim,
        };
        Graph {
            tables: vec![
                table("user", "user", 4),
                table("video", "video", 4),
                table("user.wide", "user", 1),
                table("video.wide", "video", 1),
            ],
            nodes: vec![
                node("dense", &[], Op::Dense),
                node("bottom", &["dense"], linear(2, 4, Activation::Relu)),
                node("bags", &[], lookups("")),
                node("wide_bags", &[], lookups(".wide")),
                node(
                    "wide",
                    &["wide_bags"],
                    Op::SumFeatures {
                        features: 2,
                        dim: 1,
                    },
                ),
                node("stack", &["bottom", "bags"], Op::Concat),
                node(
                    "dots",
                    &["stack"],
                    Op::DotInteraction {
                        features: 3,
                        dim: 4,
                    },
                ),
                node(
                    "cross",
                    &["dots", "dots"],
                    Op::CrossLowRank { dim: 7, rank: 2 },
                ),
                node(
                    "fm",
                    &["bags"],
                    Op::FactorizationMachine {
                        features: 2,
                        dim: 4,
                    },
                ),
                node("top", &["cross"], linear(7, 2, Activation::None)),
                node("logits", &["top", "wide", "fm"], Op::Add),
            ],
            output: "logits".into(),
        }
    }

    #[test]
    fn shapes_follow_from_the_schema() {
        let shapes = graph().validate(&schema()).unwrap();
        assert_eq!(shapes.widths, [2, 4, 8, 2, 1, 12, 7, 7, 1, 2, 2]);
        assert_eq!(shapes.inputs[10], [9, 4, 8]);
        assert_eq!(shapes.table_rows, [10; 4]);
        assert_eq!(shapes.output, 10);
    }

    #[test]
    fn parameters_are_named_by_their_nodes() {
        let named: Vec<_> = graph()
            .parameters()
            .into_iter()
            .map(|p| (p.name, p.shape))
            .collect();
        let expected = [
            ("bottom.weight", vec![4, 2]),
            ("bottom.bias", vec![4]),
            ("cross.v", vec![2, 7]),
            ("cross.w", vec![7, 2]),
            ("cross.bias", vec![7]),
            ("top.weight", vec![2, 7]),
            ("top.bias", vec![2]),
        ];
        assert_eq!(
            named,
            expected.map(|(name, shape)| (name.to_owned(), shape))
        );
        let table = graph().tables[2].parameter(10);
        assert_eq!(
            (table.name.as_str(), table.shape),
            ("embedding.user.wide", vec![10, 1])
        );
    }

    #[test]
    fn a_graph_survives_json_and_unknown_fields_do_not() {
        let json = serde_json::to_string(&graph()).unwrap();
        assert_eq!(serde_json::from_str::<Graph>(&json).unwrap(), graph());
        let odd = json.replacen("\"rank\":2", "\"rank\":2,\"dropout\":1", 1);
        assert!(
            serde_json::from_str::<Graph>(&odd)
                .unwrap_err()
                .to_string()
                .contains("dropout")
        );
        let odd = json.replacen("\"op\":\"dense\"", "\"op\":\"densely\"", 1);
        assert!(serde_json::from_str::<Graph>(&odd).is_err());
    }

    /// What validation says after `change`.
    fn fault(change: impl FnOnce(&mut Graph)) -> String {
        let mut graph = graph();
        change(&mut graph);
        graph.validate(&schema()).unwrap_err().to_string()
    }

    #[test]
    fn every_fault_is_named() {
        let op = |index: usize, op: Op| move |graph: &mut Graph| graph.nodes[index].op = op;
        let cases = [
            (
                fault(op(1, linear(3, 4, Activation::Relu))),
                "input `dense` is 2 wide, expected 3",
            ),
            (fault(op(1, linear(2, 0, Activation::Relu))), "outputs is 0"),
            (
                fault(op(1, linear(2, usize::MAX, Activation::Relu))),
                "outputs is 18446744073709551615",
            ),
            (
                fault(op(
                    6,
                    Op::DotInteraction {
                        features: usize::MAX,
                        dim: 2,
                    },
                )),
                "features is",
            ),
            (
                fault(op(8, Op::Cross { dim: 8 })),
                "has 1 inputs, expected 2",
            ),
            (
                fault(|graph| graph.nodes[6].inputs[0] = "stak".into()),
                "did you mean `stack`?",
            ),
            (fault(|graph| graph.nodes.swap(1, 5)), "no earlier node"),
            (
                fault(|graph| graph.nodes[3].name = "bags".into()),
                "must be there and differ",
            ),
            (
                fault(|graph| graph.output = "wide".into()),
                "is 1 wide, the schema has 2 labels",
            ),
            (
                fault(|graph| graph.output = "top".into()),
                "node `logits` does not lead to the output",
            ),
            (fault(|graph| graph.tables[0].dim = 0), "dim is 0"),
            (
                fault(|graph| graph.tables[0].rows_of = "item".into()),
                "`item`, which is no table",
            ),
            (
                fault(|graph| graph.tables[0].rows_of = "video".into()),
                "feature `user` has the rows of `user`",
            ),
            (
                fault(|graph| graph.tables.push(graph.tables[0].clone())),
                "must be there and differ",
            ),
            (
                fault(|graph| graph.nodes[9].name = "embedding".into()),
                "no earlier node",
            ),
        ];
        for (got, expected) in cases {
            assert!(
                got.contains(expected),
                "{got:?} should contain {expected:?}"
            );
        }
    }

    #[test]
    fn parameters_of_one_name_are_refused() {
        let got = fault(|graph| {
            graph.nodes[9].name = "embedding".into();
            graph.nodes[10].inputs[0] = "embedding".into();
            let renamed = "weight".to_owned();
            graph.tables[0].name = renamed.clone();
            let Op::EmbeddingBag { lookups } = &mut graph.nodes[2].op else {
                panic!("bags")
            };
            lookups[0].table = renamed;
        });
        assert!(
            got.contains("two parameters are named `embedding.weight`"),
            "{got}"
        );
    }
}
