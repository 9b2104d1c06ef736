//! Incidents that only live traffic shows, replayed end to end on generated data: tables of predictions and labels
//! in, alerts, incidents, posts, triggers and a post-mortem out. `docs/guides/incidents.md` holds what was said.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, Int64Array, StringArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use serde_json::Value;
use streamrec::data::{Block, Dataset, RawBatch, RawColumn, Split};
use streamrec::monitoring::Hour;
use streamrec::monitoring::prediction_log::{MODEL_METADATA, input_array, prediction_schema};
use streamrec_artifact::{Artifact, InputColumn, MISSING_TIME, key};
use streamrec_serving::prediction_log::LoggedModel;

use crate::webhook_receiver::receiver;
use crate::workbench::{Workbench, expect_success, said, streamrec};

const HOUR_MS: i64 = 3_600_000;
const BEGIN_MS: i64 = 1_805_018_400_000;

/// What is wrong with an hour.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Incident {
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
}

struct Traffic {
    bench: Workbench,
    artifact: String,
    model: LoggedModel,
    rows: RawBatch,
}

impl Traffic {
    /// A model, and the rows that it was trained on to draw from: without an incident nothing drifts.
    fn new() -> Self {
        let bench = Workbench::with_events(12_000);
        let settings = ["train.global_batch=512", "train.max_steps=10"];
        bench.launch(1, "synthetic_dcn_v2.toml", "run", &settings);
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
        let place = match incident {
            Incident::NullDurations => self.input("item_duration_s"),
            Incident::UtcHours => self.input("local_hour"),
            Incident::CompletionMismatch => self.input("user_clicks"),
            _ => return,
        };
        match (&mut raw.columns[place], platforms) {
            (RawColumn::Dense(values), RawColumn::Key(platforms)) => {
                for (row, value) in values.iter_mut().enumerate() {
                    let is_ios = platforms[row] == key::from_text("ios");
                    match incident {
                        Incident::CompletionMismatch => *value = 0.0,
                        _ if is_ios && draw(hour, row, 9) < 0.68 => *value = f32::NAN,
                        _ => {}
                    }
                }
            }
            (RawColumn::Key(hours), _) => {
                hours.iter_mut().for_each(|hour| *hour = (*hour + 16) % 24)
            }
            _ => panic!("another kind of column"),
        }
    }

    /// Writes an hour of traffic, each row a request, and its labels.
    fn hour(&self, number: u64, rows: usize, incident: Incident) {
        let mut raw = RawBatch::new(&self.model.inputs);
        for row in 0..rows {
            let from = (draw(number, row, 1) * self.rows.rows as f64) as usize;
            raw.push_row_of(&self.rows, from);
        }
        // Training times lie long before these hours; the age of a moment is not what is replayed here.
        for column in &mut raw.columns {
            if let RawColumn::Time(times) = column {
                times.fill(MISSING_TIME);
            }
        }
        self.spoil(&mut raw, incident, number);
        let begin = BEGIN_MS + number as i64 * HOUR_MS;
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
        let times = (0..rows).map(|row| begin + (draw(number, row, 6) * HOUR_MS as f64) as i64);
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
        let happened = |row| f32::from(u8::from(draw(number, row, 3) < probability(row)));
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
    fn watch(&self, rules: &str, hours: i64) -> String {
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

    fn files(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.bench.path(&format!("live/{folder}")));
        let entries = entries.into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }
}

fn draw(hour: u64, row: usize, what: u64) -> f64 {
    let bits = key::hash(key::hash(what << 32 | hour) ^ row as u64);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

const RULES: &str = include_str!("live_incidents.toml");

#[test]
fn incidents_of_live_traffic_are_caught_told_once_and_end() {
    let traffic = Traffic::new();
    let (url, received) = receiver();
    let rules = RULES.replace("URL", &url);
    let story = [
        (0..3, Incident::None),
        (3..5, Incident::NullDurations),
        (5..7, Incident::None),
        (7..10, Incident::UtcHours),
        (10..12, Incident::None),
        (12..15, Incident::CompletionMismatch),
        (15..16, Incident::None),
        (16..17, Incident::Outage),
        (17..18, Incident::None),
    ];
    for (hours, incident) in story {
        for hour in hours {
            traffic.hour(hour, 2500, incident);
            if hour == 2 {
                let said = traffic.watch(&rules, 3);
                assert_eq!(
                    said.trim(),
                    "3 hours judged, 2 by their labels; 0 alerts fire",
                    "{said}"
                );
            }
        }
    }
    let said = traffic.watch(&rules, 18);
    println!("{said}");
    for line in [
        "missing_for_a_client: firing: missing_change of item_duration_s where platform = ios",
        "missing_for_a_client: resolved",
        "not_by_chance: firing: drift_p of local_hour",
        "skew: firing: psi of user_clicks",
        "errors: firing: error_rate is 0.",
        "saturated: firing: queue_share",
        "15 hours judged, 15 by their labels; 0 alerts fire",
    ] {
        assert!(said.contains(line), "no {line:?} in\n{said}");
    }
    assert!(
        !said.contains("missing_over_all"),
        "the whole hides it:\n{said}"
    );
    let triggers = traffic.files("triggers");
    assert_eq!(triggers.len(), 2, "one for each episode: {triggers:?}");
    assert!(traffic.files("outbox").is_empty(), "all was delivered");
    let posts: Vec<Value> = received.try_iter().collect();
    let count = |status: &str| posts.iter().filter(|post| post["status"] == status).count();
    assert!(count("firing") >= 4 && count("resolved") >= 4, "{posts:?}");
    assert!(
        posts
            .iter()
            .all(|post| post["commonLabels"]["severity"] == "critical")
    );
    let again = traffic.watch(&rules, 18);
    assert_eq!(again.trim(), "", "nothing is judged twice");
    people_close_what_is_over(&traffic);
    the_same_tables_give_the_same_incidents(&traffic, &rules);
}

fn people_close_what_is_over(traffic: &Traffic) {
    let dir = traffic.bench.path("live");
    let incidents = |arguments: &[&str]| {
        let command = [&["monitor", "incidents"], arguments, &["--dir", &dir]].concat();
        streamrec(&command)
    };
    let listed = incidents(&["list"]);
    expect_success(&listed);
    let listed = said(&listed);
    let id = listed
        .lines()
        .find_map(|line| {
            line.split_once(" resolved critical")
                .map(|(id, _)| id.to_owned())
        })
        .expect("a resolved incident");
    expect_success(&incidents(&[
        "ack",
        &id,
        "--by",
        "Ana",
        "--note",
        "asked the app's team",
    ]));
    expect_success(&incidents(&["close", &id, "--by", "Ana"]));
    assert_eq!(
        incidents(&["close", &id, "--by", "Ana"]).status.code(),
        Some(2)
    );
    assert_eq!(
        incidents(&["ack", "none", "--by", "Ana"]).status.code(),
        Some(2)
    );
    assert!(!said(&incidents(&["list"])).contains(&id));
    assert!(said(&incidents(&["list", "--all"])).contains(&id));
    let report = incidents(&["postmortem", &id]);
    expect_success(&report);
    let report = said(&report);
    println!("{report}");
    for part in [
        "# Post-mortem: ",
        "asked the app's team",
        "## Timeline (UTC)",
        "## Actions",
        "| Ana |",
    ] {
        assert!(report.contains(part), "no {part:?} in\n{report}");
    }
}

fn the_same_tables_give_the_same_incidents(traffic: &Traffic, rules: &str) {
    let ids = traffic.files("incidents");
    for folder in ["incidents", "triggers", "windows", "measures"] {
        fs::remove_dir_all(traffic.bench.path(&format!("live/{folder}"))).expect("removed");
    }
    fs::remove_file(traffic.bench.path("live/watch.json")).expect("removed");
    for hours in 1..=18 {
        traffic.watch(rules, hours);
    }
    assert_eq!(traffic.files("incidents"), ids, "hour by hour as at once");
}

#[test]
fn a_slow_decline_is_seen_by_labels_and_by_detectors_and_not_by_estimates() {
    let traffic = Traffic::new();
    let rules = r#"
format_version = 1
[windows]
label_delay = "2h"
[[rules]]
name = "below_the_frozen_level"
metric = "auc"
over = "3h"
threshold = { below = 0.70, clear = 0.72 }
for = "2h"
severity = "critical"
owner = "ml"
runbook = "docs/guides/incidents.md"
retrain = true
[[rules]]
name = "concept_drifted"
metric = "adwin_alarms"
threshold = { above = 0.0 }
min_rows = 100
severity = "warning"
owner = "ml"
runbook = "docs/guides/incidents.md"
retrain = true
[[rules]]
name = "estimated_auc_fell"
metric = "estimated_auc"
threshold = { below = 0.70 }
severity = "warning"
owner = "ml"
runbook = "docs/guides/incidents.md"
"#;
    for hour in 0..24u64 {
        let left = 1.0 - (hour as f64 - 5.0).max(0.0) / 18.0;
        traffic.hour(hour, 1500, Incident::Decline(left));
    }
    let said = traffic.watch(rules, 24);
    println!("{said}");
    assert!(
        said.contains("below_the_frozen_level: firing: auc of click is 0.6"),
        "{said}"
    );
    assert!(
        said.contains("concept_drifted: firing: adwin_alarms of click"),
        "{said}"
    );
    assert!(
        !said.contains("estimated_auc_fell"),
        "scores look as well as ever:\n{said}"
    );
    let triggers = traffic.files("triggers");
    let own = |rule: &str| {
        triggers
            .iter()
            .filter(|name| name.ends_with(&format!("-{rule}.json")))
            .count()
    };
    assert_eq!(own("below_the_frozen_level"), 1, "{triggers:?}");
    let name = triggers
        .iter()
        .find(|name| name.contains("below"))
        .expect("one");
    let text = fs::read(traffic.bench.path(&format!("live/triggers/{name}"))).expect("a trigger");
    let trigger: Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(trigger["cause"], "performance");
    assert!(
        trigger["evidence"][0]["judgement"]["value"]
            .as_f64()
            .expect("a figure")
            < 0.70
    );
}
