//! Builds graphs by naming what flows where.

use streamrec_artifact::{
    Activation, FeatureSchema, Graph, GraphTable, LookupSpec, Node, Op, TableSchema,
};

use super::ModelError;

/// A node of a graph under construction: a matrix `[batch, width]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    node: usize,
    width: usize,
}

impl Value {
    /// The columns of the matrix.
    pub fn width(self) -> usize {
        self.width
    }
}

/// Builds a [`Graph`] over the features of a schema, node by node.
///
/// Names become names of weights (`<name>.weight`, `embedding.<table>`), so they stay the same as
/// long as old checkpoints are to be read. Shapes are checked once, by [`finish`](Self::finish).
///
/// ```
/// use streamrec::model::GraphBuilder;
/// # use streamrec_artifact::{DenseFeature, DenseSource, FeatureSchema};
/// # let dense = |name: &str| DenseFeature {
/// #     name: name.into(),
/// #     source: DenseSource::Column(name.into()),
/// #     steps: vec![],
/// #     fill: 0.0,
/// # };
/// # let schema = FeatureSchema {
/// #     dense: vec![dense("age"), dense("price")],
/// #     labels: vec!["click".into()],
/// #     ..FeatureSchema::default()
/// # };
/// let mut graph = GraphBuilder::new(&schema);
/// let dense = graph.dense();
/// let hidden = graph.mlp("deep", dense, &[16, 8]);
/// let logits = graph.logits("head", hidden);
/// let graph = graph.finish(logits)?;
/// assert_eq!(graph.parameters()[0].name, "deep.0.weight");
/// # Ok::<(), streamrec::model::ModelError>(())
/// ```
#[derive(Debug)]
pub struct GraphBuilder<'a> {
    schema: &'a FeatureSchema,
    tables: Vec<GraphTable>,
    nodes: Vec<Node>,
}

impl<'a> GraphBuilder<'a> {
    /// An empty graph over the features of `schema`.
    pub fn new(schema: &'a FeatureSchema) -> Self {
        Self {
            schema,
            tables: Vec::new(),
            nodes: Vec::new(),
        }
    }

    /// The features.
    pub fn schema(&self) -> &'a FeatureSchema {
        self.schema
    }

    /// The dense features, `[batch, dense]`.
    pub fn dense(&mut self) -> Value {
        let existing = self.nodes.iter().position(|node| node.op == Op::Dense);
        let width = self.schema.dense.len();
        existing.map_or_else(
            || self.node("dense", &[], Op::Dense, width),
            |node| Value { node, width },
        )
    }

    /// The pooled vectors of all categorical features side by side. Each table of the schema gets
    /// a table of the same name, of the width that `dim` gives.
    pub fn embeddings(&mut self, name: &str, dim: impl Fn(&TableSchema) -> usize) -> Value {
        self.embeddings_of(name, "", dim)
    }

    /// As [`embeddings`](Self::embeddings), in tables of their own over the same rows, named
    /// `<table>.<suffix>`.
    pub fn more_embeddings(
        &mut self,
        name: &str,
        suffix: &str,
        dim: impl Fn(&TableSchema) -> usize,
    ) -> Value {
        self.embeddings_of(name, &format!(".{suffix}"), dim)
    }

    fn embeddings_of(
        &mut self,
        name: &str,
        suffix: &str,
        dim: impl Fn(&TableSchema) -> usize,
    ) -> Value {
        let schema = self.schema;
        for table in &schema.tables {
            self.table(&format!("{}{suffix}", table.name), &table.name, dim(table));
        }
        let lookups = schema.categorical.iter().map(|feature| {
            let table = format!("{}{suffix}", feature.table);
            LookupSpec {
                feature: feature.name.clone(),
                table,
                pooling: feature.pooling,
            }
        });
        self.embedding_bag(name, lookups.collect())
    }

    /// Adds a table of vectors `dim` wide, over the rows of the schema's table `rows_of`.
    pub fn table(&mut self, name: &str, rows_of: &str, dim: usize) {
        self.tables.push(GraphTable {
            name: name.into(),
            rows_of: rows_of.into(),
            dim,
        });
    }

    /// The pooled vectors of these lookups side by side.
    pub fn embedding_bag(&mut self, name: &str, lookups: Vec<LookupSpec>) -> Value {
        let dim = |lookup: &LookupSpec| {
            self.tables
                .iter()
                .find(|table| table.name == lookup.table)
                .map_or(0, |table| table.dim)
        };
        let width = lookups.iter().map(dim).sum();
        self.node(name, &[], Op::EmbeddingBag { lookups }, width)
    }

    /// `activation(x W^T + b)`, `[batch, outputs]`.
    pub fn linear(
        &mut self,
        name: &str,
        x: Value,
        outputs: usize,
        bias: bool,
        activation: Activation,
    ) -> Value {
        let op = Op::Linear {
            inputs: x.width,
            outputs,
            bias,
            activation,
        };
        self.node(name, &[x], op, outputs)
    }

    /// Linear layers of these widths, `<name>.0`, `<name>.1`, ..., each with bias and ReLU.
    pub fn mlp(&mut self, name: &str, x: Value, widths: &[usize]) -> Value {
        widths.iter().enumerate().fold(x, |x, (index, &width)| {
            self.linear(&format!("{name}.{index}"), x, width, true, Activation::Relu)
        })
    }

    /// A linear layer to one logit a label, `[batch, labels]`.
    pub fn logits(&mut self, name: &str, x: Value) -> Value {
        self.linear(name, x, self.schema.labels.len(), true, Activation::None)
    }

    /// The first of `x`'s vectors of width `dim`, then the dot products of all pairs of them.
    pub fn dot_interaction(&mut self, name: &str, x: Value, dim: usize) -> Value {
        let features = x.width / dim.max(1);
        let width = dim + features * features.saturating_sub(1) / 2;
        self.node(name, &[x], Op::DotInteraction { features, dim }, width)
    }

    /// `x0 * (x W^T + b) + x`.
    pub fn cross(&mut self, name: &str, x0: Value, x: Value) -> Value {
        self.node(name, &[x0, x], Op::Cross { dim: x.width }, x.width)
    }

    /// `x0 * ((x V^T) W^T + b) + x`, with `rank` columns between V and W.
    pub fn cross_low_rank(&mut self, name: &str, x0: Value, x: Value, rank: usize) -> Value {
        self.node(
            name,
            &[x0, x],
            Op::CrossLowRank { dim: x.width, rank },
            x.width,
        )
    }

    /// The sum of the dot products of all pairs of `x`'s vectors of width `dim`, `[batch, 1]`.
    pub fn factorization_machine(&mut self, name: &str, x: Value, dim: usize) -> Value {
        let features = x.width / dim.max(1);
        self.node(name, &[x], Op::FactorizationMachine { features, dim }, 1)
    }

    /// The sum of `x`'s vectors of width `dim`, `[batch, dim]`.
    pub fn sum_features(&mut self, name: &str, x: Value, dim: usize) -> Value {
        let features = x.width / dim.max(1);
        self.node(name, &[x], Op::SumFeatures { features, dim }, dim)
    }

    /// The values side by side. A single value is returned as it is.
    pub fn concat(&mut self, name: &str, values: &[Value]) -> Value {
        if let [single] = values {
            return *single;
        }
        let width = values.iter().map(|value| value.width).sum();
        self.node(name, values, Op::Concat, width)
    }

    /// The sum of the values, all of one width; one of width 1 is added to each column. A single
    /// value is returned as it is.
    pub fn add(&mut self, name: &str, values: &[Value]) -> Value {
        if let [single] = values {
            return *single;
        }
        let width = values.iter().map(|value| value.width).max().unwrap_or(0);
        self.node(name, values, Op::Add, width)
    }

    /// The graph with these logits, checked against the schema.
    ///
    /// # Errors
    /// When a shape does not fit, a name occurs twice, or a node does not lead to the logits.
    pub fn finish(self, logits: Value) -> Result<Graph, ModelError> {
        let Self {
            schema,
            tables,
            nodes,
        } = self;
        let output = nodes
            .get(logits.node)
            .map_or_else(String::new, |node| node.name.clone());
        let graph = Graph {
            tables,
            nodes,
            output,
        };
        graph.validate(schema)?;
        Ok(graph)
    }

    fn node(&mut self, name: &str, inputs: &[Value], op: Op, width: usize) -> Value {
        let inputs = inputs
            .iter()
            .map(|input| self.nodes[input.node].name.clone())
            .collect();
        self.nodes.push(Node {
            name: name.into(),
            inputs,
            op,
        });
        Value {
            node: self.nodes.len() - 1,
            width,
        }
    }
}
