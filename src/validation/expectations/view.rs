//! Columns of a batch as expectations see them: few types, and which values are there.

use std::cmp::Ordering;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArray};
use arrow::buffer::{BooleanBuffer, Buffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType, UInt64Type,
};
use serde_json::Value;

use super::literal::Literal;

/// Texts that pandas reads from CSV as missing.
const CSV_MISSING: [&str; 18] = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan",
];

/// One column of a batch.
#[derive(Debug)]
pub(super) struct View {
    pub(super) values: Values,
    /// Which rows have a value; a number that is NaN is none.
    pub(super) valid: BooleanBuffer,
    pub(super) valid_count: usize,
}

/// The values of a column.
#[derive(Debug)]
pub(super) enum Values {
    Integers(ScalarBuffer<i64>),
    Unsigneds(ScalarBuffer<u64>),
    Numbers(ScalarBuffer<f64>),
    Booleans(BooleanArray),
    /// `true` where any text may stand for a number, as in CSV.
    Texts(StringArray, bool),
    /// Microseconds since the epoch.
    Times(ScalarBuffer<i64>),
    /// Lists and others: they are there or not.
    Opaque,
}

impl View {
    /// A column; `from_text` where the file holds nothing but text.
    pub(super) fn new(array: &ArrayRef, from_text: bool) -> Result<Self, String> {
        let as_type = |to: &DataType| cast(array, to).map_err(|error| error.to_string());
        let values = match array.data_type() {
            DataType::UInt64 => {
                Values::Unsigneds(array.as_primitive::<UInt64Type>().values().clone())
            }
            kind if kind.is_integer() => {
                let array = as_type(&DataType::Int64)?;
                Values::Integers(array.as_primitive::<Int64Type>().values().clone())
            }
            kind if kind.is_floating() || kind.is_decimal() => {
                let array = as_type(&DataType::Float64)?;
                Values::Numbers(array.as_primitive::<Float64Type>().values().clone())
            }
            DataType::Boolean => Values::Booleans(array.as_boolean().clone()),
            DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Dictionary(..) => {
                let array = as_type(&DataType::Utf8)?;
                Values::Texts(array.as_string::<i32>().clone(), from_text)
            }
            DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
                let array = as_type(&DataType::Timestamp(TimeUnit::Microsecond, None))?;
                Values::Times(
                    array
                        .as_primitive::<TimestampMicrosecondType>()
                        .values()
                        .clone(),
                )
            }
            _ => Values::Opaque,
        };
        let nulls = array.logical_nulls().filter(|nulls| nulls.null_count() > 0);
        let there = match &values {
            Values::Numbers(numbers) => Some(collect(numbers, |number| !number.is_nan())),
            Values::Texts(texts, true) => Some(BooleanBuffer::collect_bool(array.len(), |row| {
                !CSV_MISSING.contains(&texts.value(row))
            })),
            _ => None,
        };
        let valid = match (nulls, there) {
            (Some(nulls), Some(there)) => nulls.inner() & &there,
            (Some(nulls), None) => nulls.into_inner(),
            (None, Some(there)) => there,
            (None, None) => BooleanBuffer::new_set(array.len()),
        };
        let valid_count = valid.count_set_bits();
        Ok(Self {
            values,
            valid,
            valid_count,
        })
    }

    pub(super) fn rows(&self) -> usize {
        self.valid.len()
    }

    /// The value of a row as a number, where it is one.
    pub(super) fn number(&self, row: usize) -> Option<f64> {
        if !self.valid.value(row) {
            return None;
        }
        match &self.values {
            Values::Integers(values) => Some(values[row] as f64),
            Values::Unsigneds(values) => Some(values[row] as f64),
            Values::Numbers(values) => Some(values[row]),
            Values::Booleans(values) => Some(f64::from(u8::from(values.value(row)))),
            Values::Texts(values, true) => number_of(values.value(row)),
            _ => None,
        }
    }

    /// The order of a row's value to a literal; none where they cannot be compared.
    pub(super) fn order(&self, row: usize, literal: &Literal) -> Option<Ordering> {
        match (&self.values, literal) {
            (Values::Integers(values), Literal::Integer(other)) => Some(values[row].cmp(other)),
            (Values::Texts(values, _), Literal::Text(other)) => Some(values.value(row).cmp(other)),
            (Values::Times(values), literal) => Some(values[row].cmp(&literal.micros()?)),
            (Values::Texts(values, true), Literal::Boolean(other)) => match values.value(row) {
                "True" | "true" | "TRUE" => Some(true.cmp(other)),
                "False" | "false" | "FALSE" => Some(false.cmp(other)),
                _ => None,
            },
            _ => self.number(row)?.partial_cmp(&literal.number()?),
        }
    }

    /// The order of two columns' values of a row; none where one is missing or they cannot be compared.
    pub(super) fn order_to(&self, other: &Self, row: usize) -> Option<Ordering> {
        if !self.valid.value(row) || !other.valid.value(row) {
            return None;
        }
        match (&self.values, &other.values) {
            (Values::Integers(a), Values::Integers(b)) | (Values::Times(a), Values::Times(b)) => {
                Some(a[row].cmp(&b[row]))
            }
            (Values::Unsigneds(a), Values::Unsigneds(b)) => Some(a[row].cmp(&b[row])),
            (Values::Texts(a, lenient), Values::Texts(b, _)) => {
                let (a, b) = (a.value(row), b.value(row));
                match (number_of(a), number_of(b)) {
                    (Some(a), Some(b)) if *lenient => a.partial_cmp(&b),
                    _ => Some(a.cmp(b)),
                }
            }
            _ => self.number(row)?.partial_cmp(&other.number(row)?),
        }
    }

    /// Whether two columns can be compared at all.
    pub(super) fn compares_with(&self, other: &Self) -> bool {
        let class = |values: &Values| match values {
            Values::Texts(..) => 1,
            Values::Times(_) => 2,
            Values::Opaque => 3,
            _ => 0,
        };
        class(&self.values) == class(&other.values) && class(&self.values) != 3
    }

    /// Appends what identifies a row's value: equal values have equal bytes.
    pub(super) fn identity(&self, row: usize, bytes: &mut Vec<u8>) {
        if !self.valid.value(row) {
            bytes.push(0);
            return;
        }
        bytes.push(1);
        match &self.values {
            Values::Integers(values) | Values::Times(values) => {
                bytes.extend_from_slice(&values[row].to_le_bytes());
            }
            Values::Unsigneds(values) => bytes.extend_from_slice(&values[row].to_le_bytes()),
            // Zeros of both signs are equal.
            Values::Numbers(values) => bytes.extend_from_slice(&(values[row] + 0.0).to_le_bytes()),
            Values::Booleans(values) => bytes.push(u8::from(values.value(row))),
            Values::Texts(values, lenient) => {
                let text = values.value(row);
                match number_of(text).filter(|_| *lenient) {
                    Some(number) => bytes.extend_from_slice(&(number + 0.0).to_le_bytes()),
                    None => {
                        bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
                        bytes.extend_from_slice(text.as_bytes());
                    }
                }
            }
            Values::Opaque => {}
        }
    }

    /// A row's value as JSON.
    pub(super) fn json(&self, row: usize) -> Value {
        if !self.valid.value(row) {
            return Value::Null;
        }
        match &self.values {
            Values::Integers(values) => values[row].into(),
            Values::Unsigneds(values) => values[row].into(),
            Values::Numbers(values) if values[row].is_finite() => values[row].into(),
            Values::Numbers(values) => values[row].to_string().into(),
            Values::Booleans(values) => values.value(row).into(),
            Values::Texts(values, lenient) => {
                let text = values.value(row);
                let integer = text.parse::<i64>().ok().map(Value::from);
                let number = || {
                    number_of(text)
                        .filter(|number| number.is_finite())
                        .map(Value::from)
                };
                match integer.or_else(number).filter(|_| *lenient) {
                    Some(number) => number,
                    None => text.into(),
                }
            }
            Values::Times(values) => match jiff::Timestamp::from_microsecond(values[row]) {
                Ok(moment) => moment.to_string().into(),
                Err(_) => values[row].into(),
            },
            Values::Opaque => "...".into(),
        }
    }
}

/// The number that a text of a CSV file is.
pub(super) fn number_of(text: &str) -> Option<f64> {
    text.trim().parse().ok()
}

/// A bit for each value.
pub(super) fn collect<T: Copy>(values: &[T], holds: impl Fn(T) -> bool) -> BooleanBuffer {
    let (whole, rest) = values.as_chunks::<64>();
    let mut words = Vec::with_capacity(values.len().div_ceil(64));
    for values in whole {
        // Most values are as they should be, and this has no branch for each.
        let all = values.iter().fold(true, |all, &value| all & holds(value));
        words.push(if all { u64::MAX } else { bits(values, &holds) });
    }
    if !rest.is_empty() {
        words.push(bits(rest, &holds));
    }
    BooleanBuffer::new(Buffer::from_vec(words), 0, values.len())
}

/// A bit for each of up to 64 values, the lowest of the first.
fn bits<T: Copy>(values: &[T], holds: impl Fn(T) -> bool) -> u64 {
    let bits = values.iter().enumerate();
    bits.fold(0, |bits, (place, &value)| {
        bits | u64::from(holds(value)) << place
    })
}
