//! Requests: read in one pass over the body, straight into raw columns.
//!
//! A request is up to 32 MiB from a stranger, so nothing is kept that the model does not know: the
//! first name, row or element too many ends the reading.

use std::fmt;

use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use streamrec_artifact::{InputColumn, RawBatch, RawColumn, RawColumnBuilder, RawValue, excerpt};

use super::RequestError;
use super::refusal::Refusal;
use super::tensor::TensorSeed;

/// `POST /v2/models/{name}/infer`, read against a model.
#[derive(Debug)]
pub struct InferRequest {
    /// Comes back with the answer.
    pub id: Option<String>,
    /// Where the labels to answer stand among the model's.
    pub labels: Vec<usize>,
    /// The raw rows.
    pub rows: RawBatch,
}

/// What a request may hold.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'m> {
    /// The model's inputs.
    pub inputs: &'m [InputColumn],
    /// The model's labels.
    pub labels: &'m [String],
    /// The most rows.
    pub rows_max: usize,
}

impl InferRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// The first thing that does not fit, by field and row.
    pub fn parse(body: &[u8], expected: Expected<'_>) -> Result<Self, RequestError> {
        // Once for the whole body, not once a string.
        let text = std::str::from_utf8(body)?;
        let refusal = Refusal::default();
        let mut json = serde_json::Deserializer::from_str(text);
        let seed = RequestSeed {
            expected,
            refusal: &refusal,
        };
        let read = seed
            .deserialize(&mut json)
            .and_then(|request| json.end().map(|()| request));
        match refusal.take() {
            Some(refused) => Err(refused),
            None => Ok(read?),
        }
    }
}

struct RequestSeed<'m, 'r> {
    expected: Expected<'m>,
    refusal: &'r Refusal,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum RequestField {
    Id,
    Inputs,
    Outputs,
    #[serde(other)]
    Other,
}

impl<'de> DeserializeSeed<'de> for RequestSeed<'_, '_> {
    type Value = InferRequest;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<InferRequest, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RequestSeed<'_, '_> {
    type Value = InferRequest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `inputs`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InferRequest, A::Error> {
        let Self { expected, refusal } = self;
        let (mut id, mut rows, mut labels) = (None, None, None);
        while let Some(field) = map.next_key()? {
            match field {
                RequestField::Id => id = map.next_value()?,
                RequestField::Inputs if rows.is_some() => {
                    return Err(A::Error::duplicate_field("inputs"));
                }
                RequestField::Inputs => {
                    rows = Some(map.next_value_seed(InputsSeed(Columns {
                        expected,
                        refusal,
                        columns: vec![None; expected.inputs.len()],
                        first: None,
                    }))?);
                }
                RequestField::Outputs if labels.is_some() => {
                    return Err(A::Error::duplicate_field("outputs"));
                }
                RequestField::Outputs => {
                    let known = expected.labels;
                    labels = map.next_value_seed(OutputsSeed { known, refusal })?;
                }
                RequestField::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let rows = rows.ok_or_else(|| A::Error::missing_field("inputs"))?;
        Ok(InferRequest {
            id,
            labels: labels.unwrap_or_else(|| (0..expected.labels.len()).collect()),
            rows,
        })
    }
}

/// The columns of a request that is being read.
pub(super) struct Columns<'m, 'r> {
    pub(super) expected: Expected<'m>,
    pub(super) refusal: &'r Refusal,
    /// The input each, `None` where no tensor came yet.
    columns: Vec<Option<RawColumn>>,
    /// The first tensor's input and rows, which all others must have as well.
    first: Option<(usize, usize)>,
}

impl<'m> Columns<'m, '_> {
    /// The input of this name, which has no tensor yet, and where it stands.
    pub(super) fn input(&self, name: &str) -> Result<(usize, &'m InputColumn), RequestError> {
        let index = InputColumn::position(self.expected.inputs, name)?;
        let input = &self.expected.inputs[index];
        match self.columns[index] {
            Some(_) => Err(RequestError::Twice {
                name: input.name.clone(),
            }),
            None => Ok((index, input)),
        }
    }

    /// Whether a tensor of the `index`-th input may have so many rows.
    pub(super) fn check_rows(&mut self, index: usize, rows: usize) -> Result<(), RequestError> {
        let Expected {
            inputs, rows_max, ..
        } = self.expected;
        if rows > rows_max {
            return Err(RequestError::TooManyRows {
                limit: rows_max,
                got: rows,
            });
        }
        match *self.first.get_or_insert((index, rows)) {
            (_, expected) if expected == rows => Ok(()),
            (first, expected) => Err(RequestError::Rows {
                name: inputs[index].name.clone(),
                first: inputs[first].name.clone(),
                expected,
                got: rows,
            }),
        }
    }

    pub(super) fn insert(&mut self, index: usize, column: RawColumn) {
        self.columns[index] = Some(column);
    }

    /// The rows, inputs without a tensor missing.
    fn finish(self) -> Result<RawBatch, RequestError> {
        let (_, rows) = self.first.ok_or(RequestError::Empty)?;
        let columns = self.columns.into_iter().zip(self.expected.inputs);
        let column = |(column, input): (Option<RawColumn>, &InputColumn)| {
            column.map_or_else(|| missing(input, rows), Ok)
        };
        Ok(RawBatch {
            rows,
            columns: columns.map(column).collect::<Result<_, _>>()?,
        })
    }
}

fn missing(input: &InputColumn, rows: usize) -> Result<RawColumn, RequestError> {
    let mut builder = RawColumnBuilder::new(input);
    for row in 0..rows {
        builder
            .push(RawValue::Missing)
            .map_err(|source| RequestError::Value { row, source })?;
    }
    Ok(builder.finish())
}

struct InputsSeed<'m, 'r>(Columns<'m, 'r>);

impl<'de> DeserializeSeed<'de> for InputsSeed<'_, '_> {
    type Value = RawBatch;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawBatch, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for InputsSeed<'_, '_> {
    type Value = RawBatch;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of tensors")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<RawBatch, A::Error> {
        while seq.next_element_seed(TensorSeed(&mut self.0))?.is_some() {}
        let refusal = self.0.refusal;
        refusal.or_json(self.0.finish())
    }
}

/// Reads the labels to answer; all of them, `None`, where none is named.
struct OutputsSeed<'m, 'r> {
    known: &'m [String],
    refusal: &'r Refusal,
}

#[derive(Deserialize)]
struct RequestedOutput {
    name: String,
}

impl<'de> DeserializeSeed<'de> for OutputsSeed<'_, '_> {
    type Value = Option<Vec<usize>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for OutputsSeed<'_, '_> {
    type Value = Option<Vec<usize>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of outputs")
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut labels = Vec::new();
        while let Some(RequestedOutput { name }) = seq.next_element()? {
            let found = self.known.iter().position(|label| *label == name);
            let label = found.ok_or_else(|| RequestError::UnknownOutput {
                name: excerpt(&name).into_owned(),
                known: self.known.join(", "),
            });
            let label = self.refusal.or_json(label)?;
            if labels.contains(&label) {
                return Err(self.refusal.refuse(RequestError::OutputTwice { name }));
            }
            labels.push(label);
        }
        Ok((!labels.is_empty()).then_some(labels))
    }
}
