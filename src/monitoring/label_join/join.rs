//! The join: each label to the prediction of its request and row, if it came within the window.
//!
//! 1. A piece of the labels goes into a map by request, row and label.
//! 2. Labels that an earlier join has written are struck out: a second run of the same file adds nothing.
//! 3. The keys of the predictions of the hours in question are read; the first prediction within the window
//!    takes its labels.
//! 4. Their rows are read in full and written with the labels, a new file for each file of predictions.
//! 5. Labels without a prediction are written to `unjoined/`, with the reason, in the form that they came in.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, Float64Array, Int64Array, StringArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_128;

use super::labels::{Label, LabelFile};
use super::predictions;
use crate::monitoring::prediction_log::{MODEL_METADATA, logged_model};
use crate::monitoring::store::TableFile;
use crate::monitoring::{Hour, MonitoringError, Store, Table};

/// Labels that are joined at a time, so that memory does not grow with their number.
const PIECE: usize = 1 << 20;

/// What a join found and did. Every label is in one of `joined`, `duplicates`, `late`, `early`,
/// `unknown` and `unmatched`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct JoinReport {
    /// Labels of the file.
    pub labels: u64,
    /// Joined now.
    pub joined: u64,
    /// Of a request, row and label that has one already; the first one stays.
    pub duplicates: u64,
    /// Duplicates that say something else than the first one.
    pub contradictions: u64,
    /// Longer after the prediction than the window.
    pub late: u64,
    /// Before the prediction.
    pub early: u64,
    /// Of a prediction whose model has no such label, by the label's name.
    pub unknown: BTreeMap<String, u64>,
    /// Of a prediction that is not there: not logged, or not compacted yet.
    pub unmatched: u64,
    /// Where labels stand that were not joined.
    pub unjoined: Option<PathBuf>,
}

/// Why a label was not joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Miss {
    Unmatched,
    Unknown,
    Early,
    Late,
}

impl Miss {
    fn name(self) -> &'static str {
        match self {
            Self::Unmatched => "unmatched",
            Self::Unknown => "unknown",
            Self::Early => "early",
            Self::Late => "late",
        }
    }
}

type Key = (u128, u32);

fn key(request_id: &str, row: u32) -> Key {
    (xxh3_128(request_id.as_bytes()), row)
}

/// Where a label goes.
enum Fate {
    Waits(Miss),
    Known,
    Found,
}

/// Joins the labels of a file with the predictions in `store` that came up to `window_ms` before them.
///
/// # Errors
/// When another command writes the tables, the file is no table of labels, or the file system refuses. What was
/// joined before stays joined, and the same command again does the rest.
pub fn join(
    file: &LabelFile,
    store: &Store,
    window_ms: i64,
) -> Result<JoinReport, MonitoringError> {
    let _lock = store.lock()?;
    let mut report = JoinReport::default();
    let mut reader = file.read()?;
    let path = store.unjoined(file.digest());
    let mut unjoined: Option<TableFile> = None;
    loop {
        let mut labels = Vec::new();
        let more = reader.next(PIECE, &mut labels)?;
        if !labels.is_empty() {
            let missed = Piece::new(labels, window_ms).join(file, store, &mut report)?;
            if !missed.is_empty() {
                let file = match &mut unjoined {
                    Some(file) => file,
                    None => unjoined.insert(TableFile::create(&path, &missed_schema(), &[])?),
                };
                file.write(&missed_batch(&missed).map_err(MonitoringError::arrow(&path))?)?;
            }
        }
        if !more {
            break;
        }
    }
    match unjoined {
        Some(file) => report.unjoined = Some(file.finish()?),
        // What a run before could not join is joined by now.
        None => match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(MonitoringError::file("remove", &path)(error));
            }
            _ => {}
        },
    }
    Ok(report)
}

/// Labels in memory.
struct Piece {
    labels: Vec<Label>,
    fates: Vec<Fate>,
    /// The labels of each row.
    of_row: HashMap<Key, Vec<u32>>,
    window_ms: i64,
    /// The hours that their predictions may be of.
    hours: (Hour, Hour),
    duplicates: u64,
    contradictions: u64,
}

impl Piece {
    fn new(labels: Vec<Label>, window_ms: i64) -> Self {
        let times = || labels.iter().map(|label| label.time_ms);
        let (first, last) = (times().min().unwrap_or(0), times().max().unwrap_or(0));
        // Twice the window back, so that late ones are told from unmatched ones; and an hour ahead.
        let first = Hour::of(first.saturating_sub(window_ms.saturating_mul(2)));
        let last = Hour::of(Hour::of(last).end_ms());
        let mut piece = Self {
            fates: labels
                .iter()
                .map(|_| Fate::Waits(Miss::Unmatched))
                .collect(),
            of_row: HashMap::with_capacity(labels.len()),
            labels: Vec::new(),
            window_ms,
            hours: (first, last),
            duplicates: 0,
            contradictions: 0,
        };
        for (place, label) in labels.iter().enumerate() {
            let own = piece
                .of_row
                .entry(key(&label.request_id, label.row))
                .or_default();
            let first = own.iter().map(|&other| &labels[other as usize]);
            let first = first.into_iter().find(|other| other.name == label.name);
            match first {
                None => own.push(place as u32),
                Some(first) => {
                    piece.fates[place] = Fate::Known;
                    piece.duplicates += 1;
                    piece.contradictions += u64::from(first.label != label.label);
                }
            }
        }
        piece.labels = labels;
        piece
    }

    /// Joins what can be joined now; what cannot.
    fn join(
        mut self,
        file: &LabelFile,
        store: &Store,
        report: &mut JoinReport,
    ) -> Result<Vec<(Label, Miss)>, MonitoringError> {
        let within = |hour: &Hour| self.hours.0 <= *hour && *hour <= self.hours.1;
        let of = |table| -> Result<Vec<Hour>, MonitoringError> {
            Ok(store.hours(table)?.into_iter().filter(within).collect())
        };
        let (labelled, predicted) = (of(Table::Labelled)?, of(Table::Predictions)?);
        for hour in labelled {
            for path in store.files(Table::Labelled, hour)? {
                self.strike_out(&path)?;
            }
        }
        let mut joined = 0;
        for hour in predicted {
            for path in store.files(Table::Predictions, hour)? {
                let found = self.find(&path)?;
                if !found.is_empty() {
                    joined += found.len() as u64;
                    self.write(file, store, hour, &path, &found)?;
                }
            }
        }
        report.labels += self.labels.len() as u64;
        report.joined += joined;
        report.duplicates += self.duplicates;
        report.contradictions += self.contradictions;
        let mut missed = Vec::new();
        for (label, fate) in self.labels.into_iter().zip(self.fates) {
            if let Fate::Waits(miss) = fate {
                match miss {
                    Miss::Unmatched => report.unmatched += 1,
                    Miss::Unknown => *report.unknown.entry(label.name.clone()).or_default() += 1,
                    Miss::Early => report.early += 1,
                    Miss::Late => report.late += 1,
                }
                missed.push((label, miss));
            }
        }
        Ok(missed)
    }

    /// Forgets the labels that a file of labelled rows has already.
    fn strike_out(&mut self, path: &std::path::Path) -> Result<(), MonitoringError> {
        use arrow::array::AsArray;
        use arrow::datatypes::{Float32Type, UInt32Type};
        let columns = ["request_id", "row", "label_name", "label"];
        let first_name = logged_model(path)?
            .labels
            .first()
            .cloned()
            .unwrap_or_default();
        for batch in predictions::open(path, Some(&columns))? {
            let batch = batch.map_err(MonitoringError::arrow(path))?;
            let lacks = || MonitoringError::table(path, "it is no table of labelled predictions");
            let column = |name: &str| batch.column_by_name(name).ok_or_else(lacks);
            let text = |name: &str| column(name)?.as_string_opt::<i32>().ok_or_else(lacks);
            let (ids, names) = (text("request_id")?, text("label_name")?);
            let rows = column("row")?
                .as_primitive_opt::<UInt32Type>()
                .ok_or_else(lacks)?;
            let labels = column("label")?
                .as_primitive_opt::<Float32Type>()
                .ok_or_else(lacks)?;
            for row in 0..batch.num_rows() {
                let Some(own) = self.of_row.get_mut(&key(ids.value(row), rows.value(row))) else {
                    continue;
                };
                own.retain(|&place| {
                    let label = &self.labels[place as usize];
                    let name = label.name_or(&first_name);
                    let is_known = name == names.value(row);
                    if is_known {
                        self.fates[place as usize] = Fate::Known;
                        self.duplicates += 1;
                        self.contradictions += u64::from(label.label != labels.value(row));
                    }
                    !is_known
                });
            }
        }
        Ok(())
    }

    /// The labels of a file of predictions, each with the number of its row, ascending.
    fn find(&mut self, path: &std::path::Path) -> Result<Vec<(u64, u32)>, MonitoringError> {
        let names = logged_model(path)?.labels;
        let first = names.first().map_or("", String::as_str);
        let mut found = Vec::new();
        let (labels, fates, window_ms) = (&self.labels, &mut self.fates, self.window_ms);
        let (duplicates, contradictions) = (&mut self.duplicates, &mut self.contradictions);
        let of_row = &mut self.of_row;
        predictions::each_scored(path, |number, id, row, time_ms| {
            let Some(own) = of_row.get_mut(&key(id, row)) else {
                return;
            };
            let mut taken: Vec<&Label> = Vec::new();
            own.retain(|&place| {
                let label = &labels[place as usize];
                let delay = label.time_ms.saturating_sub(time_ms);
                let is_known = label.name.is_empty() || names.contains(&label.name);
                let is_taken = taken
                    .iter()
                    .any(|one| one.name_or(first) == label.name_or(first));
                let miss = match delay {
                    _ if is_taken => return true,
                    _ if !is_known => Miss::Unknown,
                    ..0 => Miss::Early,
                    delay if delay > window_ms => Miss::Late,
                    _ => {
                        fates[place as usize] = Fate::Found;
                        found.push((number, place));
                        taken.push(label);
                        return false;
                    }
                };
                fates[place as usize] = Fate::Waits(miss);
                true
            });
            // Of the first label once by its name and once without.
            own.retain(|&place| {
                let label = &labels[place as usize];
                let mut same = taken.iter();
                let Some(one) = same.find(|one| one.name_or(first) == label.name_or(first)) else {
                    return true;
                };
                fates[place as usize] = Fate::Known;
                *duplicates += 1;
                *contradictions += u64::from(one.label != label.label);
                false
            });
        })?;
        Ok(found)
    }

    /// Writes rows of a file of predictions with their labels.
    fn write(
        &self,
        file: &LabelFile,
        store: &Store,
        hour: Hour,
        path: &std::path::Path,
        found: &[(u64, u32)],
    ) -> Result<(), MonitoringError> {
        let numbers: Vec<u64> = found.iter().map(|(number, _)| *number).collect();
        let rows = predictions::rows(path, &numbers)?;
        let model = logged_model(path)?;
        let labels = || found.iter().map(|(_, place)| &self.labels[*place as usize]);
        let first = model.labels.first().map_or("", String::as_str);
        let name = |label: &Label| label.name_or(first).to_owned();
        let own: [(&str, bool, ArrayRef); 4] = [
            (
                "label_name",
                false,
                Arc::new(labels().map(|l| Some(name(l))).collect::<StringArray>()),
            ),
            (
                "label",
                false,
                Arc::new(labels().map(|l| l.label).collect::<Float32Array>()),
            ),
            (
                "label_time_ms",
                false,
                Arc::new(labels().map(|l| l.time_ms).collect::<Int64Array>()),
            ),
            (
                "value",
                true,
                Arc::new(labels().map(|l| l.value).collect::<Float64Array>()),
            ),
        ];
        let mut fields: Vec<_> = rows.schema().fields().iter().cloned().collect();
        let mut columns = rows.columns().to_vec();
        for (place, (name, nullable, column)) in own.into_iter().enumerate() {
            let field = Field::new(name, column.data_type().clone(), nullable);
            // Before the inputs, which are many.
            fields.insert(2 + place, Arc::new(field));
            columns.insert(2 + place, column);
        }
        let out = free_path(store, hour, file.digest());
        let schema = Arc::new(Schema::new(fields));
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns);
        let batch = batch.map_err(MonitoringError::arrow(&out))?;
        let told = serde_json::to_string(&model)
            .map_err(|error| MonitoringError::table(&out, error.to_string()))?;
        let mut table = TableFile::create(&out, &schema, &[(MODEL_METADATA, told)])?;
        table.write(&batch)?;
        table.finish()?;
        Ok(())
    }
}

/// A name that no file has: an earlier run of the same labels may have found other predictions.
fn free_path(store: &Store, hour: Hour, digest: &str) -> PathBuf {
    let folder = store.folder(Table::Labelled, hour);
    let mut number = 0;
    loop {
        let path = folder.join(format!("{digest}-{number}.parquet"));
        if !path.exists() {
            return path;
        }
        number += 1;
    }
}

fn missed_schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("request_id", DataType::Utf8, false),
        Field::new("row", DataType::UInt32, false),
        Field::new("label_name", DataType::Utf8, true),
        Field::new("label", DataType::Float32, false),
        Field::new("label_time_ms", DataType::Int64, false),
        Field::new("value", DataType::Float64, true),
        Field::new("reason", DataType::Utf8, false),
    ]))
}

fn missed_batch(missed: &[(Label, Miss)]) -> Result<RecordBatch, arrow::error::ArrowError> {
    let labels = || missed.iter().map(|(label, _)| label);
    let name = |label: &Label| (!label.name.is_empty()).then(|| label.name.clone());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(
            labels()
                .map(|l| Some(&l.request_id))
                .collect::<StringArray>(),
        ),
        Arc::new(labels().map(|l| l.row).collect::<UInt32Array>()),
        Arc::new(labels().map(name).collect::<StringArray>()),
        Arc::new(labels().map(|l| l.label).collect::<Float32Array>()),
        Arc::new(labels().map(|l| l.time_ms).collect::<Int64Array>()),
        Arc::new(labels().map(|l| l.value).collect::<Float64Array>()),
        Arc::new(
            missed
                .iter()
                .map(|(_, miss)| Some(miss.name()))
                .collect::<StringArray>(),
        ),
    ];
    RecordBatch::try_new(missed_schema(), columns)
}
