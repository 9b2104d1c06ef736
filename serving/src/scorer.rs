//! Raw rows to probabilities, on the thread that calls.

use streamrec_artifact::{
    Encoded, Encoder, FeatureSchema, Graph, GraphError, RawBatch, RawBatchError, SchemaError,
    Vocabularies, Weights,
};

use crate::forward::{Forward, ForwardError, Values};
use crate::oracle;

/// How far a logit of the kernels may lie from the oracle's, as a share of it where it is above 1.
/// Where clicks are rare, probabilities alone would hide a wrong weight.
pub const LOGIT_TOLERANCE: f32 = 1e-4;

/// A model that scores raw rows. Threads share it, each with a [`Scratch`] of its own.
#[derive(Debug)]
pub struct Scorer {
    encoder: Encoder,
    forward: Forward,
}

/// What one thread's passes write, kept so that passes of a size that was seen allocate little.
#[derive(Debug, Default)]
pub struct Scratch {
    encoded: Encoded,
    values: Values,
    probabilities: Vec<f32>,
}

/// Why there is no scorer.
#[derive(Debug, thiserror::Error)]
pub enum ScorerError {
    /// The schema contradicts itself or lacks a vocabulary.
    #[error("the feature schema is not valid")]
    Schema(#[from] SchemaError),
    /// The graph is not one of the schema.
    #[error("the graph is not valid")]
    Graph(#[from] GraphError),
    /// The graph cannot be run.
    #[error("the graph cannot be run")]
    Forward(#[from] ForwardError),
    /// The rows to check with are not the model's inputs.
    #[error("the rows do not fit the model")]
    Rows(#[from] RawBatchError),
    /// The oracle cannot run the graph.
    #[error("candle cannot run the graph")]
    Oracle(#[from] candle_core::Error),
    /// The oracle says something else.
    #[error(
        "row {row}: candle's logit is {expected}, the kernels' {got}: this program computes \
         otherwise than it should on this machine"
    )]
    Differs {
        /// The row.
        row: usize,
        /// The oracle's logit.
        expected: f32,
        /// The kernels'.
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

impl Scorer {
    pub(crate) fn new(encoder: Encoder, forward: Forward) -> Self {
        Self { encoder, forward }
    }

    /// The scorer of a model that was not exported: what golden examples prove of an artifact, it
    /// proves on `rows`, whose logits must be those that candle computes.
    ///
    /// # Errors
    /// When the parts do not fit together, or candle and the kernels differ.
    pub fn checked(
        graph: &Graph,
        schema: &FeatureSchema,
        vocabularies: &Vocabularies,
        weights: Weights,
        rows: &RawBatch,
    ) -> Result<Self, ScorerError> {
        let shapes = graph.validate(schema)?;
        let encoder = Encoder::new(schema, vocabularies)?;
        let mut encoded = Encoded::default();
        encoder.encode(rows, &mut encoded)?;
        let expected = oracle::logits(graph, &shapes, schema, &weights, &encoded)?;
        let forward = Forward::new(graph, shapes, schema, weights)?;
        let mut values = Values::default();
        let got = forward.logits(&encoded, &mut values)?;
        let labels = schema.labels.len().max(1);
        for (at, (&expected, &got)) in expected.iter().zip(got).enumerate() {
            let allowed = LOGIT_TOLERANCE * expected.abs().max(1.0);
            // Where the arithmetic overflows there is nothing to compare.
            if expected.is_finite() && got.is_finite() && (expected - got).abs() > allowed {
                let row = at / labels;
                return Err(ScorerError::Differs { row, expected, got });
            }
        }
        Ok(Self::new(encoder, forward))
    }

    /// The encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// The probabilities of `rows`, `[rows, labels]`, row-major; NaN where a value of the row is so
    /// large that the arithmetic overflows.
    ///
    /// # Errors
    /// When the rows are not of the model's inputs.
    pub fn score<'s>(
        &self,
        rows: &RawBatch,
        scratch: &'s mut Scratch,
    ) -> Result<&'s [f32], ScoreError> {
        let mut encoded = std::mem::take(&mut scratch.encoded);
        let scored = self.encoder.encode(rows, &mut encoded);
        let scored = match scored {
            Ok(()) => self.pass(&encoded, scratch),
            Err(error) => Err(error.into()),
        };
        scratch.encoded = encoded;
        scored?;
        Ok(&scratch.probabilities)
    }

    /// As [`score`](Self::score), of rows that its encoder encoded.
    ///
    /// # Errors
    /// When they are not of the model's schema.
    pub fn score_encoded<'s>(
        &self,
        rows: &Encoded,
        scratch: &'s mut Scratch,
    ) -> Result<&'s [f32], ScoreError> {
        self.pass(rows, scratch)?;
        Ok(&scratch.probabilities)
    }

    fn pass(&self, rows: &Encoded, scratch: &mut Scratch) -> Result<(), ScoreError> {
        scratch.probabilities.clear();
        if rows.rows > 0 {
            let logits = self.forward.logits(rows, &mut scratch.values)?;
            let probabilities = logits.iter().copied().map(sigmoid);
            scratch.probabilities.extend(probabilities);
        }
        Ok(())
    }
}

/// In double precision, as the trainer's loss computes it.
pub(crate) fn sigmoid(logit: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(logit)).exp())) as f32
}
