//! Parquet: row groups are read each by itself, and only the columns that are needed.

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelector,
};

use super::{BATCH_ROWS, ExpectationError, Job, Part, RowSet};

#[derive(Debug)]
pub(super) struct ParquetFiles {
    files: Vec<ParquetFile>,
}

#[derive(Debug)]
struct ParquetFile {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    first_row: u64,
}

impl ParquetFiles {
    /// A file, or all of a folder in the order of their names, which hold the same columns.
    pub(super) fn open(path: &Path) -> Result<(SchemaRef, Self), ExpectationError> {
        let mut files = Vec::new();
        let mut first_row = 0;
        for path in paths(path)? {
            let file = File::open(&path).map_err(|error| failed(&path, &error))?;
            let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())
                .map_err(|error| failed(&path, &error))?;
            let rows = metadata.metadata().file_metadata().num_rows();
            files.push(ParquetFile {
                path,
                metadata,
                first_row,
            });
            first_row += rows.max(0) as u64;
        }
        let schema = files[0].metadata.schema().clone();
        for file in &files[1..] {
            if file.metadata.schema().fields() != schema.fields() {
                let problem = format!(
                    "its columns differ from those of {}",
                    files[0].path.display()
                );
                return Err(table(&file.path, problem));
            }
        }
        Ok((schema, Self { files }))
    }

    pub(super) fn rows(&self) -> u64 {
        let last = self.files.last();
        last.map_or(0, |file| {
            file.first_row + file.metadata.metadata().file_metadata().num_rows().max(0) as u64
        })
    }

    pub(super) fn jobs(&self, bundles: usize) -> Vec<Job> {
        let mut jobs = Vec::new();
        for (place, file) in self.files.iter().enumerate() {
            let mut first_row = file.first_row;
            for (group, row_group) in file.metadata.metadata().row_groups().iter().enumerate() {
                jobs.extend((0..bundles).map(|bundle| Job {
                    bundle,
                    first_row,
                    part: Part::RowGroup { file: place, group },
                }));
                first_row += row_group.num_rows().max(0) as u64;
            }
        }
        jobs
    }

    pub(super) fn read(
        &self,
        file: usize,
        group: usize,
        columns: &[usize],
        first_row: u64,
        selection: Option<&RowSet>,
        visit: &mut dyn FnMut(u64, RecordBatch) -> Result<(), ExpectationError>,
    ) -> Result<(), ExpectationError> {
        let ParquetFile { path, metadata, .. } = &self.files[file];
        let rows = metadata.metadata().row_group(group).num_rows().max(0) as u64;
        let mut ranges = vec![(first_row, rows)];
        let opened = File::open(path).map_err(|error| failed(path, &error))?;
        let mut builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(opened, metadata.clone());
        let mask = ProjectionMask::roots(builder.parquet_schema(), columns.iter().copied());
        if let Some(selection) = selection {
            ranges = wanted_ranges(selection, first_row, rows);
            if ranges.is_empty() {
                return Ok(());
            }
            builder = builder.with_row_selection(selectors(&ranges, first_row, rows));
        }
        let reader = builder
            .with_row_groups(vec![group])
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(|error| failed(path, &error))?;
        let mut numbers = RangeNumbers::new(ranges);
        for batch in reader {
            let batch = batch.map_err(|error| failed(path, &error))?;
            // A batch may span several ranges; each is visited by itself.
            let mut offset = 0;
            while offset < batch.num_rows() {
                let (first, length) = numbers.take(batch.num_rows() - offset);
                if length == 0 {
                    break;
                }
                visit(first, batch.slice(offset, length))?;
                offset += length;
            }
        }
        Ok(())
    }
}

/// Ranges of rows that hold wanted ones; gaps of less than a batch are read over.
fn wanted_ranges(selection: &RowSet, first_row: u64, rows: u64) -> Vec<(u64, u64)> {
    const GAP: u64 = 4096;
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for row in selection
        .iter()
        .skip_while(|row| *row < first_row)
        .take_while(|row| *row < first_row + rows)
    {
        match ranges.last_mut() {
            Some((first, length)) if row < *first + *length + GAP => *length = row - *first + 1,
            _ => ranges.push((row, 1)),
        }
    }
    ranges
}

fn selectors(ranges: &[(u64, u64)], first_row: u64, rows: u64) -> RowSelection {
    let mut selectors = Vec::new();
    let mut at = first_row;
    for &(first, length) in ranges {
        selectors.push(RowSelector::skip((first - at) as usize));
        selectors.push(RowSelector::select(length as usize));
        at = first + length;
    }
    selectors.push(RowSelector::skip((first_row + rows - at) as usize));
    RowSelection::from(selectors)
}

/// The numbers of rows that come one after the other out of ranges.
struct RangeNumbers {
    left: std::vec::IntoIter<(u64, u64)>,
    now: (u64, u64),
}

impl RangeNumbers {
    fn new(ranges: Vec<(u64, u64)>) -> Self {
        Self {
            left: ranges.into_iter(),
            now: (0, 0),
        }
    }

    /// The next up to `most` rows: the first, and how many.
    fn take(&mut self, most: usize) -> (u64, usize) {
        if self.now.1 == 0 {
            self.now = self.left.next().unwrap_or((0, 0));
        }
        let length = self.now.1.min(most as u64);
        let first = self.now.0;
        self.now = (first + length, self.now.1 - length);
        (first, length as usize)
    }
}

fn paths(path: &Path) -> Result<Vec<PathBuf>, ExpectationError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).map_err(|error| failed(path, &error))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "parquet")
        })
        .collect();
    found.sort();
    if found.is_empty() {
        return Err(table(
            path,
            "the folder holds no .parquet file and no dataset.json".into(),
        ));
    }
    Ok(found)
}

fn failed(path: &Path, error: &dyn std::error::Error) -> ExpectationError {
    table(path, error.to_string())
}

fn table(path: &Path, problem: String) -> ExpectationError {
    ExpectationError::Table {
        path: path.to_owned(),
        problem,
    }
}
