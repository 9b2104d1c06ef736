//! `index.json`: which file holds which rows and columns of which tensor.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::CheckpointError;

/// The version that this code writes and reads.
pub(super) const FORMAT_VERSION: u32 = 1;

/// An index larger than this is not believed.
const INDEX_BYTES_MAX: u64 = 256 << 20;

/// The table of contents of one checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// Version of the format.
    pub format_version: u32,
    /// Global step after which it was taken.
    pub step: u64,
    /// Ranks that wrote it.
    pub world_size: usize,
    /// Position in the data and the like.
    pub state: serde_json::Value,
    /// The shards, by rank.
    pub shards: Vec<ShardFile>,
    /// Every tensor by name.
    pub tensors: BTreeMap<String, IndexedTensor>,
}

/// One shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardFile {
    /// Its name in the checkpoint's folder.
    pub file: String,
    /// Its size.
    pub bytes: u64,
}

/// One tensor: f32, row-major.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexedTensor {
    /// The whole tensor's shape.
    pub shape: Vec<usize>,
    /// Its pieces, by columns, then by rows; together they cover every element once.
    pub slices: Vec<Slice>,
}

/// Rows and columns of a tensor in one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// Position in [`Index::shards`].
    pub shard: usize,
    /// The tensor's name in the shard.
    pub key: String,
    /// First row and the row after the last.
    pub rows: [usize; 2],
    /// First column and the column after the last, a row being all dims but the first.
    pub columns: [usize; 2],
    /// XXH3-64 of the slice's bytes, as 16 hexadecimal digits.
    pub xxh3: String,
}

/// XXH3-64 of `bytes` as an index holds it.
pub(super) fn checksum(bytes: &[u8]) -> String {
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(bytes))
}

impl IndexedTensor {
    /// Rows and values a row: a scalar is one row.
    pub(super) fn matrix(&self) -> Option<(usize, usize)> {
        let (rows, rest) = self
            .shape
            .split_first()
            .map_or((1, &[][..]), |(n, rest)| (*n, rest));
        let width = rest.iter().try_fold(1usize, |a, b| a.checked_mul(*b))?;
        rows.checked_mul(width)?;
        Some((rows, width))
    }
}

impl Index {
    /// Reads and checks an index.
    ///
    /// # Errors
    /// When it is missing, of another version, or does not cover its tensors.
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        let size = std::fs::metadata(path)
            .map_err(CheckpointError::file("read", path))?
            .len();
        if size > INDEX_BYTES_MAX {
            let problem = format!("expected at most {INDEX_BYTES_MAX} bytes, found {size}");
            return Err(CheckpointError::damaged(path, problem));
        }
        let text = std::fs::read(path).map_err(CheckpointError::file("read", path))?;
        let index: Self = serde_json::from_slice(&text)
            .map_err(|error| CheckpointError::damaged(path, format!("not an index: {error}")))?;
        index
            .check()
            .map_err(|problem| CheckpointError::damaged(path, problem))?;
        Ok(index)
    }

    fn check(&self) -> Result<(), String> {
        if self.format_version != FORMAT_VERSION {
            return Err(format!(
                "format version {} is not {FORMAT_VERSION}, the one this program reads",
                self.format_version
            ));
        }
        let plain = |file: &str| !file.contains(['/', '\\']) && file != "..";
        if let Some(shard) = self.shards.iter().find(|shard| !plain(&shard.file)) {
            return Err(format!("shard `{}` is not a plain file name", shard.file));
        }
        for (name, tensor) in &self.tensors {
            self.check_tensor(tensor)
                .map_err(|problem| format!("tensor `{name}`: {problem}"))?;
        }
        Ok(())
    }

    /// Slices stand in order: those of the first columns with all rows, then those of the next.
    fn check_tensor(&self, tensor: &IndexedTensor) -> Result<(), String> {
        let (rows, width) = tensor.matrix().ok_or("its shape overflows")?;
        let mut next_column = 0;
        for of_columns in tensor.slices.chunk_by(|a, b| a.columns == b.columns) {
            let [first, end] = of_columns[0].columns;
            if first != next_column || end <= first || end > width {
                return Err(format!(
                    "columns {first}..{end} do not follow column {next_column} of {width}"
                ));
            }
            self.check_rows(of_columns, rows)?;
            next_column = end;
        }
        if next_column == width || rows == 0 {
            Ok(())
        } else {
            Err(format!("columns {next_column}..{width} are in no shard"))
        }
    }

    /// Slices of the same columns follow one another, without gap or overlap.
    fn check_rows(&self, slices: &[Slice], rows: usize) -> Result<(), String> {
        let mut next = 0;
        for slice in slices {
            let [first, end] = slice.rows;
            if first != next || end < first || end > rows {
                return Err(format!(
                    "rows {first}..{end} do not follow row {next} of {rows}"
                ));
            }
            if slice.shard >= self.shards.len() {
                return Err(format!("shard {} does not exist", slice.shard));
            }
            next = end;
        }
        if next == rows {
            Ok(())
        } else {
            Err(format!("rows {next}..{rows} are in no shard"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(rows: &[[usize; 2]]) -> Index {
        let slices: Vec<_> = rows.iter().map(|&rows| (rows, [0, 3])).collect();
        index_of(&slices)
    }

    fn index_of(slices: &[([usize; 2], [usize; 2])]) -> Index {
        let slice = |&(rows, columns): &([usize; 2], [usize; 2])| Slice {
            shard: 0,
            key: "w".into(),
            rows,
            columns,
            xxh3: String::new(),
        };
        let tensor = IndexedTensor {
            shape: vec![5, 3],
            slices: slices.iter().map(slice).collect(),
        };
        Index {
            format_version: FORMAT_VERSION,
            step: 1,
            world_size: 1,
            state: serde_json::Value::Null,
            shards: vec![ShardFile {
                file: "rank-0-of-1.safetensors".into(),
                bytes: 0,
            }],
            tensors: BTreeMap::from([("w".to_owned(), tensor)]),
        }
    }

    #[test]
    fn slices_must_cover_every_row_once() {
        assert_eq!(index(&[[0, 2], [2, 5]]).check(), Ok(()));
        let refused = |slices: &[[usize; 2]]| index(slices).check().expect_err("refused");
        assert!(refused(&[[0, 2], [3, 5]]).contains("do not follow row 2"));
        assert!(refused(&[[0, 3], [2, 5]]).contains("do not follow row 3"));
        assert!(refused(&[[0, 4]]).contains("rows 4..5 are in no shard"));
        assert!(refused(&[[0, 6]]).contains("of 5"));
    }

    #[test]
    fn slices_must_cover_every_column_once() {
        let (upper, lower, all) = ([0, 2], [2, 5], [0, 5]);
        let good = [(upper, [0, 1]), (lower, [0, 1]), (all, [1, 3])];
        assert_eq!(index_of(&good).check(), Ok(()));
        let refused = |slices: &[_]| index_of(slices).check().expect_err("refused");
        assert!(refused(&good[..2]).contains("columns 1..3 are in no shard"));
        assert!(refused(&good[1..]).contains("do not follow row 0"));
        assert!(refused(&good[2..]).contains("do not follow column 0"));
        assert!(refused(&[(all, [0, 2]), (all, [1, 3])]).contains("do not follow column 2"));
        assert!(refused(&[(all, [0, 4])]).contains("of 3"));
    }

    #[test]
    fn other_versions_and_paths_outside_are_refused() {
        let mut other = index(&[[0, 5]]);
        other.format_version = 2;
        assert!(
            other
                .check()
                .expect_err("refused")
                .contains("format version 2")
        );
        let mut outside = index(&[[0, 5]]);
        outside.shards[0].file = "../x".into();
        assert!(
            outside
                .check()
                .expect_err("refused")
                .contains("plain file name")
        );
    }
}
