//! What is wrong with a request: the caller's fault, told by field and row.

use streamrec_artifact::{RawValueError, UnknownInput};

use super::datatype::DATATYPES;

/// A request that is refused before anything is scored.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It is not JSON of the protocol.
    #[error("the body is no inference request in JSON")]
    Json(#[from] serde_json::Error),
    /// It is no text.
    #[error("the body is no UTF-8 text, as JSON must be")]
    Utf8(#[from] std::str::Utf8Error),
    /// No tensors.
    #[error("`inputs`: expected a tensor for each feature, got none")]
    Empty,
    /// Too many rows.
    #[error("`inputs`: expected at most {limit} rows, got {got}; split the request")]
    TooManyRows {
        /// The most allowed.
        limit: usize,
        /// What came.
        got: usize,
    },
    /// Tensors of different lengths.
    #[error("input `{name}`: expected {expected} rows, as input `{first}` has, got {got}")]
    Rows {
        /// The feature.
        name: String,
        /// The first tensor.
        first: String,
        /// Its rows.
        expected: usize,
        /// This one's rows.
        got: usize,
    },
    /// A shape that the feature or the data does not have.
    #[error("input `{name}`: {problem}")]
    Shape {
        /// The feature.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A datatype that the protocol does not have.
    #[error("input `{name}`: unknown datatype `{datatype}`; expected {DATATYPES}")]
    Datatype {
        /// The feature.
        name: String,
        /// What came.
        datatype: String,
    },
    /// A tensor that is no feature of the model.
    #[error("input")]
    Input(#[from] UnknownInput),
    /// Two tensors of one feature.
    #[error("input `{name}` comes twice; send one tensor a feature")]
    Twice {
        /// The feature.
        name: String,
    },
    /// An element that is not of its datatype.
    #[error("row {row}: `{name}`: expected {expected}, got {got}")]
    Element {
        /// The feature.
        name: String,
        /// The row.
        row: usize,
        /// The tensor's datatype.
        expected: String,
        /// What came.
        got: String,
    },
    /// A value that the feature schema refuses.
    #[error("row {row}")]
    Value {
        /// The row.
        row: usize,
        /// What is wrong with it.
        source: RawValueError,
    },
    /// An output that the model does not have.
    #[error("output `{name}`: the model has {known}")]
    UnknownOutput {
        /// What came.
        name: String,
        /// The labels.
        known: String,
    },
    /// An output that is asked for again.
    #[error("output `{name}` is asked for twice; ask for each once")]
    OutputTwice {
        /// The label.
        name: String,
    },
}
