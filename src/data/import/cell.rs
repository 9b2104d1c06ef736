//! One field as a file gives it, and the plain values it may be read as.

use std::fmt;

use arrow::array::{Int64Array, StringArray, UInt64Array};
use streamrec_artifact::LIST_LENGTH_MAX;

use super::number;

/// One field as the file gives it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cell<'a> {
    Null,
    Text(&'a [u8]),
    Integer(i64),
    /// Beyond what [`Cell::Integer`] holds.
    Unsigned(u64),
    Float(f64),
    /// A number in decimal digits: all of those that the file has.
    Decimal(&'a [u8]),
    Boolean(bool),
    /// Milliseconds since the epoch.
    Time(i64),
    /// The same, of a clock of which the file does not say where it hangs.
    LocalTime(i64),
    /// The elements of a list column's values from the first place up to the second.
    Integers(&'a Int64Array, usize, usize),
    Unsigneds(&'a UInt64Array, usize, usize),
    Texts(&'a StringArray, usize, usize),
    /// A value that the type it is read as cannot hold.
    OutOfRange,
}

impl Cell<'_> {
    /// Of an unsigned integer: most fit a signed one.
    pub(super) fn unsigned(value: u64) -> Self {
        i64::try_from(value).map_or(Self::Unsigned(value), Self::Integer)
    }
}

/// Why a field is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Utf8,
    Integer,
    Number,
    NotFinite,
    Boolean,
    Timestamp,
    NoOffset,
    Label,
    Missing,
    ReservedKey,
    LongList,
    OutOfRange,
    Type,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Utf8 => "is not valid UTF-8",
            Self::Integer => "is not a 64-bit integer",
            Self::OutOfRange => "is beyond what 64 bits hold",
            Self::Number => "is not a number",
            Self::NotFinite => {
                "does not fit a 32-bit float; name it in `null` if it stands for a missing value"
            }
            Self::Boolean => "is not 0, 1, true or false",
            Self::Timestamp => "is not a timestamp of the schema's format",
            Self::NoOffset => "has no offset from UTC; give the column a `time_zone`",
            Self::Label => "is not 0 or 1; give the label `at_least` or `equals`",
            Self::Missing => "is missing, and labels and times may not be",
            Self::ReservedKey => "is the one integer that cannot be a key",
            Self::LongList => {
                return write!(
                    f,
                    "has more than {LIST_LENGTH_MAX} elements, the most of a list"
                );
            }
            Self::Type => "has another type than the schema says",
        })
    }
}

#[inline]
pub(super) fn integer(cell: Cell<'_>) -> Result<i64, Fault> {
    match cell {
        Cell::Text(text) | Cell::Decimal(text) => number::integer(text).ok_or(Fault::Integer),
        Cell::Integer(value) => Ok(value),
        Cell::Boolean(value) => Ok(i64::from(value)),
        // Beyond 2^53 a double no longer tells neighbouring integers apart.
        Cell::Float(value) if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 => {
            Ok(value as i64)
        }
        Cell::Float(_) | Cell::Unsigned(_) => Err(Fault::Integer),
        _ => Err(Fault::Type),
    }
}

#[inline]
pub(super) fn float(cell: Cell<'_>) -> Result<f64, Fault> {
    match cell {
        Cell::Text(text) | Cell::Decimal(text) => number::float(text).ok_or(Fault::Number),
        Cell::Integer(value) => Ok(value as f64),
        Cell::Unsigned(value) => Ok(value as f64),
        Cell::Float(value) => Ok(value),
        Cell::Boolean(value) => Ok(f64::from(u8::from(value))),
        _ => Err(Fault::Type),
    }
}

pub(super) fn boolean(cell: Cell<'_>) -> Result<bool, Fault> {
    match cell {
        Cell::Boolean(value) => Ok(value),
        Cell::Text(b"1" | b"true" | b"True" | b"TRUE" | b"1.0") => Ok(true),
        Cell::Text(b"0" | b"false" | b"False" | b"FALSE" | b"0.0") => Ok(false),
        Cell::Text(_) => Err(Fault::Boolean),
        _ => match float(cell)? {
            0.0 => Ok(false),
            1.0 => Ok(true),
            _ => Err(Fault::Boolean),
        },
    }
}
