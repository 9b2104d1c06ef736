//! Golden examples: raw rows with what the trained model made of them.
//!
//! A server encodes the raw rows again and scores them again. If either differs, training and serving do not
//! agree, and the server refuses the artifact before it answers a request.

use std::path::Path;

use crate::encoder::{Encoded, Encoder};
use crate::feature_schema::FeatureSchema;
use crate::input::{ColumnKind, InputColumn};
use crate::key;
use crate::raw::{RawBatch, RawBatchError, RawColumn};
use crate::tensor_file::{TensorFile, TensorFileError, TensorFileWriter};

/// Raw rows, what they encode to, and the scores of the trained model in fp32.
#[derive(Debug, Clone, PartialEq)]
pub struct Golden {
    /// The raw rows.
    pub raw: RawBatch,
    /// The same rows encoded.
    pub encoded: Encoded,
    /// The logits, `[rows, labels]`.
    pub logits: Vec<f32>,
    /// Their sigmoids, `[rows, labels]`.
    pub probabilities: Vec<f32>,
}

impl Golden {
    /// `rows` and two more: one without any value, and one whose identifiers nobody has seen and whose other
    /// values are those of the first row.
    pub fn with_probes(rows: &RawBatch) -> RawBatch {
        let mut probed = rows.clone();
        probed.push_missing();
        let unseen = key::from_text("an identifier that nobody has seen");
        for column in &mut probed.columns {
            match column {
                RawColumn::Key(keys) => keys.push(unseen),
                RawColumn::KeyList { offsets, keys } => {
                    keys.push(unseen);
                    offsets.push(keys.len() as u32);
                }
                RawColumn::Dense(values) => values.push(values[0]),
                RawColumn::Time(times) => times.push(times[0]),
            }
        }
        probed.rows += 1;
        probed
    }

    /// Encodes the raw rows again and compares, bit for bit.
    ///
    /// # Errors
    /// The first feature and row that differ.
    pub fn check_encoding(&self, encoder: &Encoder) -> Result<(), GoldenError> {
        let mut again = Encoded::default();
        encoder.encode(&self.raw, &mut again)?;
        let schema = encoder.schema();
        let (rows, width) = (self.raw.rows, schema.dense.len());
        for (at, (got, expected)) in again.dense.iter().zip(&self.encoded.dense).enumerate() {
            if got.to_bits() != expected.to_bits() {
                return Err(GoldenError::Encoding {
                    feature: schema.dense[at % width].name.clone(),
                    row: at / width,
                    expected: expected.to_string(),
                    got: got.to_string(),
                });
            }
        }
        for (index, feature) in schema.categorical.iter().enumerate() {
            for row in 0..rows {
                let (got, expected) = (again.bag(index, row), self.encoded.bag(index, row));
                if got != expected {
                    let (expected, got) = (format!("{expected:?}"), format!("{got:?}"));
                    return Err(GoldenError::Encoding {
                        feature: feature.name.clone(),
                        row,
                        expected,
                        got,
                    });
                }
            }
        }
        Ok(())
    }

    /// Compares logits, `[rows, labels]`, with the trained model's, and tells the greatest difference.
    ///
    /// # Errors
    /// A logit differs by more than `tolerance * max(1, |expected|)`, or is not a number.
    pub fn check_logits(&self, logits: &[f32], tolerance: f32) -> Result<f32, GoldenError> {
        self.check_scores("logit", &self.logits, logits, tolerance)
    }

    /// Compares probabilities, `[rows, labels]`, as [`check_logits`](Self::check_logits) does logits.
    ///
    /// # Errors
    /// A probability differs by more than `tolerance`, or is not a number.
    pub fn check_probabilities(&self, got: &[f32], tolerance: f32) -> Result<f32, GoldenError> {
        self.check_scores("probability", &self.probabilities, got, tolerance)
    }

    fn check_scores(
        &self,
        score: &'static str,
        expected: &[f32],
        got: &[f32],
        tolerance: f32,
    ) -> Result<f32, GoldenError> {
        if got.len() != expected.len() {
            return Err(GoldenError::Scores {
                expected: expected.len(),
                got: got.len(),
            });
        }
        let labels = expected.len() / self.raw.rows.max(1);
        let mut greatest = 0.0f32;
        for (at, (&got, &expected)) in got.iter().zip(expected).enumerate() {
            let difference = (got - expected).abs();
            // A NaN is not within any tolerance.
            let agrees = difference <= tolerance * expected.abs().max(1.0);
            if !agrees {
                let (row, label) = (at / labels, at % labels);
                return Err(GoldenError::Score {
                    row,
                    label,
                    score,
                    expected,
                    got,
                    tolerance,
                });
            }
            greatest = greatest.max(difference);
        }
        Ok(greatest)
    }

    /// Checks every length and offset against a schema.
    ///
    /// # Errors
    /// The first that does not fit.
    pub fn check(&self, schema: &FeatureSchema) -> Result<(), GoldenError> {
        self.raw.check(&schema.inputs)?;
        let rows = self.raw.rows;
        let lengths = [
            ("encoded.rows", rows, self.encoded.rows),
            (
                "encoded.dense",
                rows * schema.dense.len(),
                self.encoded.dense.len(),
            ),
            (
                "encoded.offsets",
                rows * schema.categorical.len() + 1,
                self.encoded.offsets.len(),
            ),
            ("logits", rows * schema.labels.len(), self.logits.len()),
            (
                "probabilities",
                rows * schema.labels.len(),
                self.probabilities.len(),
            ),
        ];
        for (what, expected, got) in lengths {
            if expected != got {
                return Err(GoldenError::Length {
                    what,
                    expected,
                    got,
                });
            }
        }
        let offsets = &self.encoded.offsets;
        let ascending = offsets[0] == 0 && offsets.windows(2).all(|pair| pair[0] <= pair[1]);
        if !ascending || offsets[offsets.len() - 1] != self.encoded.ids.len() as i64 {
            return Err(GoldenError::Offsets);
        }
        let scores = self.logits.iter().chain(&self.probabilities);
        match scores.clone().any(|score| !score.is_finite()) || rows == 0 {
            true => Err(GoldenError::NoScores),
            false => Ok(()),
        }
    }

    pub(crate) fn write(&self, path: &Path, schema: &FeatureSchema) -> Result<(), TensorFileError> {
        let failed = |source| TensorFileError::Write {
            path: path.to_owned(),
            source,
        };
        let rows = self.raw.rows;
        let mut writer = TensorFileWriter::default();
        for (input, column) in schema.inputs.iter().zip(&self.raw.columns) {
            let name = format!("raw.{}", input.name);
            match column {
                RawColumn::Dense(values) => writer.add(name, &[rows], values),
                RawColumn::Key(keys) => writer.add(name, &[rows], keys),
                RawColumn::Time(times) => writer.add(name, &[rows], times),
                RawColumn::KeyList { offsets, keys } => writer
                    .add(format!("{name}.offsets"), &[offsets.len()], offsets)
                    .and_then(|()| writer.add(format!("{name}.keys"), &[keys.len()], keys)),
            }
            .map_err(failed)?;
        }
        let Encoded {
            dense,
            ids,
            offsets,
            ..
        } = &self.encoded;
        let labels = schema.labels.len();
        writer
            .add("encoded.dense", &[rows, schema.dense.len()], dense)
            .map_err(failed)?;
        writer
            .add("encoded.ids", &[ids.len()], ids)
            .map_err(failed)?;
        writer
            .add("encoded.offsets", &[offsets.len()], offsets)
            .map_err(failed)?;
        writer
            .add("logits", &[rows, labels], &self.logits)
            .map_err(failed)?;
        writer
            .add("probabilities", &[rows, labels], &self.probabilities)
            .map_err(failed)?;
        writer.write(path)
    }

    pub(crate) fn read(path: &Path, schema: &FeatureSchema) -> Result<Self, GoldenError> {
        let file = TensorFile::open(path)?;
        let rows = file.shape("logits")?.first().copied().unwrap_or(0);
        let labels = schema.labels.len();
        let columns = schema
            .inputs
            .iter()
            .map(|input| read_column(&file, input, rows));
        let golden = Self {
            raw: RawBatch {
                rows,
                columns: columns.collect::<Result<_, _>>()?,
            },
            encoded: Encoded {
                rows,
                dense: file.read_shaped("encoded.dense", &[rows, schema.dense.len()])?,
                ids: file.read("encoded.ids")?,
                offsets: file.read("encoded.offsets")?,
            },
            logits: file.read_shaped("logits", &[rows, labels])?,
            probabilities: file.read_shaped("probabilities", &[rows, labels])?,
        };
        golden.check(schema)?;
        Ok(golden)
    }
}

fn read_column(
    file: &TensorFile,
    input: &InputColumn,
    rows: usize,
) -> Result<RawColumn, TensorFileError> {
    let name = format!("raw.{}", input.name);
    Ok(match input.kind {
        ColumnKind::Dense => RawColumn::Dense(file.read_shaped(&name, &[rows])?),
        ColumnKind::Key => RawColumn::Key(file.read_shaped(&name, &[rows])?),
        ColumnKind::Time => RawColumn::Time(file.read_shaped(&name, &[rows])?),
        ColumnKind::KeyList => RawColumn::KeyList {
            offsets: file.read(&format!("{name}.offsets"))?,
            keys: file.read(&format!("{name}.keys"))?,
        },
    })
}

/// Golden examples that are damaged, or that a model does not reproduce.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages tell.
pub enum GoldenError {
    #[error(transparent)]
    File(#[from] TensorFileError),
    #[error("the raw rows of the golden examples do not fit the schema")]
    Raw(#[from] RawBatchError),
    #[error("the golden examples' {what} has length {got}, expected {expected}")]
    Length {
        what: &'static str,
        expected: usize,
        got: usize,
    },
    #[error(
        "the golden examples' bag offsets must begin at 0, never decrease and end at the number of ids"
    )]
    Offsets,
    #[error("golden examples need at least one row, and finite scores")]
    NoScores,
    #[error(
        "golden row {row}: feature `{feature}` encodes to {got}, in training it was {expected}; \
         this program encodes otherwise than the one that trained the model"
    )]
    Encoding {
        feature: String,
        row: usize,
        expected: String,
        got: String,
    },
    #[error("got {got} scores for the golden examples, expected {expected}")]
    Scores { expected: usize, got: usize },
    #[error(
        "golden row {row}, label {label}: {score} {got}, in training it was {expected} (tolerance {tolerance})"
    )]
    Score {
        row: usize,
        label: usize,
        score: &'static str,
        expected: f32,
        got: f32,
        tolerance: f32,
    },
}
