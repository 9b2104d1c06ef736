//! Rows of a Parquet file: the wanted columns, batch by batch, as a few plain types.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, ListArray, StringArray,
    TimestampMillisecondArray, UInt64Array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, Float64Type, Int64Type, TimeUnit, TimestampMillisecondType, UInt64Type,
};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::cancel::Cancel;
use super::cell::Cell;
use super::error::ImportError;
use super::files::{self, Contents, Fingerprint, Meter};
use super::malformed::Tally;
use super::plan::Fill;

/// Rows decoded at a time; row groups are read page by page.
const BATCH_ROWS: usize = 4096;

/// An open Parquet file.
pub(super) struct ParquetRows {
    path: PathBuf,
    names: Vec<String>,
    types: Vec<DataType>,
    /// All bytes of the file, which identify it.
    contents: Contents,
    meter: Meter,
    /// Until columns are selected.
    builder: Option<ParquetRecordBatchReaderBuilder<File>>,
    reader: Option<ParquetRecordBatchReader>,
    /// For each wanted column: its place in a batch, and the plain type it is read as.
    columns: Vec<(usize, DataType)>,
    values: Vec<Column>,
    rows: usize,
    /// The place in the batch of the next row, and the rows of earlier batches.
    next: usize,
    rows_before: u64,
    file_bytes: u64,
    file_rows: u64,
}

/// One column of a batch, and where its plain type could not hold what the file has.
pub(super) struct Column {
    pub(super) values: Values,
    out_of_range: Option<BooleanBuffer>,
}

pub(super) enum Values {
    Integers(Int64Array),
    Unsigneds(UInt64Array),
    Floats(Float64Array),
    Booleans(BooleanArray),
    Texts(StringArray),
    /// As texts, since no plain number holds all digits.
    Decimals(StringArray),
    Times(TimestampMillisecondArray),
    LocalTimes(TimestampMillisecondArray),
    IntegerLists(ListArray, Int64Array),
    UnsignedLists(ListArray, UInt64Array),
    TextLists(ListArray, StringArray),
}

impl ParquetRows {
    pub(super) fn open(path: &Path, meter: &Meter) -> Result<Self, ImportError> {
        let contents = files::open(path, &Meter::default())?;
        let file = File::open(path).map_err(|error| ImportError::io("open", path, error))?;
        let file_bytes = file
            .metadata()
            .map_err(|error| ImportError::io("read", path, error))?
            .len();
        let builder =
            ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| failed(path, error))?;
        let fields = builder.schema().fields();
        Ok(Self {
            path: path.to_owned(),
            names: fields.iter().map(|field| field.name().clone()).collect(),
            types: fields
                .iter()
                .map(|field| field.data_type().clone())
                .collect(),
            contents,
            meter: meter.clone(),
            file_rows: u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0),
            builder: Some(builder),
            reader: None,
            columns: Vec::new(),
            values: Vec::new(),
            rows: 0,
            next: 0,
            rows_before: 0,
            file_bytes,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    pub(super) fn fingerprint(&self) -> &Fingerprint {
        &self.contents.fingerprint
    }

    /// The number of the current row in the file, from 1.
    pub(super) fn row(&self) -> u64 {
        self.rows_before + self.next as u64
    }

    pub(super) fn select(
        &mut self,
        wanted: &[usize],
        fills: &[Fill],
        cancel: &Cancel,
    ) -> Result<(), ImportError> {
        self.read_all(cancel)?;
        // A batch holds the selected columns in the order of the file.
        let mut in_file = wanted.to_vec();
        in_file.sort_unstable();
        in_file.dedup();
        for &column in wanted {
            let plain = plain_type(&self.types[column]).ok_or_else(|| ImportError::FieldType {
                path: self.path.clone(),
                field: self.names[column].clone(),
                found: self.types[column].to_string(),
                expected: "a number, text, truth value, timestamp, or a list of integers or texts"
                    .into(),
            })?;
            let place = in_file.binary_search(&column).unwrap_or(0);
            self.columns.push((place, plain));
        }
        for fill in fills {
            let is_list = matches!(self.columns[fill.field].1, DataType::List(_));
            if is_list && fill.conversion.has_own_nulls() {
                return Err(ImportError::NullOfList {
                    path: self.path.clone(),
                    field: self.names[wanted[fill.field]].clone(),
                });
            }
        }
        if let Some(builder) = self.builder.take() {
            let mask = ProjectionMask::roots(builder.parquet_schema(), in_file);
            let reader = builder
                .with_projection(mask)
                .with_batch_size(BATCH_ROWS)
                .build();
            self.reader = Some(reader.map_err(|error| failed(&self.path, error))?);
        }
        Ok(())
    }

    /// The whole file identifies it, though only some of its columns are read.
    fn read_all(&mut self, cancel: &Cancel) -> Result<(), ImportError> {
        let mut chunk = vec![0; 1 << 16];
        loop {
            cancel.check()?;
            match self.contents.reader.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(files::read_error(&self.path, 0, error)),
            }
        }
    }

    pub(super) fn next(&mut self, tally: &mut Tally) -> Result<bool, ImportError> {
        while self.next == self.rows {
            let Some(reader) = &mut self.reader else {
                return Ok(false);
            };
            let Some(batch) = reader.next() else {
                return Ok(false);
            };
            self.take(&batch.map_err(|error| failed(&self.path, error))?)?;
        }
        self.next += 1;
        tally.lines += 1;
        Ok(true)
    }

    pub(super) fn cell(&self, place: usize) -> Cell<'_> {
        self.values[place].cell(self.next - 1)
    }

    fn take(&mut self, batch: &RecordBatch) -> Result<(), ImportError> {
        self.rows_before += self.rows as u64;
        self.rows = batch.num_rows();
        self.next = 0;
        let share = self.rows as f64 / self.file_rows.max(1) as f64;
        self.meter
            .bytes
            .fetch_add((share * self.file_bytes as f64) as u64, Ordering::Relaxed);
        self.values.clear();
        for (place, plain) in &self.columns {
            let column = Column::cast(batch.column(*place), plain);
            self.values
                .push(column.map_err(|error| failed(&self.path, error))?);
        }
        Ok(())
    }
}

impl Column {
    /// As one of the plain types; what that cannot hold becomes null and is remembered.
    pub(super) fn cast(found: &ArrayRef, plain: &DataType) -> Result<Self, ArrowError> {
        let array = cast(found, plain)?;
        let out_of_range = (array.null_count() > found.logical_null_count()).then(|| {
            let nulls = found.logical_nulls();
            let was_null = |row| nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
            BooleanBuffer::collect_bool(array.len(), |row| array.is_null(row) && !was_null(row))
        });
        Ok(Self {
            values: Values::of(&array, found.data_type()),
            out_of_range,
        })
    }

    /// Whether every value of the file is held.
    pub(super) fn holds_all(&self) -> bool {
        self.out_of_range.is_none()
    }

    pub(super) fn cell(&self, row: usize) -> Cell<'_> {
        if self.values.is_null(row) {
            return match &self.out_of_range {
                Some(rows) if rows.value(row) => Cell::OutOfRange,
                _ => Cell::Null,
            };
        }
        match &self.values {
            Values::Integers(values) => Cell::Integer(values.value(row)),
            Values::Unsigneds(values) => Cell::unsigned(values.value(row)),
            Values::Floats(values) => Cell::Float(values.value(row)),
            Values::Booleans(values) => Cell::Boolean(values.value(row)),
            Values::Texts(values) => Cell::Text(values.value(row).as_bytes()),
            Values::Decimals(values) => Cell::Decimal(values.value(row).as_bytes()),
            Values::Times(values) => Cell::Time(values.value(row)),
            Values::LocalTimes(values) => Cell::LocalTime(values.value(row)),
            Values::IntegerLists(lists, values) => {
                let (start, end) = bounds(lists, row);
                Cell::Integers(values, start, end)
            }
            Values::UnsignedLists(lists, values) => {
                let (start, end) = bounds(lists, row);
                Cell::Unsigneds(values, start, end)
            }
            Values::TextLists(lists, values) => {
                let (start, end) = bounds(lists, row);
                Cell::Texts(values, start, end)
            }
        }
    }
}

impl Values {
    /// Of an array of one of the plain types; what they leave out is in the type of the file.
    fn of(array: &ArrayRef, found: &DataType) -> Self {
        match array.data_type() {
            DataType::Int64 => Self::Integers(array.as_primitive::<Int64Type>().clone()),
            DataType::UInt64 => Self::Unsigneds(array.as_primitive::<UInt64Type>().clone()),
            DataType::Float64 => Self::Floats(array.as_primitive::<Float64Type>().clone()),
            DataType::Boolean => Self::Booleans(array.as_boolean().clone()),
            DataType::Timestamp(..) => {
                let times = array.as_primitive::<TimestampMillisecondType>().clone();
                if has_zone(found) {
                    Self::Times(times)
                } else {
                    Self::LocalTimes(times)
                }
            }
            DataType::List(element) => {
                let lists = array.as_list::<i32>().clone();
                match element.data_type() {
                    DataType::Int64 => {
                        let values = lists.values().as_primitive::<Int64Type>().clone();
                        Self::IntegerLists(lists, values)
                    }
                    DataType::UInt64 => {
                        let values = lists.values().as_primitive::<UInt64Type>().clone();
                        Self::UnsignedLists(lists, values)
                    }
                    _ => {
                        let values = lists.values().as_string::<i32>().clone();
                        Self::TextLists(lists, values)
                    }
                }
            }
            _ if is_decimal(found) => Self::Decimals(array.as_string::<i32>().clone()),
            _ => Self::Texts(array.as_string::<i32>().clone()),
        }
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Integers(values) => values.is_null(row),
            Self::Unsigneds(values) => values.is_null(row),
            Self::Floats(values) => values.is_null(row),
            Self::Booleans(values) => values.is_null(row),
            Self::Texts(values) | Self::Decimals(values) => values.is_null(row),
            Self::Times(values) | Self::LocalTimes(values) => values.is_null(row),
            Self::IntegerLists(lists, _)
            | Self::UnsignedLists(lists, _)
            | Self::TextLists(lists, _) => lists.is_null(row),
        }
    }
}

fn bounds(lists: &ListArray, row: usize) -> (usize, usize) {
    let offsets = lists.value_offsets();
    (offsets[row] as usize, offsets[row + 1] as usize)
}

/// Whether timestamps of this type are moments, and not what a clock somewhere showed.
fn has_zone(found: &DataType) -> bool {
    match found {
        DataType::Timestamp(_, zone) => zone.is_some(),
        DataType::Dictionary(_, values) => has_zone(values),
        _ => false,
    }
}

fn is_decimal(found: &DataType) -> bool {
    match found {
        DataType::Dictionary(_, values) => is_decimal(values),
        _ => found.is_decimal(),
    }
}

/// The plain type that a column is cast to.
pub(super) fn plain_type(found: &DataType) -> Option<DataType> {
    Some(match found {
        DataType::UInt64 => DataType::UInt64,
        integer if integer.is_integer() => DataType::Int64,
        float if float.is_floating() => DataType::Float64,
        decimal if decimal.is_decimal() => DataType::Utf8,
        DataType::Boolean => DataType::Boolean,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Dictionary(_, values) => return plain_type(values),
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
            DataType::Timestamp(TimeUnit::Millisecond, None)
        }
        DataType::List(element) | DataType::LargeList(element) => {
            let plain = plain_type(element.data_type())?;
            let is_key = matches!(plain, DataType::Int64 | DataType::UInt64 | DataType::Utf8);
            if !is_key || is_decimal(element.data_type()) {
                return None;
            }
            DataType::List(Field::new_list_field(plain, true).into())
        }
        _ => return None,
    })
}

pub(super) fn failed(
    path: &Path,
    error: impl std::error::Error + Send + Sync + 'static,
) -> ImportError {
    ImportError::Parquet {
        path: path.to_owned(),
        source: Box::new(error),
    }
}
