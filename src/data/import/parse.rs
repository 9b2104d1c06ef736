//! The parser thread: files to blocks of typed rows.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender};

use streamrec_artifact::{RawColumn, key};

use super::cancel::Cancel;
use super::cell::Fault;
use super::error::ImportError;
use super::files::Meter;
use super::malformed::Tally;
use super::plan::{Plan, Target};
use super::rows::FileRows;
use super::schema::SourceSchema;
use super::side::{SideTable, push_elapsed};
use super::value::truncate;
use crate::data::{Block, DEFAULT_BLOCK_ROWS, SourceFile};

/// Everything that the parser thread owns.
pub(super) struct Parser {
    pub(super) plan: Plan,
    pub(super) tables: Vec<SideTable>,
    pub(super) files: Vec<PathBuf>,
    pub(super) source: SourceSchema,
    pub(super) meter: Meter,
    pub(super) tally: Tally,
    pub(super) sources: Vec<SourceFile>,
    pub(super) cancel: Cancel,
}

/// Where blocks go, and where empty ones come back from.
pub(super) struct BlockPipe {
    pub(super) full: SyncSender<Block>,
    pub(super) empty: Receiver<Block>,
}

/// A row that is malformed: the field's place among those wanted, the column and the fault.
struct Misfit {
    field: usize,
    column: usize,
    fault: Fault,
}

impl Parser {
    /// Parses all files and returns what was counted. Ends early where nobody takes the blocks.
    pub(super) fn run(mut self, pipe: &BlockPipe) -> Result<Self, ImportError> {
        if self.parses_in_chunks() {
            return self.run_in_chunks(pipe);
        }
        let mut block = Block::new(&self.plan.columns);
        let mut since = RawColumn::Time(Vec::new());
        let mut first_names: Option<Vec<String>> = None;
        for path in self.files.clone() {
            let mut rows = FileRows::open(&path, &self.source, &self.meter)?;
            self.same_names(&path, rows.names(), &mut first_names)?;
            rows.select(&self.plan.wanted, &self.plan.fills, &self.cancel)?;
            while rows.next(&mut self.tally)? {
                self.cancel.check()?;
                match self.row(&rows, &mut block, &mut since) {
                    Ok(()) => block.rows += 1,
                    Err(misfit) => {
                        block
                            .columns
                            .iter_mut()
                            .for_each(|column| truncate(column, block.rows));
                        let reason = format!(
                            "column `{}` {}",
                            self.plan.columns[misfit.column].name, misfit.fault
                        );
                        rows.reject(&mut self.tally, reason, Some(misfit.field))?;
                    }
                }
                if block.rows == DEFAULT_BLOCK_ROWS {
                    let next = pipe
                        .empty
                        .try_recv()
                        .unwrap_or_else(|_| Block::new(&self.plan.columns));
                    if pipe.full.send(std::mem::replace(&mut block, next)).is_err() {
                        return Ok(self);
                    }
                    block.clear();
                }
            }
            self.sources.push(rows.fingerprint().source_file());
        }
        self.tally.judge()?;
        // A receiver that is gone has its own error to tell.
        let _ = pipe.full.send(block);
        Ok(self)
    }

    /// Refuses a file of other fields than the first one.
    pub(super) fn same_names(
        &self,
        path: &Path,
        names: &[String],
        first: &mut Option<Vec<String>>,
    ) -> Result<(), ImportError> {
        if names == first.get_or_insert_with(|| names.to_vec()) {
            return Ok(());
        }
        Err(ImportError::DifferentFields {
            path: path.to_owned(),
            first: self.files[0].clone(),
        })
    }

    /// Appends one row; after a misfit some columns are one longer than others.
    #[inline]
    fn row(
        &mut self,
        rows: &FileRows,
        block: &mut Block,
        since: &mut RawColumn,
    ) -> Result<(), Misfit> {
        let row = block.rows;
        let columns = &mut block.columns;
        let time_of = |columns: &[RawColumn]| match self.plan.time.map(|time| &columns[time]) {
            Some(RawColumn::Time(times)) => times.get(row).copied(),
            _ => None,
        };
        for fill in &self.plan.fills {
            let cell = rows.cell(fill.field);
            let misfit = |fault| Misfit {
                field: fill.field,
                column: fill.target.column(),
                fault,
            };
            match fill.target {
                Target::Column(column) => {
                    fill.conversion
                        .push(cell, &mut columns[column])
                        .map_err(misfit)?;
                }
                Target::Elapsed(column, unit) => {
                    since.clear();
                    fill.conversion.push(cell, since).map_err(misfit)?;
                    let moment = match since {
                        RawColumn::Time(times) => times[0],
                        _ => key::MISSING_TIME,
                    };
                    let time = time_of(columns);
                    push_elapsed(&mut columns[column], time, moment, unit);
                }
            }
        }
        let time = time_of(columns);
        for table in &mut self.tables {
            table.join(columns, row, time);
        }
        Ok(())
    }
}
