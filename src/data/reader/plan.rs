//! What an epoch reads: files, columns, order, and the share of each rank.

use std::ops::Range;
use std::sync::Arc;

use super::selection::Selection;
use super::settings::ReaderSettings;
use crate::data::order::EpochOrder;
use crate::data::{Error, PackReader, Result};

/// The open files and what is read of them: equal for all epochs.
#[derive(Debug)]
pub(super) struct Source {
    pub settings: ReaderSettings,
    pub files: Vec<PackReader>,
    pub selection: Selection,
    /// The rows of the blocks of all files, one file after the other.
    pub rows_of_blocks: Vec<u32>,
    pub rows: u64,
}

impl Source {
    pub fn open(settings: ReaderSettings) -> Result<Self> {
        settings.check()?;
        let files = settings
            .files
            .iter()
            .map(PackReader::open)
            .collect::<Result<Vec<_>>>()?;
        for file in &files[1..] {
            let same = |a: &PackReader, b: &PackReader| {
                let types = |p: &PackReader| {
                    p.columns()
                        .iter()
                        .map(|c| (c.name.clone(), c.kind, c.source, c.role))
                        .collect::<Vec<_>>()
                };
                types(a) == types(b)
            };
            if !same(&files[0], file) {
                let problem = format!(
                    "its columns are not those of {}; files read as one must come from one dataset",
                    files[0].path().display()
                );
                return Err(Error::dataset(file.path(), problem));
            }
        }
        let selection = Selection::new(&settings, &files[0])?;
        let rows_of_blocks = files
            .iter()
            .flat_map(|file| (0..file.blocks()).map(|block| file.rows_of_block(block) as u32))
            .collect();
        let rows = files.iter().map(PackReader::rows).sum();
        let block_rows = files.iter().map(PackReader::block_rows).max().unwrap_or(0) as u64;
        let window_rows = block_rows
            .saturating_mul(settings.window_blocks as u64)
            .min(rows);
        if window_rows > u64::from(u32::MAX) {
            let problem = format!(
                "a window would have {window_rows} rows, the most is {}",
                u32::MAX
            );
            return Err(Error::settings("window_blocks", problem));
        }
        Ok(Self {
            settings,
            files,
            selection,
            rows_of_blocks,
            rows,
        })
    }

    /// The number of global batches of an epoch.
    pub fn steps(&self) -> u64 {
        let batch = self.settings.global_batch as u64;
        if self.settings.drop_last {
            self.rows / batch
        } else {
            self.rows.div_ceil(batch)
        }
    }

    /// The rows of a rank's batch, padding included.
    pub fn padded_rows(&self) -> usize {
        self.settings.global_batch.div_ceil(self.settings.dp_size)
    }

    /// The file of a block, and the block's number in it.
    pub fn block(&self, mut block: usize) -> (&PackReader, usize) {
        for file in &self.files {
            if block < file.blocks() {
                return (file, block);
            }
            block -= file.blocks();
        }
        unreachable!("the order numbers the blocks of these files")
    }
}

/// An epoch of a source.
#[derive(Debug)]
pub(super) struct Plan {
    pub source: Arc<Source>,
    pub order: EpochOrder,
    pub epoch: u64,
}

impl Plan {
    /// The positions of a global batch's rows in the epoch's order.
    pub fn global_rows(&self, step: u64) -> Range<u64> {
        let batch = self.source.settings.global_batch as u64;
        step * batch..(step * batch + batch).min(self.source.rows)
    }

    /// The positions of this rank's rows: `[floor(d*B/dp), floor((d+1)*B/dp))` of the global batch.
    pub fn own_rows(&self, step: u64) -> Range<u64> {
        let ReaderSettings {
            global_batch,
            dp_index,
            dp_size,
            ..
        } = self.source.settings;
        let bound = |index: usize| (index as u128 * global_batch as u128 / dp_size as u128) as u64;
        let Range { start, end } = self.global_rows(step);
        (start + bound(dp_index)).min(end)..(start + bound(dp_index + 1)).min(end)
    }

    /// The file of the row at `position` of the epoch's order, and the row's place in it from 0. It
    /// makes the order of a window again, so it is for errors.
    pub fn place_of(&self, position: u64) -> (&PackReader, u64) {
        let window = self.order.window_at(position);
        let mut row = position - self.order.positions(window).start;
        if let Some(order) = self.order.row_order(window) {
            row = u64::from(order[row as usize]);
        }
        for &number in self.order.blocks(window) {
            let rows = u64::from(self.source.rows_of_blocks[number as usize]);
            if row < rows {
                let (file, block) = self.source.block(number as usize);
                let before = (0..block).map(|block| file.rows_of_block(block) as u64);
                return (file, before.sum::<u64>() + row);
            }
            row -= rows;
        }
        unreachable!("a window holds the rows of its blocks")
    }

    /// The windows that hold the rows of a global batch.
    pub fn windows(&self, step: u64) -> Range<usize> {
        let rows = self.global_rows(step);
        self.order.window_at(rows.start)..self.order.window_at(rows.end - 1) + 1
    }
}
