//! Copies rows between blocks, column by column.

use std::ops::Range;

use streamrec_artifact::RawColumn;

use crate::data::Block;

/// Appends rows `range` of `from`, a block of the same columns or more.
pub(super) fn append_range(to: &mut Block, from: &Block, range: Range<usize>) {
    to.rows += range.len();
    for (to, from) in to.columns.iter_mut().zip(&from.columns) {
        match (to, from) {
            (RawColumn::Dense(to), RawColumn::Dense(from)) => {
                to.extend_from_slice(&from[range.clone()])
            }
            (RawColumn::Key(to), RawColumn::Key(from)) => {
                to.extend_from_slice(&from[range.clone()])
            }
            (RawColumn::Time(to), RawColumn::Time(from)) => {
                to.extend_from_slice(&from[range.clone()])
            }
            (to, from) => range.clone().for_each(|row| to.push_row_of(from, row)),
        }
    }
}

/// Appends the rows at `places`, each a block of `from` and a row of it.
pub(super) fn append_places(to: &mut Block, from: &[Block], places: &[Place]) {
    to.rows += places.len();
    for (i, to) in to.columns.iter_mut().enumerate() {
        let places = places
            .iter()
            .map(|place| (&from[place.block as usize].columns[i], place.row as usize));
        match to {
            RawColumn::Dense(to) => to.extend(places.map(|(from, row)| match from {
                RawColumn::Dense(from) => from[row],
                _ => f32::NAN,
            })),
            to => places.for_each(|(from, row)| to.push_row_of(from, row)),
        }
    }
}

/// A row of a buffered block, ordered by time, then by place in the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) time: i64,
    pub(super) block: u32,
    pub(super) row: u32,
}

/// The bytes that the rows of a block take.
pub(super) fn bytes(block: &Block) -> usize {
    let column = |column: &RawColumn| match column {
        RawColumn::Dense(values) => 4 * values.len(),
        RawColumn::Key(keys) => 8 * keys.len(),
        RawColumn::Time(times) => 8 * times.len(),
        RawColumn::KeyList { offsets, keys } => 4 * offsets.len() + 8 * keys.len(),
    };
    block.columns.iter().map(column).sum()
}
