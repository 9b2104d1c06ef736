//! From values as they were sent to raw columns: what a server does with a request.

use std::fmt;

use jiff::Timestamp;

use crate::excerpt::excerpt;
use crate::input::{ColumnKind, InputColumn, SourceType};
use crate::key;
use crate::raw::RawColumn;

/// The most elements of a list, in the rows of a request and in those that a model is trained on,
/// so that a server takes whatever the training data holds.
/// [`RawColumnBuilder::with_list_length_max`] sets another limit.
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
}

impl fmt::Display for RawValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("no value"),
            Self::Integer(value) => write!(f, "the integer {value}"),
            Self::Float(value) => write!(f, "the number {value}"),
            Self::Text(text) => write!(f, "the text {:?}", excerpt(text)),
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Key(key) => write!(f, "the key {key}"),
        }
    }
}

/// Builds the [`RawColumn`] of one input, and refuses what the schema does not allow. After a
/// refusal the column is of no use.
///
/// ```
/// use streamrec_artifact::{ColumnKind, InputColumn, RawColumn, RawColumnBuilder, RawValue, SourceType};
///
/// let input = InputColumn {
///     name: "age".to_owned(),
///     kind: ColumnKind::Dense,
///     source: SourceType::Float,
///     unit: Some("years".to_owned()),
///     range: Some([0.0, 150.0]),
///     required: true,
/// };
/// let mut builder = RawColumnBuilder::new(&input);
/// builder.push(RawValue::Integer(30))?;
/// assert_eq!(builder.finish(), RawColumn::Dense(vec![30.0]));
///
/// let refused = RawColumnBuilder::new(&input).push(RawValue::Float(200.0)).unwrap_err();
/// assert_eq!(refused.to_string(), "`age`: expected 0 to 150 years, got the number 200");
/// # Ok::<(), streamrec_artifact::RawValueError>(())
/// ```
#[derive(Debug, Clone)]
pub struct RawColumnBuilder<'a> {
    input: &'a InputColumn,
    list_length_max: usize,
    column: RawColumn,
}

impl<'a> RawColumnBuilder<'a> {
    /// A builder of a column without rows.
    pub fn new(input: &'a InputColumn) -> Self {
        Self {
            input,
            list_length_max: LIST_LENGTH_MAX,
            column: RawColumn::new(input.kind),
        }
    }

    /// Allows lists of up to so many elements.
    #[must_use]
    pub fn with_list_length_max(mut self, elements: usize) -> Self {
        self.list_length_max = elements;
        self
    }

    /// The input whose values these are.
    pub fn input(&self) -> &'a InputColumn {
        self.input
    }

    /// The number of rows so far.
    pub fn rows(&self) -> usize {
        self.column.rows()
    }

    /// Appends a row of one value. A list has its elements by [`push_element`](Self::push_element)
    /// instead, and only its absence by this.
    ///
    /// # Errors
    /// The value is of another type or out of range, or the input is required and this is no value.
    #[inline]
    pub fn push(&mut self, value: RawValue<'_>) -> Result<(), RawValueError> {
        let input = self.input;
        if value == RawValue::Missing {
            if input.required {
                return Err(RawValueError::Required {
                    name: input.name.clone(),
                    expected: expectation(input),
                });
            }
            self.column.push_missing();
            return Ok(());
        }
        match &mut self.column {
            RawColumn::Dense(values) => values.push(number(input, value)?),
            RawColumn::Key(keys) => keys.push(key_of(input, value)?),
            RawColumn::Time(times) => times.push(time(input, value)?),
            RawColumn::KeyList { .. } => return Err(wrong_type(input, value)),
        }
        Ok(())
    }

    /// Appends an element to the list of the row that [`end_list`](Self::end_list) ends.
    ///
    /// # Errors
    /// The input takes no lists, the list is full, or the element is of another type or out of range.
    #[inline]
    pub fn push_element(&mut self, value: RawValue<'_>) -> Result<(), RawValueError> {
        let input = self.input;
        let RawColumn::KeyList { offsets, keys } = &mut self.column else {
            return Err(wrong_type(input, value));
        };
        let begin = offsets.last().map_or(0, |&end| end as usize);
        if keys.len() - begin >= self.list_length_max || keys.len() >= u32::MAX as usize {
            return Err(RawValueError::Length {
                name: input.name.clone(),
                most: self.list_length_max,
            });
        }
        keys.push(key_of(input, value)?);
        Ok(())
    }

    /// Ends a row: the elements since the last one are its list. Other columns than lists ignore it.
    pub fn end_list(&mut self) {
        if let RawColumn::KeyList { offsets, keys } = &mut self.column {
            offsets.push(keys.len() as u32);
        }
    }

    /// The rows.
    pub fn finish(self) -> RawColumn {
        self.column
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
    #[error("`{name}`: expected a list of at most {most} elements, got more")]
    Length { name: String, most: usize },
}

impl RawValueError {
    /// The name of the value.
    pub fn name(&self) -> &str {
        match self {
            Self::Required { name, .. }
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

    fn input(kind: ColumnKind, source: SourceType) -> InputColumn {
        InputColumn {
            name: "it".into(),
            kind,
            source,
            unit: None,
            range: None,
            required: false,
        }
    }

    fn length() -> InputColumn {
        InputColumn {
            unit: Some("seconds".into()),
            range: Some([0.0, 60.0]),
            ..input(ColumnKind::Dense, SourceType::Float)
        }
    }

    #[test]
    fn values_become_raw_columns() {
        let cases = [
            (
                length(),
                RawValue::Integer(30),
                RawColumn::Dense(vec![30.0, f32::NAN]),
            ),
            (
                input(ColumnKind::Key, SourceType::Integer),
                RawValue::Integer(-7),
                RawColumn::Key(vec![-7i64 as u64, MISSING_KEY]),
            ),
            (
                input(ColumnKind::Time, SourceType::Timestamp),
                RawValue::Text("1970-01-01T00:00:01Z"),
                RawColumn::Time(vec![1000, MISSING_TIME]),
            ),
            (
                input(ColumnKind::Key, SourceType::Boolean),
                RawValue::Boolean(true),
                RawColumn::Key(vec![1, MISSING_KEY]),
            ),
        ];
        for (input, value, expected) in cases {
            let mut builder = RawColumnBuilder::new(&input);
            builder.push(value).unwrap();
            builder.push(RawValue::Missing).unwrap();
            assert_eq!(builder.rows(), 2);
            assert_eq!(builder.finish(), expected);
        }
    }

    #[test]
    fn elements_become_lists() {
        let input = input(ColumnKind::KeyList, SourceType::Text);
        let mut builder = RawColumnBuilder::new(&input).with_list_length_max(2);
        for text in ["a", "b"] {
            builder.push_element(RawValue::Text(text)).unwrap();
        }
        builder.end_list();
        builder.push(RawValue::Missing).unwrap();
        builder.end_list();
        builder.push_element(RawValue::Text("c")).unwrap();
        builder.end_list();
        assert_eq!(
            builder.finish(),
            RawColumn::KeyList {
                offsets: vec![0, 2, 2, 2, 3],
                keys: ["a", "b", "c"].map(key::from_text).to_vec(),
            }
        );
    }

    #[test]
    fn refusals_name_field_expectation_and_value() {
        let user = InputColumn {
            required: true,
            ..input(ColumnKind::Key, SourceType::Integer)
        };
        let long = "x".repeat(1 << 20);
        let cases = [
            (
                user.clone(),
                RawValue::Text("x"),
                "`it`: expected an integer, got the text \"x\"",
            ),
            (
                user.clone(),
                RawValue::Float(1.5),
                "`it`: expected an integer, got the number 1.5",
            ),
            (
                user.clone(),
                RawValue::Integer(i64::MIN),
                "expected an integer, got the integer -9223372036854775808",
            ),
            (
                user,
                RawValue::Missing,
                "`it` is required and has no value: expected an integer",
            ),
            (
                length(),
                RawValue::Integer(61),
                "`it`: expected 0 to 60 seconds, got the integer 61",
            ),
            (
                length(),
                RawValue::Float(f64::NAN),
                "expected 0 to 60 seconds, got the number NaN",
            ),
            (
                length(),
                RawValue::Boolean(true),
                "expected a finite number (seconds), got true",
            ),
            (
                input(ColumnKind::KeyList, SourceType::Text),
                RawValue::Text("a"),
                "expected a list, each element text, got the text \"a\"",
            ),
            (
                input(ColumnKind::Time, SourceType::Timestamp),
                RawValue::Text("yesterday"),
                "an RFC 3339 time, got the text \"yesterday\"",
            ),
            (
                input(ColumnKind::Key, SourceType::Integer),
                RawValue::Text(&long),
                "xxx...",
            ),
        ];
        for (input, value, expected) in cases {
            let error = RawColumnBuilder::new(&input).push(value).unwrap_err();
            let told = error.to_string();
            assert!(told.contains(expected), "{told} should contain {expected}");
            assert!(told.len() < 200, "{told}");
            assert_eq!(error.name(), "it");
        }
    }

    #[test]
    fn an_element_that_does_not_fit_is_refused() {
        let input = input(ColumnKind::KeyList, SourceType::Text);
        let mut builder = RawColumnBuilder::new(&input).with_list_length_max(1);
        let missing = builder.push_element(RawValue::Missing).unwrap_err();
        assert!(missing.to_string().contains("got no value"), "{missing}");
        builder.push_element(RawValue::Text("a")).unwrap();
        assert_eq!(
            builder
                .push_element(RawValue::Text("b"))
                .unwrap_err()
                .to_string(),
            "`it`: expected a list of at most 1 elements, got more"
        );
        let length = length();
        let single = RawColumnBuilder::new(&length).push_element(RawValue::Integer(1));
        assert!(single.is_err());
    }
}
