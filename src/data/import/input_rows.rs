//! Rows of files that were not imported, as the inputs of a model: columns by the names of the
//! inputs, missing values as an import treats them, and columns that are passed through.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, StringBuilder};
use arrow::datatypes::{DataType, Field};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use streamrec_artifact::{InputColumn, RawBatch, RawColumn, SourceType, excerpt};

use super::cell::{Cell, Fault};
use super::error::ImportError;
use super::files::Meter;
use super::parquet::{Column, failed, plain_type};
use super::rows::TextRows;
use super::schema::{FileFormat, SourceSchema};
use super::text::Next;
use super::value::Conversion;

/// What to read, and how.
#[derive(Debug, Clone)]
pub struct InputSettings {
    /// Files of one format and the same columns, read one after the other.
    pub files: Vec<PathBuf>,
    /// Their format, and how text is cut into fields.
    pub source: SourceSchema,
    /// What parts the elements of a list in text.
    pub list_separator: String,
    /// The inputs of the model.
    pub inputs: Vec<InputColumn>,
    /// Columns that are passed through as they are, text of a text file.
    pub keys: Vec<String>,
    /// Rows of a piece.
    pub piece_rows: usize,
}

/// An open row of files.
pub struct InputRows {
    selection: Arc<Selection>,
    key_fields: Vec<Field>,
    rows: Option<u64>,
    files: std::vec::IntoIter<PathBuf>,
    open: Option<OpenFile>,
}

/// Some rows in their order.
pub struct InputPiece {
    /// The number of rows.
    pub rows: usize,
    /// The columns that are passed through.
    pub keys: Vec<ArrayRef>,
    values: Values,
}

enum Values {
    Raw(RawBatch),
    /// Still to be converted, by whoever scores them.
    Batch {
        batch: RecordBatch,
        first_row: u64,
        path: Arc<PathBuf>,
        selection: Arc<Selection>,
    },
}

/// The inputs, and how each is read.
pub(super) struct Selection {
    pub(super) settings: InputSettings,
    conversions: Vec<Conversion>,
}

enum OpenFile {
    Text(Box<TextFile>),
    Parquet(ParquetFile),
}

struct TextFile {
    rows: TextRows,
    path: PathBuf,
    /// The places of the inputs among the fields, then those of the keys.
    places: Vec<usize>,
}

struct ParquetFile {
    path: Arc<PathBuf>,
    reader: ParquetRecordBatchReader,
    next_row: u64,
}

impl InputRows {
    /// Opens every file once and looks for the columns.
    ///
    /// # Errors
    /// Files that cannot be read or lack columns; all that are missing from one at once.
    pub fn open(settings: InputSettings) -> Result<Self, ImportError> {
        let selection = Arc::new(Selection::new(settings));
        let files = &selection.settings.files;
        let (mut key_fields, mut rows) = (None, Some(0));
        for path in files {
            let (fields, own_rows) = selection.look_into(path)?;
            rows = rows.zip(own_rows).map(|(all, own)| all + own);
            match &key_fields {
                None => key_fields = Some(fields),
                Some(first) if *first == fields => {}
                Some(_) => {
                    return Err(ImportError::DifferentFields {
                        path: path.clone(),
                        first: files[0].clone(),
                    });
                }
            }
        }
        Ok(Self {
            files: files.clone().into_iter(),
            key_fields: key_fields.unwrap_or_default(),
            rows,
            open: None,
            selection,
        })
    }

    /// The columns that are passed through.
    pub fn key_fields(&self) -> &[Field] {
        &self.key_fields
    }

    /// The number of rows, where the files tell.
    pub fn rows(&self) -> Option<u64> {
        self.rows
    }

    /// The next rows; none after the last.
    ///
    /// # Errors
    /// What the file system says, lines that are no rows, and in text values that are not what an
    /// input takes.
    #[allow(
        clippy::should_implement_trait,
        reason = "its errors end the reading, an iterator's do not"
    )]
    pub fn next(&mut self) -> Result<Option<InputPiece>, ImportError> {
        loop {
            let file = match &mut self.open {
                Some(file) => file,
                None => match self.files.next() {
                    Some(path) => self.open.insert(self.selection.open(path)?),
                    None => return Ok(None),
                },
            };
            let piece = match file {
                OpenFile::Text(file) => file.next(&self.selection)?,
                OpenFile::Parquet(file) => file.next(&self.selection)?,
            };
            match piece {
                Some(piece) => return Ok(Some(piece)),
                None => self.open = None,
            }
        }
    }
}

impl InputPiece {
    /// The inputs of the rows, in the order of the settings', into the memory of `raw`.
    ///
    /// # Errors
    /// A value that is not what its input takes.
    pub fn read(&mut self, raw: &mut RawBatch) -> Result<(), ImportError> {
        match &mut self.values {
            Values::Raw(values) => std::mem::swap(values, raw),
            Values::Batch {
                batch,
                first_row,
                path,
                selection,
            } => selection.convert(batch, *first_row, path, 0..raw.columns.len(), raw)?,
        }
        Ok(())
    }
}

impl InputPiece {
    /// As [`read`](Self::read), of rows that are still to be read.
    ///
    /// # Errors
    /// As of [`read`](Self::read).
    pub fn peek(&self, raw: &mut RawBatch) -> Result<(), ImportError> {
        match &self.values {
            Values::Raw(values) => raw.clone_from(values),
            Values::Batch {
                batch,
                first_row,
                path,
                selection,
            } => selection.convert(batch, *first_row, path, 0..raw.columns.len(), raw)?,
        }
        Ok(())
    }
}

impl Selection {
    pub(super) fn new(settings: InputSettings) -> Self {
        let conversion = |input: &InputColumn| {
            Conversion::input(input, &settings.list_separator, &settings.source.null)
        };
        Self {
            conversions: settings.inputs.iter().map(conversion).collect(),
            settings,
        }
    }

    /// The names that are looked for, inputs first.
    fn names(&self) -> impl Iterator<Item = &String> {
        let inputs = self.settings.inputs.iter().map(|input| &input.name);
        inputs.chain(&self.settings.keys)
    }

    /// The places among `found` of the inputs, then of the keys.
    pub(super) fn places(&self, path: &Path, found: &[String]) -> Result<Vec<usize>, ImportError> {
        let place = |name: &String| found.iter().position(|field| field == name);
        let missing: Vec<_> = self.names().filter(|name| place(name).is_none()).collect();
        if missing.is_empty() {
            return Ok(self.names().filter_map(place).collect());
        }
        Err(ImportError::Fields {
            path: path.to_owned(),
            missing: missing.iter().map(|name| format!("`{name}`")).collect(),
            found: found.to_vec(),
        })
    }

    /// The columns that are passed through, and the rows where the file tells.
    pub(super) fn look_into(&self, path: &Path) -> Result<(Vec<Field>, Option<u64>), ImportError> {
        if self.settings.source.format == FileFormat::Csv {
            let rows = TextRows::open(path, &self.settings.source, &Meter::default())?;
            self.places(path, rows.names())?;
            let keys = self.settings.keys.iter();
            return Ok((
                keys.map(|key| Field::new(key, DataType::Utf8, true))
                    .collect(),
                None,
            ));
        }
        let (builder, places) = self.builder(path)?;
        let fields = builder.schema().fields();
        let inputs = self.settings.inputs.len();
        for (input, &place) in self.settings.inputs.iter().zip(&places) {
            let found = fields[place].data_type();
            if plain_type(found).is_none() {
                return Err(ImportError::FieldType {
                    path: path.to_owned(),
                    field: input.name.clone(),
                    found: found.to_string(),
                    expected: expectation(input),
                });
            }
        }
        let keys = places[inputs..]
            .iter()
            .map(|&place| fields[place].as_ref().clone().with_nullable(true));
        let rows = builder.metadata().file_metadata().num_rows();
        Ok((keys.collect(), u64::try_from(rows).ok()))
    }

    fn builder(
        &self,
        path: &Path,
    ) -> Result<(ParquetRecordBatchReaderBuilder<File>, Vec<usize>), ImportError> {
        let file = File::open(path).map_err(|error| ImportError::io("open", path, error))?;
        let builder =
            ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| failed(path, error))?;
        let names = builder.schema().fields().iter();
        let names: Vec<_> = names.map(|field| field.name().clone()).collect();
        let places = self.places(path, &names)?;
        Ok((builder, places))
    }

    fn open(&self, path: PathBuf) -> Result<OpenFile, ImportError> {
        if self.settings.source.format == FileFormat::Csv {
            let rows = TextRows::open(&path, &self.settings.source, &Meter::default())?;
            let places = self.places(&path, rows.names())?;
            return Ok(OpenFile::Text(Box::new(TextFile { rows, path, places })));
        }
        let (builder, places) = self.builder(&path)?;
        let mask = ProjectionMask::roots(builder.parquet_schema(), places);
        let reader = builder
            .with_projection(mask)
            .with_batch_size(self.settings.piece_rows)
            .build()
            .map_err(|error| failed(&path, error))?;
        Ok(OpenFile::Parquet(ParquetFile {
            path: Arc::new(path),
            reader,
            next_row: 1,
        }))
    }

    /// Column by column, the inputs at some places.
    pub(super) fn convert(
        &self,
        batch: &RecordBatch,
        first_row: u64,
        path: &Path,
        places: Range<usize>,
        raw: &mut RawBatch,
    ) -> Result<(), ImportError> {
        raw.clear();
        raw.rows = batch.num_rows();
        let inputs = self.settings.inputs[places.clone()].iter();
        let inputs = inputs.zip(&self.conversions[places]);
        for ((input, conversion), to) in inputs.zip(&mut raw.columns) {
            // The projection holds it, and its type was looked at.
            let Some(found) = batch.column_by_name(&input.name) else {
                continue;
            };
            let plain = plain_type(found.data_type()).unwrap_or(DataType::Utf8);
            let column = Column::cast(found, &plain).map_err(|error| failed(path, error))?;
            if conversion.push_column(&column, to) {
                continue;
            }
            for row in 0..batch.num_rows() {
                let cell = column.cell(row);
                conversion
                    .push(cell, to)
                    .map_err(|fault| misfit(path, first_row + row as u64, input, fault, cell))?;
            }
        }
        Ok(())
    }
}

impl ParquetFile {
    fn next(&mut self, selection: &Arc<Selection>) -> Result<Option<InputPiece>, ImportError> {
        let Some(batch) = self.reader.next() else {
            return Ok(None);
        };
        let batch = batch.map_err(|error| failed(&self.path, error))?;
        let rows = batch.num_rows();
        let first_row = self.next_row;
        self.next_row += rows as u64;
        let keys = selection.settings.keys.iter();
        Ok(Some(InputPiece {
            rows,
            keys: keys
                .filter_map(|key| batch.column_by_name(key).cloned())
                .collect(),
            values: Values::Batch {
                batch,
                first_row,
                path: Arc::clone(&self.path),
                selection: Arc::clone(selection),
            },
        }))
    }
}

impl TextFile {
    fn next(&mut self, selection: &Selection) -> Result<Option<InputPiece>, ImportError> {
        let InputSettings {
            inputs,
            keys,
            piece_rows,
            ..
        } = &selection.settings;
        let mut raw = RawBatch::new(inputs);
        let mut passed: Vec<StringBuilder> = keys.iter().map(|_| StringBuilder::new()).collect();
        while raw.rows < *piece_rows && self.record()? {
            let record = self.rows.record();
            let columns = inputs.iter().zip(&selection.conversions);
            for (place, ((input, conversion), to)) in columns.zip(&mut raw.columns).enumerate() {
                let cell = Cell::Text(record.field(self.places[place]));
                conversion
                    .push(cell, to)
                    .map_err(|fault| misfit(&self.path, record.line(), input, fault, cell))?;
            }
            for (builder, &place) in passed.iter_mut().zip(&self.places[inputs.len()..]) {
                match std::str::from_utf8(record.field(place)) {
                    Ok(text) => builder.append_value(text),
                    Err(_) => return Err(self.line("it is not valid UTF-8".into())),
                }
            }
            raw.rows += 1;
        }
        let finish = |mut builder: StringBuilder| Arc::new(builder.finish()) as ArrayRef;
        Ok((raw.rows > 0).then(|| InputPiece {
            rows: raw.rows,
            keys: passed.into_iter().map(finish).collect(),
            values: Values::Raw(raw),
        }))
    }

    /// Goes to the next record; false after the last.
    fn record(&mut self) -> Result<bool, ImportError> {
        let (expected, next) = (self.rows.names().len(), self.rows.read()?);
        let got = self.rows.record().fields();
        match next {
            Next::End => Ok(false),
            Next::Record if got == expected => Ok(true),
            Next::Record => Err(self.line(format!("expected {expected} fields, got {got}"))),
            Next::Malformed(fault) => Err(self.line(fault.to_string())),
        }
    }

    fn line(&self, problem: String) -> ImportError {
        ImportError::InputLine {
            path: self.path.clone(),
            line: self.rows.record().line(),
            problem,
        }
    }
}

#[cold]
fn misfit(path: &Path, row: u64, input: &InputColumn, fault: Fault, got: Cell<'_>) -> ImportError {
    ImportError::InputValue {
        path: path.to_owned(),
        row,
        column: input.name.clone(),
        problem: fault.to_string().into(),
        expected: expectation(input).into(),
        got: match got {
            Cell::Text(text) | Cell::Decimal(text) => {
                format!("{:?}", excerpt(&String::from_utf8_lossy(text)))
            }
            Cell::Integer(value) => value.to_string(),
            Cell::Unsigned(value) => value.to_string(),
            Cell::Float(value) => value.to_string(),
            Cell::Boolean(value) => value.to_string(),
            _ => "the value".to_owned(),
        },
    }
}

/// What an input takes, in words.
fn expectation(input: &InputColumn) -> String {
    match RawColumn::new(input.kind) {
        RawColumn::KeyList { .. } => format!("a list of {}s", input.source),
        _ if input.source == SourceType::Integer => "an integer".into(),
        _ => format!("a {}", input.source),
    }
}
