//! Answers.

use serde::Serialize;
use streamrec_artifact::{ColumnKind, InputColumn, SourceType};

use crate::ranker::Ranker;

/// The answer to an inference request.
#[derive(Debug, Serialize)]
pub struct InferResponse {
    /// The model.
    pub model_name: String,
    /// Its version.
    pub model_version: String,
    /// The request's `id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// One tensor a label.
    pub outputs: Vec<OutputTensor>,
}

/// The probabilities of one label.
#[derive(Debug, Serialize)]
pub struct OutputTensor {
    /// The label.
    pub name: String,
    /// `[rows]`
    pub shape: [usize; 1],
    /// Always `FP32`.
    pub datatype: &'static str,
    /// `[rows]`
    pub data: Vec<f32>,
}

impl OutputTensor {
    /// The tensors of `columns` of `probabilities`, `[rows, labels]`.
    ///
    /// # Panics
    /// If a column is outside `labels`.
    pub fn of(probabilities: &[f32], labels: &[String], columns: &[usize]) -> Vec<Self> {
        let tensor = |&column: &usize| {
            let data = probabilities
                .chunks_exact(labels.len())
                .map(|row| row[column]);
            let data: Vec<f32> = data.collect();
            Self {
                name: labels[column].clone(),
                shape: [data.len()],
                datatype: "FP32",
                data,
            }
        };
        columns.iter().map(tensor).collect()
    }
}

/// `GET /v2`
#[derive(Debug, Serialize)]
pub struct ServerMetadata {
    /// The program.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Standard extensions of the protocol that it has: none.
    pub extensions: [&'static str; 0],
}

impl Default for ServerMetadata {
    fn default() -> Self {
        Self {
            name: "streamrec-serve",
            version: env!("CARGO_PKG_VERSION"),
            extensions: [],
        }
    }
}

/// `GET /v2/models/{name}`
#[derive(Debug, Serialize)]
pub struct ModelMetadata {
    /// The model.
    pub name: String,
    /// The version that answers.
    pub versions: [String; 1],
    /// `streamrec`, with the artifact's format.
    pub platform: String,
    /// The raw features.
    pub inputs: Vec<TensorMetadata>,
    /// The labels.
    pub outputs: Vec<TensorMetadata>,
}

/// One input or output.
#[derive(Debug, Serialize)]
pub struct TensorMetadata {
    /// Its name.
    pub name: String,
    /// The datatype to send.
    pub datatype: &'static str,
    /// -1 is any size.
    pub shape: Vec<i64>,
    /// What the feature schema says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<InputColumn>,
}

impl ModelMetadata {
    /// What `ranker` says of itself.
    pub fn of(name: &str, ranker: &Ranker) -> Self {
        let input = |column: &InputColumn| TensorMetadata {
            name: column.name.clone(),
            datatype: datatype(column.source),
            shape: match column.kind {
                ColumnKind::KeyList => vec![-1, -1],
                _ => vec![-1],
            },
            parameters: Some(column.clone()),
        };
        let output = |label: &String| TensorMetadata {
            name: label.clone(),
            datatype: "FP32",
            shape: vec![-1],
            parameters: None,
        };
        Self {
            name: name.to_owned(),
            versions: [ranker.version().to_owned()],
            platform: format!("streamrec_v{}", ranker.manifest().format_version),
            inputs: ranker.inputs().iter().map(input).collect(),
            outputs: ranker.labels().iter().map(output).collect(),
        }
    }
}

fn datatype(source: SourceType) -> &'static str {
    match source {
        SourceType::Float => "FP64",
        SourceType::Text => "BYTES",
        SourceType::Boolean => "BOOL",
        SourceType::Integer | SourceType::Timestamp => "INT64",
    }
}
