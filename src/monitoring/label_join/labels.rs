//! Files of labels: Parquet or CSV, read in bounded pieces.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type, UInt32Type};
use arrow::record_batch::RecordBatch;
use jiff::Timestamp;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use streamrec_serving::prediction_log::logged_id;
use xxhash_rust::xxh3::Xxh3;

use crate::monitoring::MonitoringError;

/// A label as it came.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Label {
    /// The id under which its request is logged.
    pub(super) request_id: String,
    pub(super) row: u32,
    /// The model's label; the first one where it is empty.
    pub(super) name: String,
    pub(super) label: f32,
    pub(super) time_ms: i64,
    pub(super) value: Option<f64>,
}

impl Label {
    /// Its name, where it has one.
    pub(super) fn name_or<'l>(&'l self, first: &'l str) -> &'l str {
        if self.name.is_empty() {
            first
        } else {
            &self.name
        }
    }
}

/// A file of labels.
#[derive(Debug, Clone)]
pub struct LabelFile {
    path: PathBuf,
    /// 16 hexadecimal digits of its bytes: the same file again is the same labels again.
    digest: String,
}

/// Reads a file's labels piece by piece.
pub struct LabelReader {
    path: PathBuf,
    rows: u64,
    source: Source,
}

enum Source {
    Parquet(ParquetRecordBatchReader),
    Csv {
        reader: Box<csv::Reader<File>>,
        columns: CsvColumns,
    },
}

/// Where the columns of a CSV file stand.
struct CsvColumns {
    request_id: usize,
    row: usize,
    label: usize,
    time: usize,
    name: Option<usize>,
    value: Option<usize>,
}

impl LabelFile {
    /// The file at `path`, by its extension.
    ///
    /// # Errors
    /// When it cannot be read, or is neither .parquet nor .csv.
    pub fn open(path: &Path) -> Result<Self, MonitoringError> {
        let extension = path.extension().and_then(|extension| extension.to_str());
        if !matches!(extension, Some("parquet" | "csv")) {
            let problem = "expected a .parquet or .csv file of labels";
            return Err(MonitoringError::table(path, problem));
        }
        let digest = || -> io::Result<u64> {
            let mut file = BufReader::new(File::open(path)?);
            let (mut hash, mut piece) = (Xxh3::new(), vec![0; 1 << 16]);
            loop {
                match file.read(&mut piece)? {
                    0 => return Ok(hash.digest()),
                    read => hash.update(&piece[..read]),
                }
            }
        };
        let digest = digest().map_err(MonitoringError::file("read", path))?;
        Ok(Self {
            path: path.to_owned(),
            digest: format!("{digest:016x}"),
        })
    }

    /// Names the content of the file.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Begins to read.
    ///
    /// # Errors
    /// When the file cannot be read, or lacks a column.
    pub fn read(&self) -> Result<LabelReader, MonitoringError> {
        let path = &self.path;
        let file = File::open(path).map_err(MonitoringError::file("read", path))?;
        let source = if path.extension().is_some_and(|extension| extension == "csv") {
            let mut reader = csv::Reader::from_reader(file);
            let head = reader.headers();
            let head = head.map_err(|error| MonitoringError::table(path, error.to_string()))?;
            let columns = CsvColumns::of(path, head)?;
            Source::Csv {
                reader: Box::new(reader),
                columns,
            }
        } else {
            let builder = ParquetRecordBatchReaderBuilder::try_new(file)
                .map_err(MonitoringError::parquet(path))?;
            for name in ["request_id", "row", "label", "label_time_ms"] {
                if builder.schema().column_with_name(name).is_none() {
                    return Err(missing(path, name));
                }
            }
            Source::Parquet(builder.build().map_err(MonitoringError::parquet(path))?)
        };
        Ok(LabelReader {
            path: path.clone(),
            rows: 0,
            source,
        })
    }
}

fn missing(path: &Path, name: &str) -> MonitoringError {
    let problem = format!(
        "no column `{name}`: expected request_id, row, label and label_time_ms, and label_name and value where \
         there are such"
    );
    MonitoringError::table(path, problem)
}

impl CsvColumns {
    fn of(path: &Path, head: &csv::StringRecord) -> Result<Self, MonitoringError> {
        let find = |name: &str| head.iter().position(|column| column.trim() == name);
        let need = |name: &str| find(name).ok_or_else(|| missing(path, name));
        Ok(Self {
            request_id: need("request_id")?,
            row: need("row")?,
            label: need("label")?,
            time: need("label_time_ms")?,
            name: find("label_name"),
            value: find("value"),
        })
    }
}

impl LabelReader {
    /// Adds up to `most` labels to `labels`, about; `false` at the end.
    pub(super) fn next(
        &mut self,
        most: usize,
        labels: &mut Vec<Label>,
    ) -> Result<bool, MonitoringError> {
        while labels.len() < most {
            let more = match &mut self.source {
                Source::Csv { reader, columns } => {
                    let mut record = csv::StringRecord::new();
                    let read = reader.read_record(&mut record);
                    let read = read
                        .map_err(|error| MonitoringError::table(&self.path, error.to_string()))?;
                    if read {
                        self.rows += 1;
                        let label = columns.label(&record);
                        let row = self.rows;
                        labels.push(label.map_err(|problem| {
                            MonitoringError::table(&self.path, format!("row {row}: {problem}"))
                        })?);
                    }
                    read
                }
                Source::Parquet(reader) => match reader.next() {
                    None => false,
                    Some(batch) => {
                        let batch = batch.map_err(MonitoringError::arrow(&self.path))?;
                        of_batch(&self.path, &batch, self.rows, labels)?;
                        self.rows += batch.num_rows() as u64;
                        true
                    }
                },
            };
            if !more {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl CsvColumns {
    fn label(&self, record: &csv::StringRecord) -> Result<Label, String> {
        let text = |column: usize| record.get(column).unwrap_or("").trim();
        let of = |name: &str, expected: &str, got: &str| {
            format!("`{name}`: expected {expected}, got {got:?}")
        };
        let (row, label, time) = (text(self.row), text(self.label), text(self.time));
        let time_ms = time.parse::<i64>().ok().or_else(|| {
            let time: Timestamp = time.parse().ok()?;
            Some(time.as_millisecond())
        });
        let value = self.value.map(text).filter(|text| !text.is_empty());
        let checked = Label {
            request_id: logged_id(text(self.request_id)),
            row: row
                .parse()
                .map_err(|_| of("row", "a row's number from 0", row))?,
            name: self.name.map_or("", text).to_owned(),
            label: match label {
                "true" => 1.0,
                "false" => 0.0,
                _ => label.parse().map_err(|_| of("label", "a number", label))?,
            },
            time_ms: time_ms
                .ok_or_else(|| of("label_time_ms", "milliseconds since 1970 UTC", time))?,
            value: match value {
                None => None,
                Some(text) => Some(text.parse().map_err(|_| of("value", "a number", text))?),
            },
        };
        check(checked)
    }
}

fn check(label: Label) -> Result<Label, String> {
    if label.request_id.is_empty() {
        return Err("`request_id` is empty".to_owned());
    }
    if !label.label.is_finite() {
        return Err(format!(
            "`label`: expected a finite number, got {}",
            label.label
        ));
    }
    Ok(label)
}

fn of_batch(
    path: &Path,
    batch: &RecordBatch,
    before: u64,
    labels: &mut Vec<Label>,
) -> Result<(), MonitoringError> {
    let column = |name: &str, wanted: &DataType| {
        let found = batch.column_by_name(name);
        found
            .map(|found| {
                cast(found, wanted).map_err(|error| {
                    MonitoringError::table(path, format!("column `{name}`: {error}"))
                })
            })
            .transpose()
    };
    let need = |name, wanted| column(name, wanted)?.ok_or_else(|| missing(path, name));
    let ids = need("request_id", &DataType::Utf8)?;
    let rows = need("row", &DataType::UInt32)?;
    let values = need("label", &DataType::Float32)?;
    let times = need("label_time_ms", &DataType::Int64)?;
    let names = column("label_name", &DataType::Utf8)?;
    let worths = column("value", &DataType::Float64)?;
    for (name, array) in [
        ("request_id", &ids),
        ("row", &rows),
        ("label", &values),
        ("label_time_ms", &times),
    ] {
        if let Some(row) = (0..array.len()).find(|&row| array.is_null(row)) {
            let row = before + row as u64 + 1;
            let problem = format!("row {row}: `{name}` has no value, or one of another type");
            return Err(MonitoringError::table(path, problem));
        }
    }
    let ids = ids.as_string::<i32>();
    let (rows, values) = (
        rows.as_primitive::<UInt32Type>(),
        values.as_primitive::<Float32Type>(),
    );
    let times = times.as_primitive::<Int64Type>();
    for row in 0..batch.num_rows() {
        let name = names.as_ref().map(|names| names.as_string::<i32>());
        let worth = worths
            .as_ref()
            .map(|worths| worths.as_primitive::<Float64Type>());
        let label = Label {
            request_id: logged_id(ids.value(row)),
            row: rows.value(row),
            name: name
                .filter(|name| name.is_valid(row))
                .map_or("", |name| name.value(row))
                .to_owned(),
            label: values.value(row),
            time_ms: times.value(row),
            value: worth
                .filter(|worth| worth.is_valid(row))
                .map(|worth| worth.value(row)),
        };
        labels.push(check(label).map_err(|problem| {
            let row = before + row as u64 + 1;
            MonitoringError::table(path, format!("row {row}: {problem}"))
        })?);
    }
    Ok(())
}
