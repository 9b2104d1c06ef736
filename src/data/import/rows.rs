//! The rows of one source file, field by field, whatever its format.

use std::path::{Path, PathBuf};

use super::cancel::Cancel;
use super::cell::Cell;
use super::error::ImportError;
use super::files::{self, Fingerprint, Meter};
use super::malformed::{Reason, Tally};
use super::parquet::ParquetRows;
use super::plan::Fill;
use super::schema::{FileFormat, SourceSchema};
use super::text::{Dialect, Next, RecordReader};

/// An open source file.
pub(super) enum FileRows {
    Text(Box<TextRows>),
    Parquet(Box<ParquetRows>),
}

/// Rows of delimited text.
pub(super) struct TextRows {
    path: PathBuf,
    reader: RecordReader<Box<dyn std::io::Read + Send>>,
    names: Vec<String>,
    wanted: Vec<usize>,
    fingerprint: Fingerprint,
}

impl FileRows {
    /// Opens a file and reads the names of its fields.
    pub(super) fn open(
        path: &Path,
        schema: &SourceSchema,
        meter: &Meter,
    ) -> Result<Self, ImportError> {
        Ok(match schema.format {
            FileFormat::Csv => Self::Text(Box::new(TextRows::open(path, schema, meter)?)),
            FileFormat::Parquet => Self::Parquet(Box::new(ParquetRows::open(path, meter)?)),
        })
    }

    /// The names of the fields.
    pub(super) fn names(&self) -> &[String] {
        match self {
            Self::Text(rows) => &rows.names,
            Self::Parquet(rows) => rows.names(),
        }
    }

    /// Begins reading; [`FileRows::cell`] then counts along `wanted`, which are places in the names,
    /// as `fills` do.
    pub(super) fn select(
        &mut self,
        wanted: &[usize],
        fills: &[Fill],
        cancel: &Cancel,
    ) -> Result<(), ImportError> {
        match self {
            Self::Text(rows) => {
                rows.wanted = wanted.to_vec();
                Ok(())
            }
            Self::Parquet(rows) => rows.select(wanted, fills, cancel),
        }
    }

    /// Goes to the next well-formed row; malformed ones are counted. False after the last one.
    pub(super) fn next(&mut self, tally: &mut Tally) -> Result<bool, ImportError> {
        match self {
            Self::Text(rows) => rows.next(tally),
            Self::Parquet(rows) => rows.next(tally),
        }
    }

    /// A field of the row.
    #[inline]
    pub(super) fn cell(&self, place: usize) -> Cell<'_> {
        match self {
            Self::Text(rows) => Cell::Text(rows.reader.field(rows.wanted[place])),
            Self::Parquet(rows) => rows.cell(place),
        }
    }

    /// The number of the current row's line, from 1; in a Parquet file that of the row.
    pub(super) fn line(&self) -> u64 {
        match self {
            Self::Text(rows) => rows.reader.line(),
            Self::Parquet(rows) => rows.row(),
        }
    }

    /// Leaves out the current row; `place` is the field that does not fit.
    pub(super) fn reject(
        &mut self,
        tally: &mut Tally,
        reason: impl Into<Reason>,
        place: Option<usize>,
    ) -> Result<(), ImportError> {
        match self {
            Self::Text(rows) => {
                let got = place.map(|place| rows.reader.field(rows.wanted[place]));
                let counted = tally.reject(&rows.path, rows.reader.line(), reason, got);
                rows.reader.reject();
                counted
            }
            Self::Parquet(rows) => tally.reject(rows.path(), rows.row(), reason, None),
        }
    }

    /// What identifies the file, once it was read.
    pub(super) fn fingerprint(&self) -> &Fingerprint {
        match self {
            Self::Text(rows) => &rows.fingerprint,
            Self::Parquet(rows) => rows.fingerprint(),
        }
    }
}

impl TextRows {
    pub(super) fn open(
        path: &Path,
        schema: &SourceSchema,
        meter: &Meter,
    ) -> Result<Self, ImportError> {
        let contents = files::open(path, meter)?;
        let quote = schema
            .quote
            .as_bytes()
            .first()
            .copied()
            .filter(|_| schema.delimiter.len() == 1);
        let dialect = Dialect {
            delimiter: schema.delimiter.as_bytes().to_vec(),
            quote,
        };
        let mut rows = Self {
            path: path.to_owned(),
            reader: RecordReader::new(contents.reader, dialect),
            names: Vec::new(),
            wanted: Vec::new(),
            fingerprint: contents.fingerprint,
        };
        if let Some(names) = &schema.names {
            rows.names.clone_from(names);
        } else if rows.read()? == Next::Record {
            let name = |i| {
                String::from_utf8_lossy(rows.reader.field(i))
                    .trim()
                    .to_owned()
            };
            rows.names = (0..rows.reader.fields()).map(name).collect();
        }
        Ok(rows)
    }

    fn next(&mut self, tally: &mut Tally) -> Result<bool, ImportError> {
        loop {
            let next = self.read()?;
            if next == Next::End {
                return Ok(false);
            }
            tally.lines += 1;
            let reason = match next {
                Next::Malformed(fault) => fault.to_string(),
                _ if self.reader.fields() == self.names.len() => return Ok(true),
                _ => format!(
                    "expected {} fields, got {}",
                    self.names.len(),
                    self.reader.fields()
                ),
            };
            let line = self.reader.line();
            self.reader.reject();
            tally.reject(&self.path, line, reason, None)?;
        }
    }

    /// The names of the fields.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// What identifies the file, once it was read.
    pub(super) fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What is left of the file: bytes that were read, the input behind them, and the number of
    /// their first line.
    pub(super) fn into_rest(self) -> (Vec<u8>, Box<dyn std::io::Read + Send>, u64) {
        self.reader.into_rest()
    }

    /// The last record, and where it is.
    pub(super) fn record(&self) -> &RecordReader<Box<dyn std::io::Read + Send>> {
        &self.reader
    }

    /// Reads the next record, malformed or not.
    pub(super) fn read(&mut self) -> Result<Next, ImportError> {
        self.reader
            .read()
            .map_err(|error| files::read_error(&self.path, self.reader.line(), error))
    }
}
