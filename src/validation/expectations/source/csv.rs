//! CSV: cut into chunks of whole records by one thread, parsed and judged by all.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::csv_records::{Chunk, Records};
use super::{BATCH_ROWS, ExpectationError, Job, Part, project};

#[derive(Debug)]
pub(super) struct CsvFile {
    path: PathBuf,
    schema: SchemaRef,
}

impl CsvFile {
    /// A file whose first line names its columns.
    pub(super) fn open(path: &Path) -> Result<(SchemaRef, Self), ExpectationError> {
        let reader = csv::ReaderBuilder::new().from_path(path);
        let mut reader = reader.map_err(|error| failed(path, &error))?;
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

    pub(super) fn chunks(&self) -> Result<Chunks<'_>, ExpectationError> {
        let file = File::open(&self.path).map_err(|error| failed(&self.path, &error))?;
        let mut records = Records::new(file);
        records
            .skip_header()
            .map_err(|error| failed(&self.path, &error))?;
        Ok(Chunks {
            path: &self.path,
            records,
        })
    }

    /// Reads the needed columns of a chunk, as text.
    pub(super) fn read(
        &self,
        chunk: &Chunk,
        columns: &[usize],
        visit: &mut dyn FnMut(u64, RecordBatch) -> Result<(), ExpectationError>,
    ) -> Result<(), ExpectationError> {
        // Of one length as the header has it, which each chunk's reader does not know.
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(chunk.bytes.as_slice());
        let mut record = csv::ByteRecord::new();
        let mut first_row = chunk.first_row;
        loop {
            let mut builders: Vec<StringBuilder> =
                columns.iter().map(|_| StringBuilder::new()).collect();
            let mut rows = 0;
            while rows < BATCH_ROWS && self.next(&mut reader, &mut record, chunk)? {
                for (builder, &column) in builders.iter_mut().zip(columns) {
                    let cell = record.get(column).unwrap_or_default();
                    builder.append_value(String::from_utf8_lossy(cell));
                }
                rows += 1;
            }
            if rows == 0 {
                return Ok(());
            }
            visit(first_row, self.batch(builders, columns, rows)?)?;
            first_row += rows as u64;
        }
    }

    fn next(
        &self,
        reader: &mut csv::Reader<&[u8]>,
        record: &mut csv::ByteRecord,
        chunk: &Chunk,
    ) -> Result<bool, ExpectationError> {
        let read = reader.read_byte_record(record);
        if !read.map_err(|error| failed(&self.path, &error))? {
            return Ok(false);
        }
        let (expected, got) = (self.schema.fields().len(), record.len());
        if got != expected {
            let line = record.position().map_or(1, csv::Position::line) - 1 + chunk.first_line;
            let problem =
                format!("line {line}: expected {expected} fields as the first line has, got {got}");
            return Err(table(&self.path, problem));
        }
        Ok(true)
    }

    fn batch(
        &self,
        builders: Vec<StringBuilder>,
        columns: &[usize],
        rows: usize,
    ) -> Result<RecordBatch, ExpectationError> {
        let arrays: Vec<ArrayRef> = builders
            .into_iter()
            .map(|mut builder| Arc::new(builder.finish()) as ArrayRef)
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let schema = project(&self.schema, columns);
        RecordBatch::try_new_with_options(schema, arrays, &options)
            .map_err(|error| failed(&self.path, &error))
    }
}

/// The chunks of a file, in its order.
pub(super) struct Chunks<'a> {
    path: &'a Path,
    records: Records<File>,
}

impl Chunks<'_> {
    pub(super) fn rows(&self) -> u64 {
        self.records.count()
    }
}

impl Iterator for Chunks<'_> {
    type Item = Result<Job, ExpectationError>;

    fn next(&mut self) -> Option<Self::Item> {
        let job = |chunk: Chunk| Job {
            bundle: 0,
            first_row: chunk.first_row,
            part: Part::Text(chunk),
        };
        match self.records.next_chunk() {
            Ok(chunk) => chunk.map(|chunk| Ok(job(chunk))),
            Err(error) => Some(Err(failed(self.path, &error))),
        }
    }
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
