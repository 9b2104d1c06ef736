//! Rows in the order of time: in memory where they fit, else by external merge sort.
//!
//! ```text
//! blocks ─► buffer ─► sorted runs (packed files) ─► merge ─► blocks in order of (time, place in the files)
//! ```
//!
//! Rows that come in order make one run however many there are, and nothing is sorted.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::{Path, PathBuf};

use streamrec_artifact::RawColumn;

use super::cancel::Cancel;
use super::error::ImportError;
use super::gather::{Place, append_places, append_range, bytes};
use crate::data::{Block, Column, DEFAULT_BLOCK_ROWS, PackReader, PackWriter};

/// Runs merged at once: each takes a block of memory and an open file.
const RUNS_MERGED_MAX: usize = 64;

/// Takes blocks in any order of time and gives them back in order.
#[derive(Debug)]
pub(super) struct RowSorter {
    folder: PathBuf,
    columns: Vec<Column>,
    time: Option<usize>,
    /// The most bytes of rows held in memory.
    memory_bytes: usize,
    buffer: Vec<Block>,
    buffered_bytes: usize,
    /// Whether the buffered rows are in order, and their last time.
    in_order: bool,
    last: i64,
    runs: Vec<PathBuf>,
    /// The run that is still being written, and its last time.
    open: Option<(PackWriter, i64)>,
    named: usize,
    runs_merged_max: usize,
    cancel: Cancel,
}

impl RowSorter {
    /// `folder` holds the runs; `time` is the place of the time column, without which rows stay in order.
    pub(super) fn new(
        folder: &Path,
        columns: &[Column],
        time: Option<usize>,
        memory_bytes: usize,
        cancel: Cancel,
    ) -> Self {
        Self {
            folder: folder.to_owned(),
            columns: columns.to_vec(),
            time,
            memory_bytes,
            buffer: Vec::new(),
            buffered_bytes: 0,
            in_order: true,
            last: i64::MIN,
            runs: Vec::new(),
            open: None,
            named: 0,
            runs_merged_max: RUNS_MERGED_MAX,
            cancel,
        }
    }

    /// Takes a block; hands back blocks whose memory is free again.
    pub(super) fn push(&mut self, block: Block) -> Result<Vec<Block>, ImportError> {
        if let Some(times) = times(&block, self.time) {
            for &time in times {
                self.in_order &= time >= self.last;
                self.last = time;
            }
        }
        self.buffered_bytes += bytes(&block) + block.rows * size_of::<Place>();
        self.buffer.push(block);
        if self.buffered_bytes > self.memory_bytes {
            self.spill()
        } else {
            Ok(Vec::new())
        }
    }

    /// All rows in order.
    pub(super) fn finish(mut self) -> Result<OrderedRows, ImportError> {
        if self.runs.is_empty() && self.open.is_none() {
            let places = if self.in_order {
                Vec::new()
            } else {
                self.places()
            };
            return Ok(OrderedRows::Memory {
                blocks: self.buffer,
                places,
                next: 0,
            });
        }
        self.spill()?;
        if let Some((writer, _)) = self.open.take() {
            writer.finish()?;
        }
        while self.runs.len() > self.runs_merged_max {
            self.merge_level()?;
        }
        Ok(OrderedRows::Runs(Merge::open(
            std::mem::take(&mut self.runs),
            &self.columns,
            self.time,
        )?))
    }

    fn places(&self) -> Vec<Place> {
        let of_block = |(i, block): (usize, &Block)| {
            let times = times(block, self.time).unwrap_or_default().to_vec();
            // A buffer holds far fewer than 2^32 blocks.
            times.into_iter().enumerate().map(move |(row, time)| Place {
                time,
                block: i as u32,
                row: row as u32,
            })
        };
        let mut places: Vec<_> = self.buffer.iter().enumerate().flat_map(of_block).collect();
        places.sort_unstable();
        places
    }

    /// Writes the buffered rows, sorted, to the open run if they all follow it, else to a new one.
    fn spill(&mut self) -> Result<Vec<Block>, ImportError> {
        if self.buffer.is_empty() {
            return Ok(Vec::new());
        }
        let places = if self.in_order {
            Vec::new()
        } else {
            self.places()
        };
        let first = match places.first() {
            Some(place) => place.time,
            None => self
                .buffer
                .iter()
                .find_map(|block| times(block, self.time)?.first().copied())
                .unwrap_or(i64::MIN),
        };
        let last = places.last().map_or(self.last, |place| place.time);
        let mut writer = match self.open.take() {
            Some((writer, end)) if end <= first => writer,
            Some((writer, _)) => {
                writer.finish()?;
                self.begin_run()?
            }
            None => self.begin_run()?,
        };
        if places.is_empty() {
            for block in &self.buffer {
                self.cancel.check()?;
                writer.push_block(block)?;
            }
        }
        let mut sorted = Block::new(&self.columns);
        for chunk in places.chunks(DEFAULT_BLOCK_ROWS) {
            self.cancel.check()?;
            sorted.clear();
            append_places(&mut sorted, &self.buffer, chunk)?;
            writer.push_block(&sorted)?;
        }
        self.open = Some((writer, last));
        (self.buffered_bytes, self.in_order, self.last) = (0, true, i64::MIN);
        Ok(std::mem::take(&mut self.buffer))
    }

    fn begin_run(&mut self) -> Result<PackWriter, ImportError> {
        let path = self.folder.join(format!("{}.run", self.named));
        self.named += 1;
        self.runs.push(path.clone());
        Ok(PackWriter::create(path, &self.columns, DEFAULT_BLOCK_ROWS)?)
    }

    /// Merges neighbouring runs, so that rows of equal times stay in the order of the files.
    fn merge_level(&mut self) -> Result<(), ImportError> {
        let runs = std::mem::take(&mut self.runs);
        for group in runs.chunks(self.runs_merged_max) {
            let mut merge = Merge::open(group.to_vec(), &self.columns, self.time)?;
            let mut writer = self.begin_run()?;
            let mut block = Block::new(&self.columns);
            while merge.next(&mut block)? {
                self.cancel.check()?;
                writer.push_block(&block)?;
            }
            writer.finish()?;
            for run in group {
                std::fs::remove_file(run).map_err(|error| ImportError::io("remove", run, error))?;
            }
        }
        Ok(())
    }
}

/// Rows in order, block by block.
#[derive(Debug)]
pub(super) enum OrderedRows {
    /// All of them in memory; `places` is their order, empty where they are in order already.
    Memory {
        blocks: Vec<Block>,
        places: Vec<Place>,
        next: usize,
    },
    Runs(Merge),
}

impl OrderedRows {
    /// Fills `block` with the next rows over what it held. False after the last ones.
    pub(super) fn next(&mut self, block: &mut Block) -> Result<bool, ImportError> {
        match self {
            Self::Runs(merge) => merge.next(block),
            Self::Memory {
                blocks,
                places,
                next,
            } if places.is_empty() => {
                let Some(from) = blocks.get_mut(*next) else {
                    return Ok(false);
                };
                *block = std::mem::take(from);
                *next += 1;
                Ok(true)
            }
            Self::Memory {
                blocks,
                places,
                next,
            } => {
                block.clear();
                let end = places.len().min(*next + DEFAULT_BLOCK_ROWS);
                append_places(block, blocks, &places[*next..end])?;
                *next = end;
                Ok(block.rows > 0)
            }
        }
    }
}

/// Merges sorted runs; of equal times, the earlier run comes first.
#[derive(Debug)]
pub(super) struct Merge {
    runs: Vec<Run>,
    time: Option<usize>,
    /// The next time of each run that is not at its end.
    next: BinaryHeap<Reverse<(i64, usize)>>,
}

#[derive(Debug)]
struct Run {
    reader: PackReader,
    /// The next block to read, the block in memory and its next row.
    next_block: usize,
    block: Block,
    row: usize,
}

impl Run {
    /// Makes the next row available. False at the end.
    fn load(&mut self) -> Result<bool, ImportError> {
        while self.row == self.block.rows {
            if self.next_block == self.reader.blocks() {
                return Ok(false);
            }
            self.reader.read_block(self.next_block, &mut self.block)?;
            self.next_block += 1;
            self.row = 0;
        }
        Ok(true)
    }

    fn time(&self, column: Option<usize>) -> i64 {
        times(&self.block, column).map_or(i64::MIN, |times| times[self.row])
    }
}

impl Merge {
    fn open(
        paths: Vec<PathBuf>,
        columns: &[Column],
        time: Option<usize>,
    ) -> Result<Self, ImportError> {
        let mut merge = Self {
            runs: Vec::new(),
            time,
            next: BinaryHeap::new(),
        };
        for (i, path) in paths.into_iter().enumerate() {
            let mut run = Run {
                reader: PackReader::open(path)?,
                next_block: 0,
                block: Block::new(columns),
                row: 0,
            };
            if run.load()? {
                merge.next.push(Reverse((run.time(time), i)));
            }
            merge.runs.push(run);
        }
        Ok(merge)
    }

    fn next(&mut self, to: &mut Block) -> Result<bool, ImportError> {
        to.clear();
        while to.rows < DEFAULT_BLOCK_ROWS {
            let Some(Reverse((_, i))) = self.next.pop() else {
                break;
            };
            let run = &mut self.runs[i];
            // Rows of this run up to where another run comes first.
            let limit = self.next.peek().map(|Reverse(other)| *other);
            let most = run.block.rows.min(run.row + DEFAULT_BLOCK_ROWS - to.rows);
            let end = match (times(&run.block, self.time), limit) {
                (Some(times), Some(limit)) => {
                    let rows = &times[run.row..most];
                    run.row
                        + rows
                            .iter()
                            .position(|time| (*time, i) > limit)
                            .unwrap_or(rows.len())
                }
                _ => most,
            };
            append_range(to, &run.block, run.row..end)?;
            run.row = end;
            if run.load()? {
                self.next.push(Reverse((run.time(self.time), i)));
            }
        }
        Ok(to.rows > 0)
    }
}

fn times(block: &Block, column: Option<usize>) -> Option<&[i64]> {
    match &block.columns[column?] {
        RawColumn::Time(times) => Some(times),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use proptest::prelude::*;
    use streamrec_artifact::{ColumnKind, SourceType};

    use super::*;
    use crate::data::Role;

    fn columns() -> Vec<Column> {
        vec![
            Column::new("time", ColumnKind::Time, SourceType::Timestamp, Role::Time),
            Column::new(
                "number",
                ColumnKind::Dense,
                SourceType::Integer,
                Role::Feature,
            ),
            Column::new(
                "tags",
                ColumnKind::KeyList,
                SourceType::Integer,
                Role::Feature,
            ),
        ]
    }

    /// Sorts with so little memory that every few rows make a run; the number tells the original place.
    fn sorted(
        times: &[i64],
        block_rows: usize,
        memory_bytes: usize,
        runs_merged_max: usize,
    ) -> Vec<(i64, f32, Vec<u64>)> {
        let folder = tempfile::tempdir().expect("a folder");
        let mut sorter = RowSorter::new(
            folder.path(),
            &columns(),
            Some(0),
            memory_bytes,
            Cancel::default(),
        );
        sorter.runs_merged_max = runs_merged_max;
        for (chunk, times) in times.chunks(block_rows).enumerate() {
            let mut block = Block::new(&columns());
            for (row, time) in times.iter().enumerate() {
                let place = chunk * block_rows + row;
                let tags = vec![place as u64; place % 3];
                use crate::data::RawValue::{Dense, KeyList, Time};
                block
                    .push(&[Time(*time), Dense(place as f32), KeyList(&tags)])
                    .expect("fits the columns");
            }
            sorter.push(block).expect("spilled");
        }
        let mut rows = sorter.finish().expect("finished");
        let (mut block, mut all) = (Block::new(&columns()), Vec::new());
        while rows.next(&mut block).expect("merged") {
            let [
                RawColumn::Time(times),
                RawColumn::Dense(numbers),
                RawColumn::KeyList { offsets, keys },
            ] = &block.columns[..]
            else {
                panic!("other columns")
            };
            for row in 0..block.rows {
                let tags = keys[offsets[row] as usize..offsets[row + 1] as usize].to_vec();
                all.push((times[row], numbers[row], tags));
            }
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn external_sort_equals_a_stable_sort_in_memory(
            times in proptest::collection::vec(0i64..20, 1..200),
            block_rows in 1usize..40,
            memory_bytes in 1usize..3000,
            runs_merged_max in 2usize..5,
        ) {
            let mut expected: Vec<_> =
                times.iter().enumerate().map(|(i, t)| (*t, i as f32, vec![i as u64; i % 3])).collect();
            expected.sort_by_key(|row| row.0);
            prop_assert_eq!(&sorted(&times, block_rows, memory_bytes, runs_merged_max), &expected);
            prop_assert_eq!(&sorted(&times, block_rows, usize::MAX, runs_merged_max), &expected, "in memory");
        }
    }

    #[test]
    fn a_merge_ends_where_it_is_asked_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let cancel = Cancel::default();
        let mut sorter = RowSorter::new(folder.path(), &columns(), Some(0), 1, cancel.clone());
        sorter.runs_merged_max = 2;
        // Each row comes before the last one and makes a run.
        for time in (0..4).rev() {
            sorter.push(row(time)).expect("spilled");
        }
        cancel.0.store(true, Ordering::Relaxed);
        let error = sorter.finish().expect_err("asked to end");
        assert!(matches!(error, ImportError::Cancelled), "{error}");
    }

    fn row(time: i64) -> Block {
        use crate::data::RawValue::{Dense, KeyList, Time};
        let mut block = Block::new(&columns());
        block
            .push(&[Time(time), Dense(0.0), KeyList(&[])])
            .expect("fits the columns");
        block
    }

    #[test]
    fn rows_in_order_make_one_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut sorter = RowSorter::new(folder.path(), &columns(), Some(0), 1, Cancel::default());
        for time in 0..20 {
            sorter.push(row(time / 3)).expect("spilled");
        }
        assert_eq!(sorter.runs.len(), 1);
    }
}
