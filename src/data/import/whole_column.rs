//! Whole columns of files with types of their own, where no value needs a look by itself.

use arrow::array::Array;
use arrow::buffer::NullBuffer;
use streamrec_artifact::{RawColumn, key};

use super::null::Null;
use super::parquet::{Column, Values};
use super::value::{Conversion, Rule};

impl Conversion {
    /// Puts a whole column of a file with types of its own into an empty one, where its values need no look each by
    /// itself; else leaves it empty and says so. The same as [`push`](Self::push) of each.
    pub(super) fn push_column(&self, column: &Column, to: &mut RawColumn) -> bool {
        let only_text_is_null = self.nulls.iter().all(Null::is_empty);
        if !only_text_is_null || self.required || self.first_until.is_some() || !column.holds_all()
        {
            return false;
        }
        match (to, &self.rule, &column.values) {
            (RawColumn::Dense(to), Rule::DenseFloat, Values::Floats(from)) => {
                to.extend(from.values().iter().map(|&value| value as f32));
                blank(to, from.nulls(), f32::NAN);
                // What is too great for single precision is told with its row.
                let fits = !to.iter().any(|value| value.is_infinite());
                if !fits {
                    to.clear();
                }
                fits
            }
            (
                RawColumn::Dense(to),
                Rule::DenseFloat | Rule::DenseInteger,
                Values::Integers(from),
            ) => {
                to.extend(from.values().iter().map(|&value| value as f64 as f32));
                blank(to, from.nulls(), f32::NAN);
                true
            }
            (RawColumn::Key(to), Rule::KeyInteger, Values::Integers(from)) => {
                // The one integer that is no key is told with its row.
                let fits = !from.iter().flatten().any(|value| value == i64::MIN);
                if fits {
                    to.extend(from.values().iter().map(|value| value.cast_unsigned()));
                    blank(to, from.nulls(), key::MISSING_KEY);
                }
                fits
            }
            (RawColumn::Key(to), Rule::KeyText, Values::Texts(from)) => {
                let empty = if self.nulls.is_empty() {
                    key::from_text("")
                } else {
                    key::MISSING_KEY
                };
                to.extend(from.iter().map(|text| match text {
                    None => key::MISSING_KEY,
                    Some("") => empty,
                    Some(text) => key::from_text(text),
                }));
                true
            }
            _ => false,
        }
    }
}

/// Puts `missing` in the place of every null.
fn blank<T: Copy>(values: &mut [T], nulls: Option<&NullBuffer>, missing: T) {
    let Some(nulls) = nulls.filter(|nulls| nulls.null_count() > 0) else {
        return;
    };
    for (value, there) in values.iter_mut().zip(nulls) {
        if !there {
            *value = missing;
        }
    }
}
