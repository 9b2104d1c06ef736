//! Hours of traffic as tables of predictions and labels, some of which go wrong.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, Int64Array, StringArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use streamrec::data::{Block, Dataset, RawBatch, RawColumn, Split};
use streamrec::monitoring::Hour;
use streamrec::monitoring::prediction_log::{MODEL_METADATA, input_array, prediction_schema};
use streamrec_artifact::{Artifact, InputColumn, key};
use streamrec_serving::prediction_log::LoggedModel;

use crate::workbench::{Workbench, config, expect_success, said, streamrec};

const HOUR_MS: i64 = 3_600_000;
const BEGIN_MS: i64 = 1_805_018_400_000;

/// What is wrong with an hour.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Incident {
    None,
    /// 68 % of one client's durations are missing.
    NullDurations,
    /// The server takes the hour of day in UTC, training had it in local time, eight hours ahead.
    UtcHours,
    /// The server counts `complete`, the events say `completion`: the count is always 0.
    CompletionMismatch,
    /// The model's errors grow: scores follow labels less and less, 0 not at all.
    Decline(f64),
    /// Half of the requests fail, the others wait.
    Outage,
    /// 4 % of the moments lie a day ahead, and so the ages below zero.
    PublishedAhead,
    /// Old items are kept for 90 days, not 60, and counts count as long.
    NinetyDays,
    /// Events of a fifth kind count as shown and not clicked: rates fall by 8 %.
    Bookmarks,
    /// Few items are scored, and none for one client.
    Narrow,
}

pub struct Traffic {
    pub bench: Workbench,
    pub artifact: String,
    model: LoggedModel,
    rows: RawBatch,
}

impl Traffic {
    /// A model, and the rows that it was trained on to draw from: without an incident nothing drifts.
    pub fn new() -> Self {
        let bench = Workbench::with_events(12_000);
        let settings = ["train.global_batch=512", "train.max_steps=10"];
        // With a moment as an input.
        let text = fs::read_to_string(config("synthetic_dcn_v2.toml")).expect("a config");
        let hour = "[[features]]\nname = \"hour\"\nkind = \"categorical\"\ncolumn = \"event_time\"\n\
                    encoding = \"hour_of_day\"\ntime_zone = \"UTC\"\n\n[model]";
        let path = bench.path("experiment.toml");
        fs::write(&path, text.replace("[model]", hour)).expect("written");
        bench.launch(1, &path, "run", &settings);
        let (run, artifact) = (bench.path("run"), bench.path("artifact"));
        expect_success(&streamrec(&["evaluate", &run]));
        let export = ["export", &run, "--out", &artifact, "--segment", "platform"];
        expect_success(&streamrec(&export));
        let read = Artifact::read(Path::new(&artifact)).expect("an artifact");
        let schema = read.manifest.schema;
        let model = LoggedModel {
            name: read.manifest.name,
            version: "0123456789abcdef".into(),
            labels: schema.labels,
            inputs: schema.inputs,
        };
        let dataset = Dataset::open(bench.path("data")).expect("a dataset");
        let pack = dataset.pack(Split::Train).expect("a split");
        let (mut block, mut rows) = (Block::default(), RawBatch::new(&model.inputs));
        for number in 0..pack.blocks() {
            pack.read_block(number, &mut block).expect("a block");
            let columns = model.inputs.iter().map(|input| {
                let place = pack.column(&input.name).expect("a column");
                block.columns[place].clone()
            });
            let part = RawBatch {
                rows: block.rows,
                columns: columns.collect(),
            };
            (0..part.rows).for_each(|row| rows.push_row_of(&part, row));
        }
        Self {
            bench,
            artifact,
            model,
            rows,
        }
    }

    fn input(&self, name: &str) -> usize {
        InputColumn::position(&self.model.inputs, name).expect("an input")
    }

    fn spoil(&self, raw: &mut RawBatch, incident: Incident, hour: u64) {
        let platforms = raw.columns[self.input("platform")].clone();
        let is_ios = |row: usize| match &platforms {
            RawColumn::Key(platforms) => platforms[row] == key::from_text("ios"),
            _ => panic!("another kind of column"),
        };
        let numbers: Vec<&str> = match incident {
            Incident::NullDurations => vec!["item_duration_s"],
            Incident::CompletionMismatch => vec!["user_clicks"],
            Incident::PublishedAhead => vec!["item_age_days"],
            Incident::NinetyDays => vec!["item_age_days", "user_clicks", "user_impressions"],
            _ => vec![],
        };
        for name in numbers {
            let RawColumn::Dense(values) = &mut raw.columns[self.input(name)] else {
                panic!("another kind of column");
            };
            for (row, value) in values.iter_mut().enumerate() {
                let (chance, share) = (draw(hour, row, 9), draw(hour, row, 10) as f32);
                match (incident, name) {
                    (Incident::CompletionMismatch, _) => *value = 0.0,
                    (Incident::NullDurations, _) if is_ios(row) && chance < 0.68 => {
                        *value = f32::NAN
                    }
                    (Incident::PublishedAhead, _) if chance < 0.04 => *value = -share,
                    (Incident::NinetyDays, "item_age_days") if chance < 0.27 => {
                        *value = 60.0 + 30.0 * share;
                    }
                    (Incident::NinetyDays, "user_clicks" | "user_impressions") => *value *= 1.5,
                    _ => {}
                }
            }
        }
        for (input, column) in self.model.inputs.iter().zip(&mut raw.columns) {
            match (incident, input.name.as_str(), column) {
                (Incident::UtcHours, "local_hour", RawColumn::Key(hours)) => {
                    hours.iter_mut().for_each(|hour| *hour = (*hour + 16) % 24);
                }
                (Incident::PublishedAhead, _, RawColumn::Time(times)) => {
                    let ahead = |row: &usize| draw(hour, *row, 9) < 0.04;
                    (0..times.len())
                        .filter(ahead)
                        .for_each(|row| times[row] += 24 * HOUR_MS);
                }
                (Incident::Narrow, "item_id", RawColumn::Key(items)) => {
                    items.iter_mut().for_each(|item| *item %= 4);
                }
                (Incident::Narrow, "platform", RawColumn::Key(platforms)) => {
                    let ios = (0..platforms.len()).filter(|&row| is_ios(row));
                    ios.for_each(|row| platforms[row] = key::from_text("android"));
                }
                _ => {}
            }
        }
    }

    /// Writes an hour of traffic, each row a request, and its labels.
    pub fn hour(&self, number: u64, rows: usize, incident: Incident) {
        let mut raw = RawBatch::new(&self.model.inputs);
        for row in 0..rows {
            let from = (draw(number, row, 1) * self.rows.rows as f64) as usize;
            raw.push_row_of(&self.rows, from);
        }
        let begin = BEGIN_MS + number as i64 * HOUR_MS;
        let asked_ms = |row| begin + (draw(number, row, 6) * HOUR_MS as f64) as i64;
        // Training lies long before these hours: what was served is of its own time.
        for column in &mut raw.columns {
            if let RawColumn::Time(times) = column {
                (0..rows).for_each(|row| times[row] = asked_ms(row));
            }
        }
        self.spoil(&mut raw, incident, number);
        let probability = |row| draw(number, row, 2).powi(2);
        let score = |row| match incident {
            Incident::Decline(left) => {
                left * probability(row) + (1.0 - left) * draw(number, row, 4).powi(2)
            }
            _ => probability(row),
        };
        let status = |row| {
            let failed = incident == Incident::Outage && draw(number, row, 5) < 0.5;
            if failed { "failed" } else { "ok" }
        };
        let queue = if incident == Incident::Outage {
            80_000
        } else {
            200
        };
        let text = |of: &dyn Fn(usize) -> String| -> ArrayRef {
            Arc::new((0..rows).map(|row| Some(of(row))).collect::<StringArray>())
        };
        let count = |of: &dyn Fn(usize) -> u32| -> ArrayRef {
            Arc::new((0..rows).map(of).collect::<UInt32Array>())
        };
        let scores: Float32Array = (0..rows)
            .map(|row| (status(row) == "ok").then(|| score(row) as f32))
            .collect();
        let times = (0..rows).map(asked_ms);
        let mut columns: Vec<ArrayRef> = vec![
            text(&|row| format!("{number}-{row}")),
            count(&|_| 0),
            Arc::new(times.collect::<Int64Array>()),
            text(&|_| self.model.name.clone()),
            text(&|_| self.model.version.clone()),
            text(&|row| status(row).to_owned()),
            count(&|row| queue + 1500 + (draw(number, row, 7) * 2000.0) as u32),
            count(&|_| queue),
            count(&|_| 1000),
            Arc::new(scores),
        ];
        let inputs = self.model.inputs.iter().zip(&raw.columns);
        columns.extend(inputs.map(|(input, column)| input_array(input, column)));
        let schema = prediction_schema(&self.model);
        let predictions = RecordBatch::try_new(schema.clone(), columns.clone()).expect("columns");
        self.write("predictions", begin, &predictions);
        let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
        for (name, of) in [("label_name", DataType::Utf8), ("label", DataType::Float32)] {
            fields.push(Arc::new(Field::new(name, of, false)));
        }
        columns.push(text(&|_| self.model.labels[0].clone()));
        let kept = if incident == Incident::Bookmarks {
            0.92
        } else {
            1.0
        };
        let happened = |row| f32::from(u8::from(draw(number, row, 3) < kept * probability(row)));
        columns.push(Arc::new((0..rows).map(happened).collect::<Float32Array>()));
        let labelled =
            RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("columns");
        self.write("labelled", begin, &labelled);
    }

    fn write(&self, table: &str, begin: i64, batch: &RecordBatch) {
        let folder = self
            .bench
            .path(&format!("live/{table}/{}", Hour::of(begin)));
        fs::create_dir_all(&folder).expect("a folder");
        let model = serde_json::to_string(&self.model).expect("JSON");
        let properties = WriterProperties::builder()
            .set_key_value_metadata(Some(vec![KeyValue::new(MODEL_METADATA.to_owned(), model)]))
            .build();
        let file = File::create(format!("{folder}/part.parquet")).expect("a file");
        let mut writer =
            ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("a writer");
        writer.write(batch).expect("written");
        writer.close().expect("closed");
    }

    /// Judges all hours before `hours`, and gives what was said.
    pub fn watch(&self, rules: &str, hours: i64) -> String {
        let now = jiff::Timestamp::from_millisecond(BEGIN_MS + hours * HOUR_MS + HOUR_MS / 2);
        let now = now.expect("a moment").to_string();
        let path = self.bench.path("rules.toml");
        fs::write(&path, rules).expect("written");
        let dir = self.bench.path("live");
        let output = streamrec(&[
            "monitor",
            "run",
            "--dir",
            &dir,
            "--artifact",
            &self.artifact,
            "--rules",
            &path,
            "--once",
            "--now",
            &now,
        ]);
        expect_success(&output);
        said(&output)
    }

    /// The names of the files of a folder, in order.
    pub fn files(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.bench.path(&format!("live/{folder}")));
        let entries = entries.into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }
}

/// An even draw from 0 to 1.
fn draw(hour: u64, row: usize, what: u64) -> f64 {
    let bits = key::hash(key::hash(what << 32 | hour) ^ row as u64);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}
