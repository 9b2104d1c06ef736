//! Requests.

use serde::Deserialize;
use serde_json::Value;
use streamrec_artifact::{InputColumn, RawBatch, RawBatchBuilder, RawValue};

use super::RequestError;
use super::tensor_rows::TensorRows;

/// `POST /v2/models/{name}/infer`
#[derive(Debug, Deserialize)]
pub struct InferRequest {
    /// Comes back with the answer.
    #[serde(default)]
    pub id: Option<String>,
    /// The raw features.
    pub inputs: Vec<InputTensor>,
    /// The labels to answer; all where unset.
    #[serde(default)]
    pub outputs: Option<Vec<RequestedOutput>>,
}

/// One feature of every row.
#[derive(Debug, Deserialize)]
pub struct InputTensor {
    /// The feature.
    pub name: String,
    /// `[rows]`, or `[rows, length]` for lists, where -1 stands for lists of different lengths.
    pub shape: Vec<i64>,
    /// Such as `INT64`, `FP32`, `BYTES`.
    pub datatype: String,
    /// Flat, or nested a row.
    pub data: Vec<Value>,
}

/// A label that the caller wants.
#[derive(Debug, Deserialize)]
pub struct RequestedOutput {
    /// The label.
    pub name: String,
}

impl InferRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// When it is not JSON of the protocol.
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        Ok(serde_json::from_slice(body)?)
    }

    /// Where the requested outputs stand among `labels`; all of them where none is requested.
    ///
    /// # Errors
    /// When a requested output is no label.
    pub fn columns(&self, labels: &[String]) -> Result<Vec<usize>, RequestError> {
        let Some(requested) = &self.outputs else {
            return Ok((0..labels.len()).collect());
        };
        let position = |output: &RequestedOutput| {
            let found = labels.iter().position(|label| *label == output.name);
            found.ok_or_else(|| RequestError::UnknownOutput {
                name: output.name.clone(),
                known: labels.join(", "),
            })
        };
        requested.iter().map(position).collect()
    }

    /// The raw rows of the request, for a model of these `inputs`.
    ///
    /// # Errors
    /// The first thing that does not fit, by field and row.
    pub fn rows(&self, inputs: &[InputColumn], rows_max: usize) -> Result<RawBatch, RequestError> {
        let first = self.inputs.first().ok_or(RequestError::Empty)?;
        let mut builder = RawBatchBuilder::new(inputs);
        let mut tensors = Vec::with_capacity(self.inputs.len());
        for tensor in &self.inputs {
            // No value, only to hear whether there is such an input.
            builder
                .set(&tensor.name, RawValue::Missing)
                .map_err(RequestError::Input)?;
            let column = inputs.iter().find(|input| input.name == tensor.name);
            tensors.extend(column.map(|input| TensorRows::new(tensor, input.kind)));
        }
        let tensors = tensors.into_iter().collect::<Result<Vec<_>, _>>()?;
        let rows = tensors[0].rows;
        if rows > rows_max {
            return Err(RequestError::TooManyRows {
                limit: rows_max,
                got: rows,
            });
        }
        if let Some(other) = tensors.iter().find(|tensor| tensor.rows != rows) {
            return Err(RequestError::Rows {
                name: other.name().to_owned(),
                first: first.name.clone(),
                expected: rows,
                got: other.rows,
            });
        }
        let mut list = Vec::new();
        for row in 0..rows {
            for tensor in &tensors {
                tensor.set(row, &mut builder, &mut list)?;
            }
            builder
                .end_row()
                .map_err(|source| RequestError::Value { row, source })?;
        }
        Ok(builder.finish())
    }
}
