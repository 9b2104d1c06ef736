//! One loaded artifact that scores raw rows.

use std::path::{Path, PathBuf};

use streamrec_artifact::{
    Artifact, ArtifactError, Encoded, Encoder, Golden, GoldenError, InputColumn, MODEL_FILE,
    Manifest, ManifestError, RawBatch, RawBatchError, key,
};

use crate::forward::{Forward, ForwardError};
use crate::oracle;

/// How far a golden probability may lie from the trainer's.
pub const PROBABILITY_TOLERANCE: f32 = 1e-5;
/// How far a golden logit may lie from the trainer's, as a share of it where it is above 1. Where
/// clicks are rare, probabilities alone would hide a wrong weight.
pub const LOGIT_TOLERANCE: f32 = 1e-4;

/// A model that has proved itself on its golden examples.
#[derive(Debug)]
pub struct Ranker {
    manifest: Manifest,
    version: String,
    encoder: Encoder,
    forward: Forward,
    golden_difference: f32,
}

/// Why an artifact cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
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
    Forward {
        /// Its folder.
        path: PathBuf,
        /// Why.
        source: ForwardError,
    },
    /// The oracle cannot run its graph.
    #[error("cannot check the golden examples of the artifact {} with candle", path.display())]
    Oracle {
        /// Its folder.
        path: PathBuf,
        /// What candle said.
        source: candle_core::Error,
    },
    /// It does not score as it did in training.
    #[error(
        "the artifact {} does not reproduce its golden examples: row {row}, label `{label}`: the \
         trainer's {score} is {expected}, {by} {got}; it was changed after the export, or this \
         server computes otherwise: export it again",
        path.display()
    )]
    Golden {
        /// Its folder.
        path: PathBuf,
        /// The golden row.
        row: usize,
        /// The label.
        label: String,
        /// `logit` or `probability`.
        score: &'static str,
        /// Who scored again.
        by: &'static str,
        /// The trainer's score.
        expected: f32,
        /// The score now.
        got: f32,
    },
}

/// Why rows could not be scored.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// The rows are not the model's inputs.
    #[error("the rows do not fit the model")]
    Rows(#[from] RawBatchError),
    /// An operation failed.
    #[error("the model's graph failed")]
    Forward(#[from] ForwardError),
}

impl Ranker {
    /// Loads the artifact in `folder` and checks its golden examples.
    ///
    /// # Errors
    /// When the artifact is damaged, or scores otherwise than in training.
    pub fn load(folder: &Path) -> Result<Self, LoadError> {
        let path = || folder.to_owned();
        let artifact = |error| LoadError::Artifact {
            path: path(),
            source: Box::new(error),
        };
        let Artifact {
            manifest,
            weights,
            vocabularies,
            golden,
            ..
        } = Artifact::read(folder).map_err(artifact)?;
        let (graph, schema) = (&manifest.graph, &manifest.schema);
        let shapes = graph
            .validate(schema)
            .map_err(|error| artifact(error.into()))?;
        let encoder =
            Encoder::new(schema, &vocabularies).map_err(|error| artifact(error.into()))?;
        let version = version(&manifest).map_err(|error| artifact(error.into()))?;

        let check = Check {
            folder,
            labels: &schema.labels,
            golden: &golden,
        };
        let again = oracle::logits(graph, &shapes, schema, &weights, &golden.encoded);
        check.logits(
            "candle's",
            &again.map_err(|source| LoadError::Oracle {
                path: path(),
                source,
            })?,
        )?;
        let failed = |source| LoadError::Forward {
            path: path(),
            source,
        };
        let forward = Forward::new(graph, shapes, schema, weights).map_err(failed)?;
        let logits = forward.logits(&golden.encoded).map_err(failed)?;
        check.logits("this server's", &logits)?;
        let golden_difference = check.probabilities("this server's", &logits)?;
        Ok(Self {
            manifest,
            version,
            encoder,
            forward,
            golden_difference,
        })
    }

    /// The probabilities of `rows`, `[rows, labels]`, row-major; NaN where a value of the row is so
    /// large that the arithmetic overflows.
    ///
    /// # Errors
    /// When the rows are not of the model's inputs.
    pub fn score(&self, rows: &RawBatch) -> Result<Vec<f32>, ScoreError> {
        if rows.rows == 0 {
            return Ok(Vec::new());
        }
        let mut encoded = Encoded::default();
        self.encoder.encode(rows, &mut encoded)?;
        let logits = self.forward.logits(&encoded)?;
        Ok(logits.into_iter().map(sigmoid).collect())
    }

    /// What the artifact says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The inputs that a request may name.
    pub fn inputs(&self) -> &[InputColumn] {
        &self.manifest.schema.inputs
    }

    /// The labels that an answer has.
    pub fn labels(&self) -> &[String] {
        &self.manifest.schema.labels
    }

    /// Identifies the weights, the schema and the graph: equal versions score alike.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The greatest difference between this server's golden probabilities and the trainer's.
    pub fn golden_difference(&self) -> f32 {
        self.golden_difference
    }
}

/// Holds scores against those of the golden examples.
struct Check<'a> {
    folder: &'a Path,
    labels: &'a [String],
    golden: &'a Golden,
}

impl Check<'_> {
    fn logits(&self, by: &'static str, got: &[f32]) -> Result<f32, LoadError> {
        let checked = self.golden.check_logits(got, LOGIT_TOLERANCE);
        checked.map_err(|error| self.refused(by, error))
    }

    fn probabilities(&self, by: &'static str, logits: &[f32]) -> Result<f32, LoadError> {
        let got: Vec<f32> = logits.iter().copied().map(sigmoid).collect();
        let checked = self.golden.check_probabilities(&got, PROBABILITY_TOLERANCE);
        checked.map_err(|error| self.refused(by, error))
    }

    fn refused(&self, by: &'static str, error: GoldenError) -> LoadError {
        let path = self.folder.to_owned();
        match error {
            GoldenError::Score {
                row,
                label,
                score,
                expected,
                got,
                ..
            } => LoadError::Golden {
                path,
                row,
                label: self.labels[label].clone(),
                score,
                by,
                expected,
                got,
            },
            other => LoadError::Artifact {
                path,
                source: Box::new(other.into()),
            },
        }
    }
}

/// 16 hexadecimal digits of all that scores depend on.
fn version(manifest: &Manifest) -> Result<String, ManifestError> {
    let model = manifest.files.get(MODEL_FILE);
    let text = serde_json::to_string(&(model, &manifest.schema, &manifest.graph))?;
    Ok(format!("{:016x}", key::from_text(&text)))
}

/// In double precision, as the trainer's loss computes it.
fn sigmoid(logit: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(logit)).exp())) as f32
}
