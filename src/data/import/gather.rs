//! Rows of blocks in another order.

use std::ops::Range;

use streamrec_artifact::RawColumn;

use super::error::ImportError;
use crate::data::row_copy::{TooManyKeys, append_rows};
use crate::data::{Block, Error};

/// Appends the rows at `places`, each a block of `from` and a row of it.
pub(super) fn append_places(
    to: &mut Block,
    from: &[Block],
    places: &[Place],
) -> Result<(), ImportError> {
    to.rows += places.len();
    for (column, to) in to.columns.iter_mut().enumerate() {
        // Sorted rows often stay in one block for a while.
        for places in places.chunk_by(|a, b| a.block == b.block) {
            let from = &from[places[0].block as usize].columns[column];
            let rows = places.iter().map(|place| place.row as usize);
            append_rows(to, from, rows).map_err(too_many_keys)?;
        }
    }
    Ok(())
}

/// Appends rows `range` of `from`, a block of the same columns or more.
pub(super) fn append_range(
    to: &mut Block,
    from: &Block,
    range: Range<usize>,
) -> Result<(), ImportError> {
    to.append(from, range).map_err(too_many_keys)
}

fn too_many_keys(problem: TooManyKeys) -> ImportError {
    Error::settings("rows of a block", problem.to_string()).into()
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
