//! Raw values: the common ground of packed data, requests and golden examples. Nothing raw is fitted.

use crate::input::{ColumnKind, InputColumn, SourceType};
use crate::key::{MISSING_KEY, MISSING_TIME};

/// The values of one column over the rows of a batch.
#[derive(Debug, Clone)]
pub enum RawColumn {
    /// Numbers, `[rows]`; NaN is missing.
    Dense(Vec<f32>),
    /// Keys, `[rows]`; [`MISSING_KEY`] is missing.
    Key(Vec<u64>),
    /// Row `r` holds `keys[offsets[r]..offsets[r + 1]]`; missing is empty.
    KeyList {
        /// Where each row begins, `[rows + 1]`, from 0.
        offsets: Vec<u32>,
        /// The keys of all rows, one row after the other.
        keys: Vec<u64>,
    },
    /// Milliseconds since the epoch UTC, `[rows]`; [`MISSING_TIME`] is missing.
    Time(Vec<i64>),
}

impl RawColumn {
    /// An empty column.
    pub fn new(kind: ColumnKind) -> Self {
        match kind {
            ColumnKind::Dense => Self::Dense(Vec::new()),
            ColumnKind::Key => Self::Key(Vec::new()),
            ColumnKind::KeyList => Self::KeyList {
                offsets: vec![0],
                keys: Vec::new(),
            },
            ColumnKind::Time => Self::Time(Vec::new()),
        }
    }

    /// How its values are held.
    pub fn kind(&self) -> ColumnKind {
        match self {
            Self::Dense(_) => ColumnKind::Dense,
            Self::Key(_) => ColumnKind::Key,
            Self::KeyList { .. } => ColumnKind::KeyList,
            Self::Time(_) => ColumnKind::Time,
        }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Dense(values) => values.len(),
            Self::Key(keys) => keys.len(),
            Self::KeyList { offsets, .. } => offsets.len().saturating_sub(1),
            Self::Time(times) => times.len(),
        }
    }

    /// The number of rows without a value: not finite, missing, or an empty list.
    pub fn missing_rows(&self) -> u64 {
        let missing = match self {
            Self::Dense(values) => values.iter().filter(|value| !value.is_finite()).count(),
            Self::Key(keys) => keys.iter().filter(|&&key| key == MISSING_KEY).count(),
            Self::KeyList { offsets, .. } => offsets
                .windows(2)
                .filter(|bounds| bounds[0] == bounds[1])
                .count(),
            Self::Time(times) => times.iter().filter(|&&time| time == MISSING_TIME).count(),
        };
        missing as u64
    }

    /// Removes all rows and keeps the memory.
    pub fn clear(&mut self) {
        match self {
            Self::Dense(values) => values.clear(),
            Self::Key(keys) => keys.clear(),
            Self::KeyList { offsets, keys } => {
                offsets.clear();
                offsets.push(0);
                keys.clear();
            }
            Self::Time(times) => times.clear(),
        }
    }

    /// Appends a row without a value.
    pub fn push_missing(&mut self) {
        match self {
            Self::Dense(values) => values.push(f32::NAN),
            Self::Key(keys) => keys.push(MISSING_KEY),
            Self::KeyList { offsets, .. } => offsets.push(offsets.last().copied().unwrap_or(0)),
            Self::Time(times) => times.push(MISSING_TIME),
        }
    }

    /// Appends row `row` of `other`, a column of the same kind.
    ///
    /// # Panics
    /// If the kinds differ, `row` is out of bounds, or a list column would pass `u32::MAX` keys.
    pub fn push_row_of(&mut self, other: &RawColumn, row: usize) {
        match (self, other) {
            (Self::Dense(to), Self::Dense(from)) => to.push(from[row]),
            (Self::Key(to), Self::Key(from)) => to.push(from[row]),
            (Self::Time(to), Self::Time(from)) => to.push(from[row]),
            (
                Self::KeyList { offsets, keys },
                Self::KeyList {
                    offsets: starts,
                    keys: from,
                },
            ) => {
                keys.extend_from_slice(&from[starts[row] as usize..starts[row + 1] as usize]);
                assert!(
                    keys.len() <= u32::MAX as usize,
                    "a batch holds at most u32::MAX list keys"
                );
                offsets.push(keys.len() as u32);
            }
            (to, from) => panic!("a {} row cannot join a {} column", from.kind(), to.kind()),
        }
    }

    /// How many values lie outside the range of `input`. Missing values and hashed text have none.
    pub(crate) fn count_out_of_range(&self, input: &InputColumn) -> u64 {
        let Some([low, high]) = input.range else {
            return 0;
        };
        let outside = |value: f64| !(low..=high).contains(&value);
        let count = match self {
            Self::Dense(values) => values
                .iter()
                .filter(|x| !x.is_nan() && outside(f64::from(**x)))
                .count(),
            Self::Key(keys) | Self::KeyList { keys, .. } if input.source == SourceType::Integer => {
                let values = keys.iter().filter(|&&key| key != MISSING_KEY);
                values
                    .filter(|key| outside(key.cast_signed() as f64))
                    .count()
            }
            Self::Key(_) | Self::KeyList { .. } => 0,
            Self::Time(times) => times
                .iter()
                .filter(|&&t| t != MISSING_TIME && outside(t as f64))
                .count(),
        };
        count as u64
    }

    /// Whether every length and offset is consistent.
    fn well_formed(&self) -> bool {
        match self {
            Self::KeyList { offsets, keys } => {
                offsets.first() == Some(&0)
                    && offsets.windows(2).all(|pair| pair[0] <= pair[1])
                    && offsets
                        .last()
                        .is_some_and(|&end| end as usize == keys.len())
            }
            _ => true,
        }
    }
}

impl PartialEq for RawColumn {
    /// Equal bits: two missing numbers are equal.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dense(a), Self::Dense(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
            }
            (Self::Key(a), Self::Key(b)) => a == b,
            (
                Self::KeyList {
                    offsets: a,
                    keys: x,
                },
                Self::KeyList {
                    offsets: b,
                    keys: y,
                },
            ) => a == b && x == y,
            (Self::Time(a), Self::Time(b)) => a == b,
            _ => false,
        }
    }
}

/// Raw values of some rows, its columns in the order of [`FeatureSchema::inputs`](crate::FeatureSchema::inputs).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RawBatch {
    /// The number of rows of every column.
    pub rows: usize,
    /// The columns.
    pub columns: Vec<RawColumn>,
}

impl RawBatch {
    /// An empty batch with a column for each of `inputs`.
    pub fn new(inputs: &[InputColumn]) -> Self {
        Self {
            rows: 0,
            columns: inputs
                .iter()
                .map(|input| RawColumn::new(input.kind))
                .collect(),
        }
    }

    /// Removes all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.rows = 0;
        self.columns.iter_mut().for_each(RawColumn::clear);
    }

    /// Appends a row without any value.
    pub fn push_missing(&mut self) {
        self.columns.iter_mut().for_each(RawColumn::push_missing);
        self.rows += 1;
    }

    /// Appends row `row` of `other`, a batch of the same columns.
    ///
    /// # Panics
    /// If the columns differ in number or kind, or `row` is out of bounds.
    pub fn push_row_of(&mut self, other: &RawBatch, row: usize) {
        assert_eq!(
            self.columns.len(),
            other.columns.len(),
            "both batches hold the same columns"
        );
        for (to, from) in self.columns.iter_mut().zip(&other.columns) {
            to.push_row_of(from, row);
        }
        self.rows += 1;
    }

    /// Checks that the columns are those of `inputs` and agree on the number of rows.
    ///
    /// # Errors
    /// Names the first column that differs.
    pub fn check(&self, inputs: &[InputColumn]) -> Result<(), RawBatchError> {
        if self.columns.len() != inputs.len() {
            return Err(RawBatchError::Columns {
                expected: inputs.len(),
                got: self.columns.len(),
            });
        }
        for (column, input) in self.columns.iter().zip(inputs) {
            let name = || input.name.clone();
            if column.kind() != input.kind {
                return Err(RawBatchError::Kind {
                    name: name(),
                    expected: input.kind,
                    got: column.kind(),
                });
            }
            if column.rows() != self.rows {
                return Err(RawBatchError::Rows {
                    name: name(),
                    expected: self.rows,
                    got: column.rows(),
                });
            }
            if !column.well_formed() {
                return Err(RawBatchError::Offsets { name: name() });
            }
        }
        Ok(())
    }
}

/// A batch that is not what the schema's inputs ask for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RawBatchError {
    /// Too few or too many columns.
    #[error("a raw batch has {got} columns, the schema has {expected} inputs")]
    Columns {
        /// Inputs of the schema.
        expected: usize,
        /// Columns of the batch.
        got: usize,
    },
    /// A column of another kind.
    #[error("column `{name}` is a {got} column, the schema's input is {expected}")]
    Kind {
        /// The input's name.
        name: String,
        /// The input's kind.
        expected: ColumnKind,
        /// The column's kind.
        got: ColumnKind,
    },
    /// A column of another length.
    #[error("column `{name}` has {got} rows, the batch has {expected}")]
    Rows {
        /// The input's name.
        name: String,
        /// Rows of the batch.
        expected: usize,
        /// Rows of the column.
        got: usize,
    },
    /// More rows than the padded batch is to have.
    #[error("a raw batch of {rows} rows cannot be padded to {padded}")]
    Padding {
        /// Rows of the batch.
        rows: usize,
        /// Rows that were asked for.
        padded: usize,
    },
    /// List offsets that do not begin at 0, decrease, or do not end at the number of keys.
    #[error(
        "column `{name}`: list offsets must begin at 0, never decrease and end at the number of keys"
    )]
    Offsets {
        /// The input's name.
        name: String,
    },
}
