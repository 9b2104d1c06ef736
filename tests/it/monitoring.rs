//! From served requests to tables with labels: no row lost, none twice, whatever is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float32Type, Float64Type, Int64Type, UInt32Type};
use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use streamrec_artifact::key;

use crate::serving::artifact;
use crate::workbench::{
    Running, Workbench, command, expect_success, said, send, server_program, streamrec, wait,
};

/// A server with a log, of small segments.
pub struct Logged {
    pub server: Running,
    pub address: String,
    pub model: String,
    inputs: Vec<Value>,
}

impl Logged {
    pub fn start(artifact: &str, log: &str, flags: &[&str]) -> Self {
        let mut command = Command::new(server_program());
        command
            .args([artifact, "--listen", "127.0.0.1:0", "--log-dir", log])
            .args(flags)
            .stdout(Stdio::piped());
        let mut server = Running(command.spawn().expect("starts"));
        let stdout = server.0.stdout.take().expect("piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .expect("an address")
            .to_owned();
        let name = Path::new(artifact).join("manifest.json");
        let manifest: Value = serde_json::from_slice(&fs::read(name).unwrap()).unwrap();
        let model = manifest["name"].as_str().unwrap().to_owned();
        let url = format!("{address}/v2/models/{model}");
        let metadata: Value = ureq::get(url)
            .call()
            .unwrap()
            .body_mut()
            .read_json()
            .unwrap();
        let inputs = metadata["inputs"].as_array().unwrap().clone();
        Self {
            server,
            address,
            model,
            inputs,
        }
    }

    /// Asks for the scores of invented rows.
    pub fn ask(&self, id: &str, rows: usize) {
        let tensor = |(column, input): (usize, &Value)| {
            let range = &input["parameters"]["range"];
            let (low, high) = (
                range[0].as_f64().unwrap_or(0.0),
                range[1].as_f64().unwrap_or(100.0),
            );
            let element = |row: usize| {
                let random = key::hash(key::from_text(id) ^ ((column << 32) + row) as u64);
                let number = low + (high - low) * (random >> 11) as f64 / (1u64 << 53) as f64;
                match input["datatype"].as_str().unwrap() {
                    "BYTES" => json!(format!("word {}", random % 20)),
                    "BOOL" => json!(random % 2 == 1),
                    "INT64" => json!(number as i64),
                    _ => json!(number),
                }
            };
            let is_list = input["shape"].as_array().unwrap().len() == 2;
            let data: Vec<Value> = (0..rows)
                .map(|row| match is_list {
                    true => (0..row % 4).map(|at| element(row * 10 + at)).collect(),
                    false => element(row),
                })
                .collect();
            let shape = if is_list {
                json!([rows, -1])
            } else {
                json!([rows])
            };
            json!({"name": input["name"], "shape": shape, "datatype": input["datatype"], "data": data})
        };
        let inputs: Vec<Value> = self.inputs.iter().enumerate().map(tensor).collect();
        let body = json!({"id": id, "inputs": inputs});
        let url = format!("{}/v2/models/{}/infer", self.address, self.model);
        ureq::post(url).send(body.to_string()).expect("scores");
    }

    /// Ends the server; its segments are closed.
    pub fn stop(mut self) {
        send("TERM", self.server.0.id() as i32);
        assert!(self.server.0.wait().unwrap().success());
    }
}

/// Every file of a table, with its path below the table.
fn table(out: &str, name: &str) -> Vec<(PathBuf, RecordBatch)> {
    let root = Path::new(out).join(name);
    let mut found = Vec::new();
    let Ok(hours) = fs::read_dir(&root) else {
        return found;
    };
    for hour in hours {
        for file in fs::read_dir(hour.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if path
                .extension()
                .is_some_and(|extension| extension == "parquet")
            {
                let batch = parquet(&path);
                found.push((path.strip_prefix(&root).unwrap().to_owned(), batch));
            }
        }
    }
    found
}

fn parquet(path: &Path) -> RecordBatch {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let schema = builder.schema().clone();
    let batches: Vec<_> = builder.build().unwrap().map(Result::unwrap).collect();
    arrow::compute::concat_batches(&schema, &batches).unwrap()
}

fn column<'b>(batch: &'b RecordBatch, name: &str) -> &'b dyn Array {
    batch
        .column_by_name(name)
        .unwrap_or_else(|| panic!("no {name}"))
}

/// How often each request and row is in a table.
fn keys(out: &str, name: &str) -> BTreeMap<(String, u32), usize> {
    let mut keys = BTreeMap::new();
    for (_, batch) in table(out, name) {
        let ids = column(&batch, "request_id").as_string::<i32>();
        let rows = column(&batch, "row").as_primitive::<UInt32Type>();
        for row in 0..batch.num_rows() {
            *keys
                .entry((ids.value(row).to_owned(), rows.value(row)))
                .or_default() += 1;
        }
    }
    keys
}

fn expected(requests: usize, rows: usize) -> BTreeMap<(String, u32), usize> {
    let of = |request| (0..rows as u32).map(move |row| ((format!("request {request}"), row), 1));
    (0..requests).flat_map(of).collect()
}

pub fn monitor(arguments: &[&str]) -> Value {
    let all: Vec<&str> = ["monitor"]
        .iter()
        .chain(arguments)
        .copied()
        .chain(["--json"])
        .collect();
    let output = streamrec(&all);
    expect_success(&output);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)))
}

/// A folder with an artifact and the log of some requests to it.
pub fn with_log(requests: usize, rows: usize) -> Workbench {
    with_logs(1, requests, rows)
}

/// Likewise, by servers one after another: each begins a segment of its own, however slowly the disk takes records.
fn with_logs(servers: usize, requests: usize, rows: usize) -> Workbench {
    let bench = Workbench::with_events(4_000);
    let artifact = artifact(&bench, "synthetic_wide_deep.toml", "run");
    for server in 0..servers {
        let logged = Logged::start(
            &artifact,
            &bench.path("log"),
            &["--log-segment-bytes", "20000"],
        );
        for request in server * requests / servers..(server + 1) * requests / servers {
            logged.ask(&format!("request {request}"), rows);
        }
        logged.stop();
    }
    bench
}

#[test]
fn what_was_served_is_in_the_tables_once_whatever_is_killed_and_run_again() {
    let bench = with_logs(4, 60, 30);
    let (log, out) = (bench.path("log"), bench.path("out"));
    let segments = fs::read_dir(&log).unwrap().count();
    assert!(segments > 3, "{segments} segments");
    // Killed at any moment, many times.
    for pause in [2, 5, 8, 12, 16, 20, 25, 30, 40, 60] {
        let mut compact = command();
        compact.args(["monitor", "compact", "--log", &log, "--out", &out]);
        let mut compact = compact.stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(pause));
        // It may be done.
        let _ = compact.kill();
        let _ = compact.wait();
    }
    let report = monitor(&["compact", "--log", &log, "--out", &out]);
    assert_eq!(
        report["segments"].as_u64().unwrap() + report["segments_known"].as_u64().unwrap(),
        segments as u64
    );
    assert_eq!(keys(&out, "predictions"), expected(60, 30));
    let report = monitor(&["compact", "--log", &log, "--out", &out, "--remove-segments"]);
    assert_eq!(
        (&report["segments"], &report["rows"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(report["removed"], json!(segments));
    assert_eq!(keys(&out, "predictions"), expected(60, 30));
    assert_eq!(fs::read_dir(&log).unwrap().count(), 0);
}

#[test]
fn a_row_of_the_table_is_what_the_model_was_given_and_said() {
    let bench = with_log(3, 5);
    let (log, out) = (bench.path("log"), bench.path("out"));
    monitor(&["compact", "--log", &log, "--out", &out]);
    let artifact = streamrec_artifact::Artifact::read(bench.path("run-artifact").as_ref()).unwrap();
    let schema = &artifact.manifest.schema;
    let mut scorer =
        streamrec::validation::ArtifactModel::load(bench.path("run-artifact").as_ref()).unwrap();
    for (path, batch) in table(&out, "predictions") {
        let raw = streamrec::monitoring::prediction_log::raw_batch(&path, &batch, &schema.inputs)
            .unwrap();
        let scores = scorer.score(&raw).unwrap();
        let labels = schema.labels.len();
        assert_eq!(labels, 2);
        for (label, name) in ["score".to_owned(), format!("score.{}", schema.labels[1])]
            .iter()
            .enumerate()
        {
            let logged = column(&batch, name).as_primitive::<Float32Type>();
            for row in 0..batch.num_rows() {
                let again = scores[row * labels + label];
                assert!(
                    (logged.value(row) - again).abs() < 1e-5,
                    "{name} of row {row}"
                );
            }
        }
        let hour = path.parent().unwrap().to_str().unwrap();
        assert!(
            hour.starts_with("hour=2") && hour.len() == "hour=2027-03-14T09".len(),
            "{hour}"
        );
        let latency = column(&batch, "latency_us").as_primitive::<UInt32Type>();
        assert!(latency.iter().all(|value| value.unwrap() > 0));
    }
}

#[test]
fn a_segment_that_is_being_written_is_left_alone_and_one_whose_writer_died_is_not() {
    let bench = Workbench::with_events(4_000);
    let artifact = artifact(&bench, "synthetic_wide_deep.toml", "run");
    let (log, out) = (bench.path("log"), bench.path("out"));
    let mut logged = Logged::start(&artifact, &log, &[]);
    logged.ask("request 0", 4);
    let report = monitor(&["compact", "--log", &log, "--out", &out]);
    assert_eq!(
        (&report["segments"], &report["segments_open"]),
        (&json!(0), &json!(1))
    );
    // Written a moment after the answer.
    wait(Duration::from_secs(20), || {
        fs::read_dir(&log)
            .unwrap()
            .any(|entry| entry.unwrap().metadata().unwrap().len() > 1000)
    });
    logged.server.0.kill().unwrap();
    logged.server.0.wait().unwrap();
    let torn = fs::read_dir(&log).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&torn).unwrap();
    bytes.extend(&bytes.clone()[8..30]);
    fs::write(&torn, bytes).unwrap();
    let report = monitor(&["compact", "--log", &log, "--out", &out]);
    assert_eq!(
        (&report["segments"], &report["rows"]),
        (&json!(1), &json!(4))
    );
    assert_eq!(
        (&report["torn"][0]["bytes"], &report["torn"][0]["closed"]),
        (&json!(22), &json!(false))
    );
    assert_eq!(keys(&out, "predictions"), expected(1, 4));
}

/// Milliseconds of the predictions of a request.
pub fn time_of(out: &str, id: &str) -> i64 {
    let of = |(_, batch): (PathBuf, RecordBatch)| {
        let ids = column(&batch, "request_id").as_string::<i32>();
        let at = (0..batch.num_rows()).find(|&row| ids.value(row) == id)?;
        Some(
            column(&batch, "time_ms")
                .as_primitive::<Int64Type>()
                .value(at),
        )
    };
    table(out, "predictions")
        .into_iter()
        .find_map(of)
        .expect("the request")
}

#[test]
fn late_labels_are_joined_once_and_none_is_lost_silently() {
    let bench = with_log(5, 4);
    let (log, out) = (bench.path("log"), bench.path("out"));
    monitor(&["compact", "--log", &log, "--out", &out]);
    let begin = time_of(&out, "request 0");
    let hour = 3_600_000;
    let labels = format!(
        "request_id,row,label,label_time_ms,value\n\
         request 0,0,1,{soon},12.5\n\
         request 0,1,0,{soon},\n\
         request 1,3,1,{tomorrow},3\n\
         request 1,3,0,{tomorrow},3\n\
         request 1,2,1,{too_late},\n\
         request 2,0,1,{before},\n\
         request 2,9,1,{soon},\n\
         nobody,0,1,{soon},\n",
        soon = begin + hour,
        tomorrow = begin + 24 * hour,
        too_late = begin + 49 * hour,
        before = begin - hour,
    );
    let file = bench.path("labels.csv");
    fs::write(&file, labels).unwrap();
    let run = || {
        monitor(&[
            "labels", "--labels", &file, "--out", &out, "--window", "48h",
        ])
    };
    let report = run();
    let counts = |report: &Value| {
        [
            "labels",
            "joined",
            "duplicates",
            "contradictions",
            "late",
            "early",
            "unmatched",
        ]
        .map(|name| report[name].as_u64().unwrap())
    };
    assert_eq!(counts(&report), [8, 3, 1, 1, 1, 1, 2]);
    let joined: BTreeSet<(String, u32)> = keys(&out, "labelled").into_keys().collect();
    let of = |request: u32, row| (format!("request {request}"), row);
    assert_eq!(joined, BTreeSet::from([of(0, 0), of(0, 1), of(1, 3)]));
    for (_, batch) in table(&out, "labelled") {
        let labels = column(&batch, "label").as_primitive::<Float32Type>();
        let values = column(&batch, "value").as_primitive::<Float64Type>();
        let (rows, ids) = (
            column(&batch, "row").as_primitive::<UInt32Type>(),
            column(&batch, "request_id").as_string::<i32>(),
        );
        for row in 0..batch.num_rows() {
            let expected = match (ids.value(row), rows.value(row)) {
                ("request 0", 0) => (1.0, Some(12.5)),
                ("request 0", 1) => (0.0, None),
                _ => (1.0, Some(3.0)),
            };
            let value = values.is_valid(row).then(|| values.value(row));
            assert_eq!((labels.value(row), value), expected);
        }
    }
    // Again, and what was not joined again: nothing new, nothing gone.
    assert_eq!(counts(&run()), [8, 0, 4, 1, 1, 1, 2]);
    let unjoined = report["unjoined"].as_str().unwrap();
    assert_eq!(parquet(unjoined.as_ref()).num_rows(), 4);
    let report = monitor(&[
        "labels", "--labels", unjoined, "--out", &out, "--window", "50h",
    ]);
    assert_eq!(counts(&report), [4, 1, 0, 0, 0, 1, 2]);
    assert!(keys(&out, "labelled").values().all(|&count| count == 1));
    assert_eq!(keys(&out, "labelled").len(), 4);
}

#[test]
fn each_label_of_a_model_is_joined_once_with_or_without_its_name() {
    let bench = with_log(2, 2);
    let (log, out) = (bench.path("log"), bench.path("out"));
    monitor(&["compact", "--log", &log, "--out", &out]);
    let soon = time_of(&out, "request 0") + 1000;
    let labels = |rows: &[&str]| -> String {
        let rows = rows.iter().map(|row| format!("request 0,0,{row},{soon}\n"));
        ["request_id,row,label,label_name,label_time_ms\n".to_owned()]
            .into_iter()
            .chain(rows)
            .collect()
    };
    let artifact = streamrec_artifact::Artifact::read(bench.path("run-artifact").as_ref()).unwrap();
    let [first, second] = artifact.manifest.schema.labels.as_slice() else {
        panic!("two labels");
    };
    let file = bench.path("labels.csv");
    let (named, other) = (format!("1,{first}"), format!("1,{second}"));
    fs::write(&file, labels(&["1,", &named, &other, "1,bookmark"])).unwrap();
    let run = || {
        let report = monitor(&["labels", "--labels", &file, "--out", &out]);
        assert_eq!(report["unknown"], json!({"bookmark": 1}));
        ["joined", "duplicates", "unmatched"].map(|name| report[name].as_u64().unwrap())
    };
    assert_eq!(run(), [2, 1, 0]);
    assert_eq!(run(), [0, 3, 0]);
    let mut names = Vec::new();
    for (_, batch) in table(&out, "labelled") {
        let own = column(&batch, "label_name").as_string::<i32>();
        names.extend(own.iter().map(|name| name.unwrap().to_owned()));
    }
    names.sort();
    let mut expected = vec![first.clone(), second.clone()];
    expected.sort();
    assert_eq!(names, expected);
}

#[test]
fn labels_before_their_predictions_were_compacted_are_joined_later() {
    let bench = with_log(2, 2);
    let (log, out) = (bench.path("log"), bench.path("out"));
    let file = bench.path("labels.csv");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis();
    fs::write(
        &file,
        format!("request_id,row,label,label_time_ms\nrequest 1,0,1,{now}\n"),
    )
    .unwrap();
    let run = || monitor(&["labels", "--labels", &file, "--out", &out]);
    assert_eq!(run()["unmatched"], json!(1));
    monitor(&["compact", "--log", &log, "--out", &out]);
    let report = run();
    assert_eq!(
        (&report["joined"], &report["unjoined"]),
        (&json!(1), &Value::Null)
    );
    assert_eq!(
        fs::read_dir(Path::new(&out).join("unjoined"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn wrong_labels_are_refused_by_row_and_column() {
    let bench = Workbench::new();
    let (file, out) = (bench.path("labels.csv"), bench.path("out"));
    for (text, problem) in [
        ("request_id,row,label\n", "no column `label_time_ms`"),
        (
            "request_id,row,label,label_time_ms\na,0,1,5\na,-1,1,5\n",
            "row 2: `row`: expected a row's number from 0, got \"-1\"",
        ),
        (
            "request_id,row,label,label_time_ms\na,0,yes,5\n",
            "row 1: `label`: expected a number, got \"yes\"",
        ),
        (
            "request_id,row,label,label_time_ms\n,0,1,5\n",
            "row 1: `request_id` is empty",
        ),
    ] {
        fs::write(&file, text).unwrap();
        let output = streamrec(&["monitor", "labels", "--labels", &file, "--out", &out]);
        assert_eq!(output.status.code(), Some(2));
        assert!(said(&output).contains(problem), "{}", said(&output));
    }
    let output = streamrec(&[
        "monitor", "labels", "--labels", &file, "--out", &out, "--window", "0d",
    ]);
    assert!(
        said(&output).contains("expected a length of time such as 7d"),
        "{}",
        said(&output)
    );
}
