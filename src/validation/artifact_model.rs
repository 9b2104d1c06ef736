//! An artifact that scores raw rows, to be judged: our own forward pass of its weights.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use streamrec_artifact::{
    Artifact, ArtifactError, Encoded, Encoder, Manifest, RawBatch, RawBatchError,
};
use streamrec_kernels::Context;

use crate::model::ModelError;
use crate::train::{Predictor, TrainError};

/// Rows that are scored together.
pub(super) const BATCH_ROWS: usize = 4096;
/// How far a golden logit may lie from the exported one, as a share of it where it is above 1.
const GOLDEN_TOLERANCE: f32 = 1e-4;

/// A loaded artifact.
pub struct ArtifactModel {
    folder: PathBuf,
    manifest: Manifest,
    encoder: Arc<Encoder>,
    predictor: Predictor,
    encoded: Encoded,
}

/// Why an artifact cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum ModelLoadError {
    /// It is no artifact, or a damaged one.
    #[error("cannot load the artifact {}", path.display())]
    Artifact {
        /// Its folder.
        path: PathBuf,
        /// Why.
        source: Box<ArtifactError>,
    },
    /// Its graph cannot be run.
    #[error("cannot run the graph of the artifact {}", path.display())]
    Graph {
        /// Its folder.
        path: PathBuf,
        /// Why.
        source: Box<TrainError>,
    },
    /// It does not score as it did when it was exported.
    #[error(
        "the artifact {} does not reproduce its golden examples: score {place} was {expected}, is {got}; export it again",
        path.display()
    )]
    Golden {
        /// Its folder.
        path: PathBuf,
        /// The place among all golden logits.
        place: usize,
        /// The exported logit.
        expected: f32,
        /// The logit now.
        got: f32,
    },
}

impl ArtifactModel {
    /// Loads an artifact and checks its golden examples.
    ///
    /// # Errors
    /// It cannot be read or run, or scores otherwise than when it was exported.
    pub fn load(folder: &Path) -> Result<Self, ModelLoadError> {
        let path = || folder.to_owned();
        let broken = |source: ArtifactError| ModelLoadError::Artifact {
            path: path(),
            source: Box::new(source),
        };
        let graph = |source: TrainError| ModelLoadError::Graph {
            path: path(),
            source: Box::new(source),
        };
        let artifact = Artifact::read(folder).map_err(broken)?;
        let encoder = Encoder::new(&artifact.manifest.schema, &artifact.vocabularies);
        let encoder = Arc::new(encoder.map_err(|error| broken(error.into()))?);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let context = Context::cpu(threads, false).map_err(|error| {
            graph(TrainError::Model(ModelError::Kernel {
                what: "starting the CPU",
                source: Box::new(error),
            }))
        })?;
        let rows = BATCH_ROWS.max(artifact.golden.raw.rows);
        let schema = &artifact.manifest.schema;
        let mut predictor =
            Predictor::new(context, &artifact.manifest.graph, schema, rows).map_err(graph)?;
        for mut slice in predictor.parameters_mut().named_slices_mut() {
            // A predictor holds every parameter in whole, and the artifact's were checked against the graph.
            if let Some(weight) = artifact.weights.get(&slice.name) {
                slice.values.set_f32(&weight.values);
            }
        }
        let mut model = Self {
            folder: path(),
            manifest: artifact.manifest,
            encoder,
            predictor,
            encoded: Encoded::default(),
        };
        let logits = model
            .predictor
            .logits(&artifact.golden.encoded)
            .map_err(graph)?;
        for (place, (&expected, &got)) in artifact.golden.logits.iter().zip(&logits).enumerate() {
            let off = (expected - got).abs() > GOLDEN_TOLERANCE * expected.abs().max(1.0);
            if off || !got.is_finite() {
                return Err(ModelLoadError::Golden {
                    path: path(),
                    place,
                    expected,
                    got,
                });
            }
        }
        Ok(model)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The encoder of its inputs.
    pub fn encoder(&self) -> &Arc<Encoder> {
        &self.encoder
    }

    /// The probabilities of raw rows, `[rows, labels]`.
    ///
    /// # Errors
    /// The rows are not those of its inputs.
    pub fn score(&mut self, raw: &RawBatch) -> Result<Vec<f32>, TrainError> {
        let mut probabilities = Vec::with_capacity(raw.rows * self.manifest.schema.labels.len());
        let mut part = RawBatch::new(&self.manifest.schema.inputs);
        for first in (0..raw.rows).step_by(BATCH_ROWS) {
            let rows = first..(first + BATCH_ROWS).min(raw.rows);
            let batch = if rows.len() == raw.rows {
                raw
            } else {
                part.clear();
                rows.for_each(|row| part.push_row_of(raw, row));
                &part
            };
            self.encoder
                .encode(batch, &mut self.encoded)
                .map_err(|error: RawBatchError| TrainError::Encode(error))?;
            let logits = self.predictor.logits(&self.encoded)?;
            probabilities.extend(
                logits
                    .iter()
                    .map(|&logit| (1.0 / (1.0 + (-f64::from(logit)).exp())) as f32),
            );
        }
        Ok(probabilities)
    }
}
