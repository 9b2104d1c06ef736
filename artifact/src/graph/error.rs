//! What is wrong with a graph.

use super::MAX_WIDTH;
use crate::nearest_name::suggestion;

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
