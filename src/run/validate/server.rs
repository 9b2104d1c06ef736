//! A live server as a scorer of behavioural tests.

use std::error::Error;

use streamrec_artifact::{InputColumn, Manifest, RawBatch};

use crate::run::request;
use crate::validation::ArtifactModel;
use crate::validation::behaviour::Scorer;

/// Rows of one request.
const REQUEST_ROWS: usize = 500;

/// A server that serves the artifact of a manifest.
pub(super) struct Server {
    url: String,
    manifest: Manifest,
}

impl Server {
    pub(super) fn new(url: &str, manifest: Manifest) -> Self {
        let url = format!(
            "{}/v2/models/{}/infer",
            url.trim_end_matches('/'),
            manifest.name
        );
        Self { url, manifest }
    }
}

impl Scorer for Server {
    fn inputs(&self) -> &[InputColumn] {
        &self.manifest.schema.inputs
    }

    fn labels(&self) -> &[String] {
        &self.manifest.schema.labels
    }

    fn score(&mut self, rows: &RawBatch) -> Result<Vec<f32>, Box<dyn Error + Send + Sync>> {
        let labels = &self.manifest.schema.labels;
        let mut scores = vec![0.0; rows.rows * labels.len()];
        let all: Vec<usize> = (0..rows.rows).collect();
        for part in all.chunks(REQUEST_ROWS) {
            let body = request::raw_body(&self.manifest.schema.inputs, rows, part);
            let answer = request::post(&self.url, &body)?;
            for (head, label) in labels.iter().enumerate() {
                let outputs = answer["outputs"].as_array();
                let output =
                    outputs.and_then(|all| all.iter().find(|output| output["name"] == **label));
                let data = output.and_then(|output| output["data"].as_array());
                let data = data.filter(|data| data.len() == part.len());
                let data = data.ok_or_else(|| {
                    format!("{} gave no score of `{label}` for each row", self.url)
                })?;
                for (&row, score) in part.iter().zip(data) {
                    scores[row * labels.len() + head] =
                        score.as_f64().map_or(f32::NAN, |score| score as f32);
                }
            }
        }
        Ok(scores)
    }
}

/// An artifact as a scorer.
impl Scorer for ArtifactModel {
    fn inputs(&self) -> &[InputColumn] {
        &self.manifest().schema.inputs
    }

    fn labels(&self) -> &[String] {
        &self.manifest().schema.labels
    }

    fn score(&mut self, rows: &RawBatch) -> Result<Vec<f32>, Box<dyn Error + Send + Sync>> {
        Ok(ArtifactModel::score(self, rows)?)
    }
}
