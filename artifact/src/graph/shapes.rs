//! The shapes of a graph: inferred node by node, every fault named.

use std::collections::{HashMap, HashSet};

use super::{Graph, GraphError, GraphTable, LookupSpec, MAX_WIDTH, Node, Op};
use crate::feature_schema::FeatureSchema;
use crate::nearest_name::nearest;

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
