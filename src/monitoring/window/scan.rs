//! From tables to the summary of an hour: one scan, memory bounded by the batch.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, Int64Type, UInt32Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use streamrec_artifact::{
    Artifact, ColumnKind, InputColumn, MISSING_KEY, MISSING_TIME, ProfileBuilder, RawBatch,
    RawColumn, SEGMENTS_MAX,
};

use super::summary::{Group, SegmentKey, WINDOW_VERSION, WindowSummary};
use crate::monitoring::prediction_log::{logged_model, raw_batch};
use crate::monitoring::{Hour, MonitoringError, Store, Table};

const BATCH_ROWS: usize = 8192;

/// What is watched: a model, and the inputs whose values part its rows.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The model.
    pub artifact: &'a Artifact,
    /// Inputs of one key a row.
    pub segments: &'a [String],
}

/// A labelled row, for those who take them one by one.
#[derive(Debug, Clone, Copy)]
pub struct LabelledRow<'a> {
    /// The label's name.
    pub label: &'a str,
    /// The probability.
    pub score: f32,
    /// Whether it happened.
    pub happened: bool,
}

/// The files of an hour, as a summary names them: two hours of the same files have the same summary.
///
/// # Errors
/// When the file system refuses.
pub fn sources(store: &Store, hour: Hour) -> Result<Vec<String>, MonitoringError> {
    let mut found = Vec::new();
    for table in [Table::Predictions, Table::Labelled] {
        let name = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            format!("{table:?}/{name}").to_lowercase()
        };
        found.extend(store.files(table, hour)?.iter().map(name));
    }
    Ok(found)
}

/// Summarises an hour; `each` is given its labelled rows, file by file.
///
/// # Errors
/// A table cannot be read, or is no table of the prediction log.
pub fn summarise(
    store: &Store,
    hour: Hour,
    subject: Subject<'_>,
    each: &mut dyn FnMut(LabelledRow<'_>),
) -> Result<WindowSummary, MonitoringError> {
    let mut scan = Scan::new(hour, subject)?;
    for path in store.files(Table::Predictions, hour)? {
        scan.predictions(&path)?;
    }
    for path in store.files(Table::Labelled, hour)? {
        scan.labelled(&path, each)?;
    }
    let mut summary = scan.summary;
    summary.sources = sources(store, hour)?;
    summary.profile = scan.profile.finish();
    Ok(summary)
}

struct Scan<'a> {
    inputs: &'a [InputColumn],
    labels: &'a [String],
    /// The places of the inputs that part the rows.
    segments: Vec<usize>,
    profile: ProfileBuilder,
    summary: WindowSummary,
    /// The group of each value.
    groups: BTreeMap<(usize, u64), usize>,
}

impl<'a> Scan<'a> {
    fn new(hour: Hour, subject: Subject<'a>) -> Result<Self, MonitoringError> {
        let schema = &subject.artifact.manifest.schema;
        let refuse = |problem| MonitoringError::Settings { problem };
        let profile = ProfileBuilder::new(&schema.inputs, &schema.labels)
            .with_vocabularies(schema, &subject.artifact.vocabularies)
            .with_segments(subject.segments)
            .map_err(refuse)?
            .with_sketches_only();
        let places = subject.segments.iter().map(|name| {
            InputColumn::position(&schema.inputs, name).map_err(|error| refuse(error.to_string()))
        });
        let ages = schema
            .inputs
            .iter()
            .filter(|input| input.kind == ColumnKind::Time);
        Ok(Self {
            inputs: &schema.inputs,
            labels: &schema.labels,
            segments: places.collect::<Result<_, _>>()?,
            summary: WindowSummary {
                format_version: WINDOW_VERSION,
                begin_ms: hour.begin_ms(),
                end_ms: hour.end_ms(),
                sources: Vec::new(),
                versions: BTreeMap::new(),
                foreign_rows: 0,
                newest_ms: None,
                service: Default::default(),
                profile: Default::default(),
                ages_s: ages
                    .map(|input| (input.name.clone(), Default::default()))
                    .collect(),
                concept: BTreeMap::new(),
                groups: vec![Group::default()],
            },
            profile,
            groups: BTreeMap::new(),
        })
    }

    fn predictions(&mut self, path: &Path) -> Result<(), MonitoringError> {
        let own = logged_model(path)?.inputs == self.inputs;
        for batch in batches(path)? {
            let batch = batch?;
            let columns = Columns::of(path, &batch)?;
            self.service(&columns);
            let scored: Vec<usize> = (0..batch.num_rows())
                .filter(|&row| columns.status.value(row) == "ok" && columns.scores.is_valid(row))
                .collect();
            if !own {
                self.summary.foreign_rows += scored.len() as u64;
                continue;
            }
            let raw = rows_of(raw_batch(path, &batch, self.inputs)?, self.inputs, &scored);
            let scores = self.scores(&batch, &columns, &scored);
            let fits = self.profile.observe(&raw);
            fits.map_err(|error| MonitoringError::table(path, error.to_string()))?;
            self.profile
                .observe_scores(&vec![f32::NAN; scores.len()], &scores);
            let times = scored.iter().map(|&row| columns.time_ms.value(row));
            self.ages(&raw, &times.collect::<Vec<_>>());
            for (place, &row) in scored.iter().enumerate() {
                let version = columns.version.value(row);
                match self.summary.versions.get_mut(version) {
                    Some(rows) => *rows += 1,
                    None => drop(self.summary.versions.insert(version.to_owned(), 1)),
                }
                for group in self.groups_of(&raw, place) {
                    let group = &mut self.summary.groups[group];
                    group.rows += 1;
                    let own = &scores[place * self.labels.len()..];
                    for (label, &score) in self.labels.iter().zip(own) {
                        match group.scores.get_mut(label) {
                            Some(scores) => scores.add(score),
                            None => group.scores.entry(label.clone()).or_default().add(score),
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn service(&mut self, columns: &Columns<'_>) {
        let (mut latencies, mut queues) = (Vec::new(), Vec::new());
        for row in 0..columns.status.len() {
            let time = columns.time_ms.value(row);
            self.summary.newest_ms = self.summary.newest_ms.max(Some(time));
            if columns.row.value(row) != 0 {
                continue;
            }
            let status = columns.status.value(row);
            let requests = &mut self.summary.service.requests;
            match requests.get_mut(status) {
                Some(count) => *count += 1,
                None => drop(requests.insert(status.to_owned(), 1)),
            }
            if status == "ok" {
                latencies.push(f64::from(columns.latency_us.value(row)));
                queues.push(f64::from(columns.queue_us.value(row)));
            }
        }
        self.summary.service.latency_us.add(&latencies);
        self.summary.service.queue_us.add(&queues);
    }

    /// `[scored, labels]`; NaN where there is none.
    fn scores(&self, batch: &RecordBatch, columns: &Columns<'_>, scored: &[usize]) -> Vec<f32> {
        let further = self.labels.iter().skip(1).map(|label| {
            let column = batch.column_by_name(&format!("score.{label}"));
            column.and_then(|column| column.as_primitive_opt::<Float32Type>())
        });
        let heads: Vec<_> = [Some(columns.scores)].into_iter().chain(further).collect();
        let value = |row: usize, head: &Option<&arrow::array::Float32Array>| match head {
            Some(scores) if scores.is_valid(row) => scores.value(row),
            _ => f32::NAN,
        };
        let rows = scored.iter();
        rows.flat_map(|&row| heads.iter().map(move |head| value(row, head)))
            .collect()
    }

    fn ages(&mut self, raw: &RawBatch, times: &[i64]) {
        for (input, column) in self.inputs.iter().zip(&raw.columns) {
            let (RawColumn::Time(values), Some(ages)) =
                (column, self.summary.ages_s.get_mut(&input.name))
            else {
                continue;
            };
            let known = values
                .iter()
                .zip(times)
                .filter(|(value, _)| **value != MISSING_TIME);
            let seconds: Vec<f64> = known
                .map(|(value, time)| (*time as f64 - *value as f64) / 1000.0)
                .collect();
            ages.add(&seconds);
        }
    }

    /// The groups of a row: all rows, and a segment of each input.
    fn groups_of(&mut self, raw: &RawBatch, row: usize) -> Vec<usize> {
        let mut found = vec![0];
        for &input in &self.segments {
            let RawColumn::Key(keys) = &raw.columns[input] else {
                continue;
            };
            let key = keys[row];
            if key == MISSING_KEY {
                continue;
            }
            let known = self.groups.get(&(input, key)).copied();
            let group = known.or_else(|| {
                let of_input = self.groups.range((input, 0)..=(input, u64::MAX)).count();
                (of_input < SEGMENTS_MAX).then(|| {
                    let segment = SegmentKey {
                        input: self.inputs[input].name.clone(),
                        key,
                    };
                    self.summary.groups.push(Group {
                        segment: Some(segment),
                        ..Group::default()
                    });
                    let place = self.summary.groups.len() - 1;
                    self.groups.insert((input, key), place);
                    place
                })
            });
            found.extend(group);
        }
        found
    }

    fn labelled(
        &mut self,
        path: &Path,
        each: &mut dyn FnMut(LabelledRow<'_>),
    ) -> Result<(), MonitoringError> {
        let model = logged_model(path)?;
        if model.inputs != self.inputs {
            return Ok(());
        }
        for batch in batches(path)? {
            let batch = batch?;
            let columns = Columns::of(path, &batch)?;
            let labels = column(path, &batch, "label")?;
            let labels = labels.as_primitive_opt::<Float32Type>();
            let labels = labels.ok_or_else(|| wrong(path, "label", "float32"))?;
            let names = batch.column_by_name("label_name");
            let names = names.and_then(|names| names.as_string_opt::<i32>());
            let raw = raw_batch(path, &batch, self.inputs)?;
            let every: Vec<usize> = (0..batch.num_rows()).collect();
            let scores = self.scores(&batch, &columns, &every);
            for row in 0..batch.num_rows() {
                let name = names.filter(|names| names.is_valid(row));
                let name = name.map_or(self.labels.first().map(String::as_str), |names| {
                    Some(names.value(row))
                });
                let head = name.and_then(|name| self.labels.iter().position(|own| own == name));
                let (Some(head), true) = (head, labels.is_valid(row)) else {
                    continue;
                };
                let label = self.labels[head].as_str();
                let score = scores[row * self.labels.len() + head];
                let happened = labels.value(row) > 0.5;
                if score.is_nan() {
                    continue;
                }
                for group in self.groups_of(&raw, row) {
                    let measured = &mut self.summary.groups[group].measured;
                    match measured.get_mut(label) {
                        Some(measured) => measured.add(score, happened),
                        None => measured
                            .entry(label.to_owned())
                            .or_default()
                            .add(score, happened),
                    }
                }
                each(LabelledRow {
                    label,
                    score,
                    happened,
                });
            }
        }
        Ok(())
    }
}

/// The rows of `raw` at `places`.
fn rows_of(raw: RawBatch, inputs: &[InputColumn], places: &[usize]) -> RawBatch {
    if places.len() == raw.rows {
        return raw;
    }
    let mut found = RawBatch::new(inputs);
    places.iter().for_each(|&row| found.push_row_of(&raw, row));
    found
}

/// The columns that every table has.
struct Columns<'a> {
    row: &'a arrow::array::UInt32Array,
    time_ms: &'a arrow::array::Int64Array,
    version: &'a arrow::array::StringArray,
    status: &'a arrow::array::StringArray,
    latency_us: &'a arrow::array::UInt32Array,
    queue_us: &'a arrow::array::UInt32Array,
    scores: &'a arrow::array::Float32Array,
}

impl<'a> Columns<'a> {
    fn of(path: &Path, batch: &'a RecordBatch) -> Result<Self, MonitoringError> {
        let count = |name: &str| {
            let found = column(path, batch, name)?.as_primitive_opt::<UInt32Type>();
            found.ok_or_else(|| wrong(path, name, "uint32"))
        };
        let text = |name: &str| {
            let found = column(path, batch, name)?.as_string_opt::<i32>();
            found.ok_or_else(|| wrong(path, name, "utf8"))
        };
        let time = column(path, batch, "time_ms")?.as_primitive_opt::<Int64Type>();
        let scores = column(path, batch, "score")?.as_primitive_opt::<Float32Type>();
        Ok(Self {
            row: count("row")?,
            time_ms: time.ok_or_else(|| wrong(path, "time_ms", "int64"))?,
            version: text("version")?,
            status: text("status")?,
            latency_us: count("latency_us")?,
            queue_us: count("queue_us")?,
            scores: scores.ok_or_else(|| wrong(path, "score", "float32"))?,
        })
    }
}

fn column<'a>(
    path: &Path,
    batch: &'a RecordBatch,
    name: &str,
) -> Result<&'a dyn Array, MonitoringError> {
    let found = batch.column_by_name(name);
    let found = found.ok_or_else(|| MonitoringError::table(path, format!("no column `{name}`")))?;
    Ok(found.as_ref())
}

fn wrong(path: &Path, name: &str, expected: &str) -> MonitoringError {
    MonitoringError::table(path, format!("column `{name}`: expected {expected}"))
}

fn batches(
    path: &Path,
) -> Result<impl Iterator<Item = Result<RecordBatch, MonitoringError>>, MonitoringError> {
    let file = File::open(path).map_err(MonitoringError::file("read", path))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|builder| builder.with_batch_size(BATCH_ROWS).build())
        .map_err(MonitoringError::parquet(path))?;
    let path = path.to_owned();
    Ok(reader.map(move |batch| batch.map_err(MonitoringError::arrow(&path))))
}
