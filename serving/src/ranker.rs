//! One loaded artifact that scores raw rows.

use std::path::{Path, PathBuf};

use streamrec_artifact::{
    Artifact, ArtifactError, Encoder, Golden, GoldenError, InputColumn, MODEL_FILE, Manifest,
    ManifestError, RawBatch, VerdictError, key,
};

use crate::forward::{Forward, ForwardError, Values};
use crate::oracle;
use crate::scorer::{LOGIT_TOLERANCE, ScoreError, Scorer, Scratch, sigmoid};

/// How far a golden probability may lie from the trainer's.
pub const PROBABILITY_TOLERANCE: f32 = 1e-5;

/// A model that has proved itself on its golden examples.
#[derive(Debug)]
pub struct Ranker {
    manifest: Manifest,
    version: String,
    scorer: Scorer,
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
    /// No release gate passed it as it is.
    #[error("the artifact may not be served: a passing verdict is required")]
    Verdict(#[from] Box<VerdictError>),
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
         program computes otherwise: export it again",
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
        let mut values = Values::default();
        let logits = forward
            .logits(&golden.encoded, &mut values)
            .map_err(failed)?;
        check.logits("this program's", logits)?;
        let golden_difference = check.probabilities("this program's", logits)?;
        Ok(Self {
            manifest,
            version,
            scorer: Scorer::new(encoder, forward),
            golden_difference,
        })
    }

    /// The probabilities of `rows`, as [`Scorer::score`] gives them.
    ///
    /// # Errors
    /// When the rows are not of the model's inputs.
    pub fn score<'s>(
        &self,
        rows: &RawBatch,
        scratch: &'s mut Scratch,
    ) -> Result<&'s [f32], ScoreError> {
        self.scorer.score(rows, scratch)
    }

    /// What turns raw rows into inputs of the graph.
    pub fn encoder(&self) -> &Encoder {
        self.scorer.encoder()
    }

    /// What scores.
    pub fn into_scorer(self) -> Scorer {
        self.scorer
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

    /// The greatest difference between this program's golden probabilities and the trainer's.
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
