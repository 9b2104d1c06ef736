//! From named values to raw rows: what a server does with a request.

use std::collections::HashMap;
use std::fmt;

use jiff::Timestamp;

use crate::input::{ColumnKind, InputColumn, SourceType};
use crate::key;
use crate::nearest_name::{nearest, suggestion};
use crate::raw::{RawBatch, RawColumn};

/// The most elements of a list, unless [`RawBatchBuilder::with_list_length_max`] says otherwise.
pub const LIST_LENGTH_MAX: usize = 4096;

/// One value as it was sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RawValue<'a> {
    /// No value.
    Missing,
    /// An integer.
    Integer(i64),
    /// A floating-point number.
    Float(f64),
    /// Text.
    Text(&'a str),
    /// A truth value.
    Boolean(bool),
    /// The 64-bit key of an identifier, as the caller computed it ([`key`]).
    Key(u64),
    /// A list of values.
    List(&'a [RawValue<'a>]),
}

impl fmt::Display for RawValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("no value"),
            Self::Integer(value) => write!(f, "the integer {value}"),
            Self::Float(value) => write!(f, "the number {value}"),
            Self::Text(text) if text.chars().count() <= 40 => write!(f, "the text {text:?}"),
            Self::Text(text) => write!(f, "a text of {} bytes", text.len()),
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Key(key) => write!(f, "the key {key}"),
            Self::List(values) => write!(f, "a list of {}", values.len()),
        }
    }
}

/// Builds a [`RawBatch`] from named values, and refuses what the schema does not allow.
///
/// ```
/// use streamrec_artifact::{ColumnKind, InputColumn, RawBatchBuilder, RawValue, SourceType};
///
/// let inputs = [InputColumn {
///     name: "age".to_owned(),
///     kind: ColumnKind::Dense,
///     source: SourceType::Float,
///     unit: Some("years".to_owned()),
///     range: Some([0.0, 150.0]),
///     required: true,
/// }];
/// let mut builder = RawBatchBuilder::new(&inputs);
/// builder.set("age", RawValue::Integer(30))?;
/// builder.end_row()?;
/// let refused = builder.set("age", RawValue::Float(200.0)).unwrap_err();
/// assert_eq!(refused.to_string(), "`age`: expected 0 to 150 years, got the number 200");
/// assert_eq!(builder.batch().rows, 1);
/// # Ok::<(), streamrec_artifact::RawValueError>(())
/// ```
#[derive(Debug, Clone)]
pub struct RawBatchBuilder<'a> {
    inputs: &'a [InputColumn],
    positions: HashMap<&'a str, usize>,
    list_length_max: usize,
    batch: RawBatch,
    /// Whether the current row has a value, an input each.
    given: Vec<bool>,
}

impl<'a> RawBatchBuilder<'a> {
    /// A builder of rows of `inputs`.
    pub fn new(inputs: &'a [InputColumn]) -> Self {
        Self {
            inputs,
            positions: inputs
                .iter()
                .enumerate()
                .map(|(index, input)| (input.name.as_str(), index))
                .collect(),
            list_length_max: LIST_LENGTH_MAX,
            batch: RawBatch::new(inputs),
            given: vec![false; inputs.len()],
        }
    }

    /// Allows lists of up to so many elements.
    #[must_use]
    pub fn with_list_length_max(mut self, elements: usize) -> Self {
        self.list_length_max = elements;
        self
    }

    /// Sets a value of the current row.
    ///
    /// # Errors
    /// No input has this name, the row has its value already, or the value is of another type, out of range,
    /// or too long. The row is as before.
    pub fn set(&mut self, name: &str, value: RawValue<'_>) -> Result<(), RawValueError> {
        let Some(&index) = self.positions.get(name) else {
            let nearest = nearest(name, self.inputs.iter().map(|input| input.name.as_str()))
                .map(str::to_owned);
            return Err(RawValueError::Unknown {
                name: name.to_owned(),
                nearest,
            });
        };
        if self.given[index] {
            return Err(RawValueError::Twice {
                name: name.to_owned(),
            });
        }
        if value == RawValue::Missing {
            return Ok(());
        }
        let input = &self.inputs[index];
        match &mut self.batch.columns[index] {
            RawColumn::Dense(values) => values.push(number(input, value)?),
            RawColumn::Key(keys) => keys.push(key_of(input, value)?),
            RawColumn::Time(times) => times.push(time(input, value)?),
            RawColumn::KeyList { offsets, keys } => {
                push_list(input, value, self.list_length_max, keys)?;
                offsets.push(keys.len() as u32);
            }
        }
        self.given[index] = true;
        Ok(())
    }

    /// Ends the current row: inputs without a value are missing.
    ///
    /// # Errors
    /// A required input has no value. The row is dropped.
    pub fn end_row(&mut self) -> Result<(), RawValueError> {
        let lacking = self
            .inputs
            .iter()
            .zip(&self.given)
            .find(|(input, given)| input.required && !**given);
        if let Some((input, _)) = lacking {
            let error = RawValueError::Required {
                name: input.name.clone(),
                expected: expectation(input),
            };
            self.drop_row();
            return Err(error);
        }
        for (column, given) in self.batch.columns.iter_mut().zip(&mut self.given) {
            if !std::mem::take(given) {
                column.push_missing();
            }
        }
        self.batch.rows += 1;
        Ok(())
    }

    /// Drops the current row's values.
    pub fn drop_row(&mut self) {
        self.given.fill(false);
        for column in &mut self.batch.columns {
            column.truncate(self.batch.rows);
        }
    }

    /// The rows that were ended. Values of a row that was not are an inconsistency that
    /// [`RawBatch::check`] finds.
    pub fn batch(&self) -> &RawBatch {
        &self.batch
    }

    /// Starts over and keeps the memory.
    pub fn clear(&mut self) {
        self.batch.clear();
        self.given.fill(false);
    }

    /// The rows that were ended, an unfinished one dropped.
    pub fn finish(mut self) -> RawBatch {
        self.drop_row();
        self.batch
    }
}

fn wrong_type(input: &InputColumn, value: RawValue<'_>) -> RawValueError {
    RawValueError::Type {
        name: input.name.clone(),
        expected: expectation(input),
        got: value.to_string(),
    }
}

fn in_range(input: &InputColumn, number: f64, value: RawValue<'_>) -> Result<(), RawValueError> {
    match input.range {
        Some([low, high]) if !(low..=high).contains(&number) => Err(RawValueError::Range {
            name: input.name.clone(),
            low,
            high,
            unit: input
                .unit
                .as_ref()
                .map(|unit| format!(" {unit}"))
                .unwrap_or_default(),
            got: value.to_string(),
        }),
        _ => Ok(()),
    }
}

fn number(input: &InputColumn, value: RawValue<'_>) -> Result<f32, RawValueError> {
    let number = match (input.source, value) {
        (SourceType::Integer | SourceType::Float, RawValue::Integer(value)) => value as f64,
        (SourceType::Float, RawValue::Float(value)) => value,
        // JSON writers of some languages send 3.0 for the integer 3.
        (SourceType::Integer, RawValue::Float(value)) if value.fract() == 0.0 => value,
        (SourceType::Boolean, RawValue::Boolean(value)) => f64::from(u8::from(value)),
        _ => return Err(wrong_type(input, value)),
    };
    in_range(input, number, value)?;
    let single = number as f32;
    if single.is_finite() {
        Ok(single)
    } else {
        Err(wrong_type(input, value))
    }
}

fn key_of(input: &InputColumn, value: RawValue<'_>) -> Result<u64, RawValueError> {
    match (input.source, value) {
        (SourceType::Integer, RawValue::Integer(integer)) => {
            in_range(input, integer as f64, value)?;
            key::from_integer(integer).map_err(|_| wrong_type(input, value))
        }
        (SourceType::Text, RawValue::Text(text)) => Ok(key::from_text(text)),
        (SourceType::Boolean, RawValue::Boolean(value)) => Ok(key::from_boolean(value)),
        // An integer's key is the integer, so that its range still says something.
        (SourceType::Integer, RawValue::Key(key)) => key_of(input, RawValue::Integer(key as i64)),
        (SourceType::Text | SourceType::Boolean, RawValue::Key(key)) if key != key::MISSING_KEY => {
            Ok(key)
        }
        _ => Err(wrong_type(input, value)),
    }
}

fn time(input: &InputColumn, value: RawValue<'_>) -> Result<i64, RawValueError> {
    let milliseconds = match value {
        RawValue::Integer(value) => Timestamp::from_millisecond(value).ok(),
        RawValue::Text(text) => text.parse::<Timestamp>().ok(),
        _ => None,
    };
    let milliseconds = milliseconds
        .ok_or_else(|| wrong_type(input, value))?
        .as_millisecond();
    in_range(input, milliseconds as f64, value)?;
    Ok(milliseconds)
}

fn push_list(
    input: &InputColumn,
    value: RawValue<'_>,
    most: usize,
    keys: &mut Vec<u64>,
) -> Result<(), RawValueError> {
    let RawValue::List(values) = value else {
        return Err(wrong_type(input, value));
    };
    if values.len() > most || keys.len() + values.len() > u32::MAX as usize {
        return Err(RawValueError::Length {
            name: input.name.clone(),
            most,
            got: values.len(),
        });
    }
    let before = keys.len();
    for &value in values {
        match key_of(input, value) {
            Ok(key) => keys.push(key),
            Err(error) => {
                keys.truncate(before);
                return Err(error);
            }
        }
    }
    Ok(())
}

/// What an input takes, in words.
fn expectation(input: &InputColumn) -> String {
    let one = match input.source {
        SourceType::Integer => "an integer",
        SourceType::Float => "a finite number",
        SourceType::Text => "text",
        SourceType::Boolean => "true or false",
        SourceType::Timestamp => "milliseconds since 1970 (UTC) or an RFC 3339 time",
    };
    let unit = input
        .unit
        .as_ref()
        .map(|unit| format!(" ({unit})"))
        .unwrap_or_default();
    match input.kind {
        ColumnKind::KeyList => format!("a list, each element {one}{unit}"),
        _ => format!("{one}{unit}"),
    }
}

/// A value that an input does not take.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[allow(missing_docs)] // The messages tell.
pub enum RawValueError {
    #[error("`{name}` is no input of the model{}", suggestion(nearest))]
    Unknown {
        name: String,
        nearest: Option<String>,
    },
    #[error("`{name}` has two values in one row")]
    Twice { name: String },
    #[error("`{name}` is required and has no value: expected {expected}")]
    Required { name: String, expected: String },
    #[error("`{name}`: expected {expected}, got {got}")]
    Type {
        name: String,
        expected: String,
        got: String,
    },
    #[error("`{name}`: expected {low} to {high}{unit}, got {got}")]
    Range {
        name: String,
        low: f64,
        high: f64,
        unit: String,
        got: String,
    },
    #[error("`{name}`: expected a list of at most {most} elements, got {got}")]
    Length {
        name: String,
        most: usize,
        got: usize,
    },
}

impl RawValueError {
    /// The name of the value.
    pub fn name(&self) -> &str {
        match self {
            Self::Unknown { name, .. }
            | Self::Twice { name }
            | Self::Required { name, .. }
            | Self::Type { name, .. }
            | Self::Range { name, .. }
            | Self::Length { name, .. } => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{MISSING_KEY, MISSING_TIME};

    fn inputs() -> Vec<InputColumn> {
        let input = |name: &str, kind, source| InputColumn {
            name: name.into(),
            kind,
            source,
            unit: None,
            range: None,
            required: false,
        };
        vec![
            InputColumn {
                unit: Some("seconds".into()),
                range: Some([0.0, 60.0]),
                ..input("length", ColumnKind::Dense, SourceType::Float)
            },
            InputColumn {
                required: true,
                ..input("user", ColumnKind::Key, SourceType::Integer)
            },
            input("tags", ColumnKind::KeyList, SourceType::Text),
            input("at", ColumnKind::Time, SourceType::Timestamp),
            input("new", ColumnKind::Key, SourceType::Boolean),
        ]
    }

    #[test]
    fn values_become_raw_columns() {
        let inputs = inputs();
        let mut builder = RawBatchBuilder::new(&inputs);
        builder.set("length", RawValue::Integer(30)).unwrap();
        builder.set("user", RawValue::Integer(-7)).unwrap();
        builder
            .set(
                "tags",
                RawValue::List(&[RawValue::Text("a"), RawValue::Text("b")]),
            )
            .unwrap();
        builder
            .set("at", RawValue::Text("1970-01-01T00:00:01Z"))
            .unwrap();
        builder.set("new", RawValue::Boolean(true)).unwrap();
        builder.end_row().unwrap();
        builder.set("user", RawValue::Integer(8)).unwrap();
        builder.set("at", RawValue::Missing).unwrap();
        builder.end_row().unwrap();
        let batch = builder.finish();
        batch.check(&inputs).unwrap();
        let expected = vec![
            RawColumn::Dense(vec![30.0, f32::NAN]),
            RawColumn::Key(vec![-7i64 as u64, 8]),
            RawColumn::KeyList {
                offsets: vec![0, 2, 2],
                keys: vec![key::from_text("a"), key::from_text("b")],
            },
            RawColumn::Time(vec![1000, MISSING_TIME]),
            RawColumn::Key(vec![1, MISSING_KEY]),
        ];
        assert_eq!(
            batch,
            RawBatch {
                rows: 2,
                columns: expected
            }
        );
    }

    #[test]
    fn refusals_name_field_expectation_and_value() {
        let inputs = inputs();
        let mut builder = RawBatchBuilder::new(&inputs).with_list_length_max(2);
        let tags = [RawValue::Text("a"); 3];
        let cases = [
            (
                "user",
                RawValue::Text("x"),
                "`user`: expected an integer, got the text \"x\"",
            ),
            (
                "user",
                RawValue::Float(1.5),
                "`user`: expected an integer, got the number 1.5",
            ),
            (
                "user",
                RawValue::Integer(i64::MIN),
                "expected an integer, got the integer -9223372036854775808",
            ),
            (
                "length",
                RawValue::Integer(61),
                "`length`: expected 0 to 60 seconds, got the integer 61",
            ),
            (
                "length",
                RawValue::Float(f64::NAN),
                "expected 0 to 60 seconds, got the number NaN",
            ),
            (
                "length",
                RawValue::Boolean(true),
                "expected a finite number (seconds), got true",
            ),
            (
                "tags",
                RawValue::Text("a"),
                "expected a list, each element text, got the text \"a\"",
            ),
            (
                "tags",
                RawValue::List(&tags),
                "`tags`: expected a list of at most 2 elements, got 3",
            ),
            (
                "tags",
                RawValue::List(&[RawValue::Text("a"), RawValue::Missing]),
                "got no value",
            ),
            (
                "at",
                RawValue::Text("yesterday"),
                "an RFC 3339 time, got the text \"yesterday\"",
            ),
            ("lenght", RawValue::Integer(1), "did you mean `length`?"),
        ];
        for (name, value, expected) in cases {
            let error = builder.set(name, value).unwrap_err();
            assert!(
                error.to_string().contains(expected),
                "{error} should contain {expected}"
            );
            assert_eq!(error.name(), name);
        }
        let required = builder.end_row().unwrap_err().to_string();
        assert_eq!(
            required,
            "`user` is required and has no value: expected an integer"
        );
        builder.set("user", RawValue::Integer(1)).unwrap();
        assert!(matches!(
            builder.set("user", RawValue::Integer(2)),
            Err(RawValueError::Twice { .. })
        ));
    }

    #[test]
    fn a_refused_row_leaves_no_trace() {
        let inputs = inputs();
        let mut builder = RawBatchBuilder::new(&inputs);
        builder.set("user", RawValue::Integer(1)).unwrap();
        builder.end_row().unwrap();
        builder
            .set("tags", RawValue::List(&[RawValue::Text("a")]))
            .unwrap();
        builder.set("length", RawValue::Float(1.0)).unwrap();
        builder.end_row().unwrap_err();
        assert_eq!(builder.batch().rows, 1);
        builder.batch().check(&inputs).unwrap();
    }
}
