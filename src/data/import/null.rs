//! What stands for a missing value.

use super::cell::{Cell, boolean};
use super::number;

/// A text that stands for a missing value, and the values that it stands for where a file has types
/// of its own.
#[derive(Debug, Clone)]
pub(super) struct Null {
    text: Vec<u8>,
    integer: Option<i128>,
    number: Option<f64>,
    truth: Option<bool>,
    /// Milliseconds since the epoch.
    moment: Option<i64>,
}

impl Null {
    /// `moment` is what the text is as a timestamp of the column, if it is one.
    pub(super) fn new(text: &[u8], moment: Option<i64>) -> Self {
        Self {
            text: text.to_vec(),
            integer: number::whole(text),
            number: number::float(text),
            truth: boolean(Cell::Text(text)).ok(),
            moment,
        }
    }

    /// Whether it is the empty text, which only text can be.
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Whether `cell` is this value.
    #[inline]
    pub(super) fn is(&self, cell: Cell<'_>) -> bool {
        match cell {
            Cell::Text(text) => self.text == text,
            Cell::Integer(value) => self.integer == Some(value.into()),
            Cell::Unsigned(value) => self.integer == Some(value.into()),
            Cell::Float(value) => self.number == Some(value),
            // Digits beyond those of a double count where both are whole.
            Cell::Decimal(digits) => match (self.integer, number::whole(digits)) {
                (Some(own), Some(value)) => own == value,
                (None, None) => self.number.is_some() && self.number == number::float(digits),
                _ => false,
            },
            Cell::Boolean(value) => self.truth == Some(value),
            Cell::Time(milliseconds) => self.moment == Some(milliseconds),
            _ => false,
        }
    }
}
