//! Rows of columns copied to columns of the same kind.

use std::ops::Range;

use streamrec_artifact::RawColumn;

/// A list column numbers its keys with 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a list column would hold {keys} keys, the most is {}", u32::MAX)]
pub(in crate::data) struct TooManyKeys {
    keys: usize,
}

/// Appends the rows `range` of `from`.
///
/// # Errors
/// Too many list keys; `to` is then as it was.
pub(in crate::data) fn append_range(
    to: &mut RawColumn,
    from: &RawColumn,
    range: Range<usize>,
) -> Result<(), TooManyKeys> {
    match (to, from) {
        (RawColumn::Dense(to), RawColumn::Dense(from)) => to.extend_from_slice(&from[range]),
        (RawColumn::Key(to), RawColumn::Key(from)) => to.extend_from_slice(&from[range]),
        (RawColumn::Time(to), RawColumn::Time(from)) => to.extend_from_slice(&from[range]),
        (
            RawColumn::KeyList { offsets, keys },
            RawColumn::KeyList {
                offsets: starts,
                keys: from,
            },
        ) => {
            let (first, last) = (starts[range.start], starts[range.end]);
            let base = list_base(keys.len(), (last - first) as usize)?;
            let ends = &starts[range.start + 1..=range.end];
            offsets.extend(ends.iter().map(|end| base + (end - first)));
            keys.extend_from_slice(&from[first as usize..last as usize]);
        }
        (_, from) => other_kind(from),
    }
    Ok(())
}

/// Appends the rows of `from` at these places, in their order.
///
/// # Errors
/// Too many list keys; `to` then holds the rows before the one that has no room.
pub(in crate::data) fn append_rows(
    to: &mut RawColumn,
    from: &RawColumn,
    rows: impl Iterator<Item = usize>,
) -> Result<(), TooManyKeys> {
    match (to, from) {
        (RawColumn::Dense(to), RawColumn::Dense(from)) => to.extend(rows.map(|row| from[row])),
        (RawColumn::Key(to), RawColumn::Key(from)) => to.extend(rows.map(|row| from[row])),
        (RawColumn::Time(to), RawColumn::Time(from)) => to.extend(rows.map(|row| from[row])),
        (to, from) => {
            for row in rows {
                append_range(to, from, row..row + 1)?;
            }
        }
    }
    Ok(())
}

/// The number of keys already there, if so many more can follow.
pub(in crate::data) fn list_base(present: usize, more: usize) -> Result<u32, TooManyKeys> {
    let keys = present + more;
    match u32::try_from(keys) {
        Ok(_) => Ok(present as u32),
        Err(_) => Err(TooManyKeys { keys }),
    }
}

#[cold]
fn other_kind(from: &RawColumn) -> ! {
    unreachable!(
        "columns that are copied were made with the same kinds, got a {} column",
        from.kind()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> [RawColumn; 4] {
        [
            RawColumn::Dense(vec![0.5, 1.5, 2.5, f32::NAN]),
            RawColumn::Key(vec![10, 11, 12, 13]),
            RawColumn::Time(vec![20, 21, 22, 23]),
            RawColumn::KeyList {
                offsets: vec![0, 2, 2, 3, 6],
                keys: vec![1, 2, 3, 4, 5, 6],
            },
        ]
    }

    #[test]
    fn ranges_and_rows_are_what_row_after_row_gives() {
        for column in columns() {
            let empty = || RawColumn::new(column.kind());
            let (mut expected, mut ranges, mut rows) = (empty(), empty(), empty());
            for row in [1, 2, 3, 0, 1] {
                expected.push_row_of(&column, row);
            }
            append_range(&mut ranges, &column, 1..4).expect("few keys");
            append_range(&mut ranges, &column, 2..2).expect("few keys");
            append_range(&mut ranges, &column, 0..2).expect("few keys");
            append_rows(&mut rows, &column, [1, 2, 3, 0, 1].into_iter()).expect("few keys");
            assert_eq!(ranges, expected, "{}", column.kind());
            assert_eq!(rows, expected, "{}", column.kind());
        }
    }

    #[test]
    fn keys_are_numbered_with_32_bits() {
        let most = u32::MAX as usize;
        assert_eq!(list_base(most - 1, 1), Ok(u32::MAX - 1));
        let error = list_base(most, 1).expect_err("one too many").to_string();
        assert!(error.contains("4294967296 keys"), "{error}");
    }
}
