//! Blocks: some rows, column by column, in memory and as bytes.

use std::ops::Range;

use streamrec_artifact::{ColumnKind, RawColumn};

use super::format::{ALIGNMENT, MAX_BLOCK_BYTES};
use crate::data::Column;
use crate::data::row_copy::{TooManyKeys, append_range, list_base};

/// One value of a row to be written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RawValue<'a> {
    /// A number; NaN is missing.
    Dense(f32),
    /// A key; `MISSING_KEY` is missing.
    Key(u64),
    /// Any number of keys.
    KeyList(&'a [u64]),
    /// Milliseconds since the epoch UTC; `i64::MIN` is missing.
    Time(i64),
}

/// Some rows, column by column.
#[derive(Debug, Clone, Default)]
pub struct Block {
    /// The number of rows of every column.
    pub rows: usize,
    /// The columns.
    pub columns: Vec<RawColumn>,
    /// The bytes of the block that was read last; `u64` so that every section is aligned.
    bytes: Vec<u64>,
}

impl PartialEq for Block {
    fn eq(&self, other: &Self) -> bool {
        self.rows == other.rows && self.columns == other.columns
    }
}

impl Block {
    /// An empty block of these columns.
    pub fn new(columns: &[Column]) -> Self {
        Self::of_kinds(columns.iter().map(|column| column.kind))
    }

    /// An empty block of columns of these kinds.
    pub fn of_kinds(kinds: impl IntoIterator<Item = ColumnKind>) -> Self {
        Self {
            rows: 0,
            columns: kinds.into_iter().map(RawColumn::new).collect(),
            bytes: Vec::new(),
        }
    }

    /// Removes all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.rows = 0;
        self.columns.iter_mut().for_each(RawColumn::clear);
    }

    /// Appends one row, a value for each column.
    ///
    /// # Errors
    /// Too few or too many values, or a value of another kind; the block is then as before.
    pub fn push(&mut self, row: &[RawValue<'_>]) -> Result<(), String> {
        if row.len() != self.columns.len() {
            return Err(format!(
                "expected {} values, got {}",
                self.columns.len(),
                row.len()
            ));
        }
        for (number, (column, value)) in self.columns.iter().zip(row).enumerate() {
            let kind = value.kind();
            if column.kind() != kind {
                return Err(format!(
                    "column {number}: expected {}, got {kind}",
                    column.kind()
                ));
            }
            if let (RawColumn::KeyList { keys, .. }, RawValue::KeyList(more)) = (column, value)
                && keys.len() + more.len() > u32::MAX as usize
            {
                return Err(format!("column {number}: more than {} list keys", u32::MAX));
            }
        }
        for (column, value) in self.columns.iter_mut().zip(row) {
            push_value(column, *value);
        }
        self.rows += 1;
        Ok(())
    }

    /// Whether every column has a row for each of the block's rows; says what does not.
    pub(super) fn check(&self, columns: &[Column]) -> Result<(), String> {
        if self.columns.len() != columns.len() {
            return Err(format!(
                "expected {} columns, got {}",
                columns.len(),
                self.columns.len()
            ));
        }
        for (values, column) in self.columns.iter().zip(columns) {
            if values.kind() != column.kind {
                return Err(format!(
                    "column `{}`: expected {}, got {}",
                    column.name,
                    column.kind,
                    values.kind()
                ));
            }
            if values.rows() != self.rows {
                return Err(format!(
                    "column `{}`: expected {} rows, got {}",
                    column.name,
                    self.rows,
                    values.rows()
                ));
            }
            if let RawColumn::KeyList { offsets, keys } = values {
                check_offsets(offsets, keys.len())
                    .map_err(|problem| format!("column `{}`: {problem}", column.name))?;
            }
        }
        Ok(())
    }

    /// Appends rows `range` of `other`, a checked block of the same columns or more.
    pub(in crate::data) fn append(
        &mut self,
        other: &Block,
        range: Range<usize>,
    ) -> Result<(), TooManyKeys> {
        self.rows += range.len();
        let mut columns = self.columns.iter_mut().zip(&other.columns);
        columns.try_for_each(|(to, from)| append_range(to, from, range.clone()))
    }

    /// Writes `rows` as a block's bytes over what `bytes` held.
    pub(super) fn encode(&self, rows: Range<usize>, bytes: &mut Vec<u8>) -> Result<(), String> {
        bytes.clear();
        for column in &self.columns {
            match column {
                RawColumn::Dense(values) => {
                    section(bytes, bytemuck::cast_slice(&values[rows.clone()]));
                }
                RawColumn::Key(keys) => section(bytes, bytemuck::cast_slice(&keys[rows.clone()])),
                RawColumn::Time(times) => {
                    section(bytes, bytemuck::cast_slice(&times[rows.clone()]));
                }
                RawColumn::KeyList { offsets, keys } => {
                    let offsets = &offsets[rows.start..=rows.end];
                    let (first, last) = (offsets[0], offsets[rows.len()]);
                    if first == 0 {
                        section(bytes, bytemuck::cast_slice(offsets));
                    } else {
                        let own: Vec<u32> = offsets.iter().map(|offset| offset - first).collect();
                        section(bytes, bytemuck::cast_slice(&own));
                    }
                    let keys = &keys[first as usize..last as usize];
                    section(bytes, bytemuck::cast_slice(keys));
                }
            }
        }
        if bytes.len() as u64 > MAX_BLOCK_BYTES {
            return Err(format!(
                "{} rows make a block of {} bytes, the most is {MAX_BLOCK_BYTES}: use smaller blocks",
                rows.len(),
                bytes.len()
            ));
        }
        Ok(())
    }

    /// Room for the bytes of a block of `len` bytes, a multiple of 8.
    pub(super) fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        self.bytes.resize(len / ALIGNMENT, 0);
        bytemuck::cast_slice_mut(&mut self.bytes)
    }

    /// Appends the rows that lie in the bytes read last: column `wanted[i]` of the file to column `i`.
    pub(super) fn decode(
        &mut self,
        file_columns: &[Column],
        rows: usize,
        wanted: &[usize],
    ) -> Result<(), String> {
        let sections = locate(&self.bytes, file_columns, rows)?;
        for (to, &from) in self.columns.iter_mut().zip(wanted) {
            let section = &sections[from];
            match to {
                RawColumn::Dense(values) => {
                    values.extend_from_slice(&bytemuck::cast_slice(section.values)[..rows]);
                }
                RawColumn::Key(keys) => keys.extend_from_slice(section.values),
                RawColumn::Time(times) => {
                    times.extend_from_slice(bytemuck::cast_slice(section.values));
                }
                RawColumn::KeyList { offsets, keys } => {
                    let base = list_base(keys.len(), section.values.len())
                        .map_err(|problem| problem.to_string())?;
                    offsets.extend(section.offsets[1..].iter().map(|offset| base + offset));
                    keys.extend_from_slice(section.values);
                }
            }
        }
        self.rows += rows;
        Ok(())
    }
}

impl RawValue<'_> {
    /// The kind of column that holds such values.
    pub fn kind(&self) -> ColumnKind {
        match self {
            Self::Dense(_) => ColumnKind::Dense,
            Self::Key(_) => ColumnKind::Key,
            Self::KeyList(_) => ColumnKind::KeyList,
            Self::Time(_) => ColumnKind::Time,
        }
    }
}

/// Appends a value of the column's own kind.
fn push_value(column: &mut RawColumn, value: RawValue<'_>) {
    match (column, value) {
        (RawColumn::Dense(values), RawValue::Dense(value)) => values.push(value),
        (RawColumn::Key(keys), RawValue::Key(key)) => keys.push(key),
        (RawColumn::Time(times), RawValue::Time(time)) => times.push(time),
        (RawColumn::KeyList { offsets, keys }, RawValue::KeyList(more)) => {
            keys.extend_from_slice(more);
            offsets.push(keys.len() as u32);
        }
        _ => unreachable!("the kinds were compared before"),
    }
}

/// Appends one section, padded with zeros.
fn section(bytes: &mut Vec<u8>, values: &[u8]) {
    bytes.extend_from_slice(values);
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

/// The part of a block that belongs to one column.
struct Section<'a> {
    /// The offsets of a list column, `[rows + 1]`; empty for others.
    offsets: &'a [u32],
    /// The values as they lie, padding included.
    values: &'a [u64],
}

/// Finds the sections of all columns; together they must fill the block.
fn locate<'a>(
    mut words: &'a [u64],
    columns: &[Column],
    rows: usize,
) -> Result<Vec<Section<'a>>, String> {
    let mut take = |count: usize, name: &str| {
        let (head, rest) = words
            .split_at_checked(count)
            .ok_or_else(|| format!("column `{name}` passes the end of the block"))?;
        words = rest;
        Ok::<_, String>(head)
    };
    let mut sections = Vec::with_capacity(columns.len());
    for Column { name, kind, .. } in columns {
        let mut offsets: &[u32] = &[];
        let count = match kind {
            ColumnKind::Dense => rows.div_ceil(2),
            ColumnKind::Key | ColumnKind::Time => rows,
            ColumnKind::KeyList => {
                offsets = &bytemuck::cast_slice(take((rows + 1).div_ceil(2), name)?)[..=rows];
                let end = offsets.last().map_or(0, |&end| end as usize);
                check_offsets(offsets, end).map_err(|p| format!("column `{name}`: {p}"))?;
                end
            }
        };
        sections.push(Section {
            offsets,
            values: take(count, name)?,
        });
    }
    match words.len() {
        0 => Ok(sections),
        extra => Err(format!(
            "{} bytes follow the last column",
            extra * ALIGNMENT
        )),
    }
}

/// List offsets begin at 0, never decrease and end at the number of keys.
fn check_offsets(offsets: &[u32], keys: usize) -> Result<(), String> {
    let ascending = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
    let ends = offsets.first() == Some(&0) && offsets.last().map(|&end| end as usize) == Some(keys);
    if ascending && ends {
        Ok(())
    } else {
        Err("list offsets must begin at 0, never decrease and end at the number of keys".into())
    }
}
