//! CSV: read once, by one thread, and judged by all.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::{BATCH_ROWS, ExpectationError, Job, Part, project};

#[derive(Debug)]
pub(super) struct CsvFile {
    path: PathBuf,
    schema: SchemaRef,
}

impl CsvFile {
    /// A file whose first line names its columns.
    pub(super) fn open(path: &Path) -> Result<(SchemaRef, Self), ExpectationError> {
        let mut reader = open(path)?;
        let header = reader.headers().map_err(|error| failed(path, &error))?;
        let fields: Vec<Field> = header
            .iter()
            .map(|name| Field::new(name, DataType::Utf8, true))
            .collect();
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let file = Self {
            path: path.to_owned(),
            schema: Arc::clone(&schema),
        };
        Ok((schema, file))
    }

    pub(super) fn batches<'a>(
        &'a self,
        columns: &'a [usize],
    ) -> Result<Batches<'a>, ExpectationError> {
        Ok(Batches {
            file: self,
            reader: open(&self.path)?,
            columns,
            rows: 0,
            done: false,
        })
    }
}

/// Batches of the needed columns, as text.
pub(super) struct Batches<'a> {
    file: &'a CsvFile,
    reader: csv::Reader<File>,
    columns: &'a [usize],
    rows: u64,
    done: bool,
}

impl Batches<'_> {
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    fn read(&mut self) -> Result<RecordBatch, ExpectationError> {
        let path = &self.file.path;
        let mut builders: Vec<StringBuilder> =
            self.columns.iter().map(|_| StringBuilder::new()).collect();
        let mut record = csv::ByteRecord::new();
        let mut rows = 0;
        while rows < BATCH_ROWS {
            if !self
                .reader
                .read_byte_record(&mut record)
                .map_err(|error| failed(path, &error))?
            {
                self.done = true;
                break;
            }
            for (builder, &column) in builders.iter_mut().zip(self.columns) {
                let cell = record.get(column).unwrap_or_default();
                builder.append_value(String::from_utf8_lossy(cell));
            }
            rows += 1;
        }
        self.rows += rows as u64;
        let arrays: Vec<ArrayRef> = builders
            .iter_mut()
            .map(|builder| Arc::new(builder.finish()) as ArrayRef)
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let schema = project(&self.file.schema, self.columns);
        RecordBatch::try_new_with_options(schema, arrays, &options)
            .map_err(|error| failed(path, &error))
    }
}

impl Iterator for Batches<'_> {
    type Item = Result<Job, ExpectationError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let first_row = self.rows;
        let job = |batch: RecordBatch| Job {
            bundle: 0,
            first_row,
            part: Part::Batch(batch),
        };
        match self.read() {
            Ok(batch) if batch.num_rows() == 0 => None,
            result => Some(result.map(job)),
        }
    }
}

fn open(path: &Path) -> Result<csv::Reader<File>, ExpectationError> {
    csv::ReaderBuilder::new()
        .buffer_capacity(1 << 20)
        .from_path(path)
        .map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &dyn std::error::Error) -> ExpectationError {
    ExpectationError::Table {
        path: path.to_owned(),
        problem: error.to_string(),
    }
}
