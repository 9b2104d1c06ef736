//! Suites of expectations: Great Expectations gives the same verdicts and counts on the same data, and what
//! fails is written in full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use arrow::array::AsArray;
use arrow::datatypes::{UInt32Type, UInt64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::workbench::{Workbench, expect_success, said, streamrec};

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracles/expectations")
}

fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).expect("a file");
    serde_json::from_str(&text).expect("JSON")
}

/// Judges a suite of `folder` and compares with what Great Expectations said.
fn compare(folder: &Path, suite: &str, data: &str, verdicts: &str) -> usize {
    let bench = Workbench::new();
    let result = bench.path("result.json");
    let (suite, data) = (folder.join(suite), folder.join(data));
    let output = streamrec(&[
        "validate",
        "data",
        suite.to_str().expect("UTF-8"),
        data.to_str().expect("UTF-8"),
        "--json",
        &result,
    ]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let (ours, theirs) = (read(Path::new(&result)), read(&folder.join(verdicts)));
    assert_eq!(ours["success"], theirs["success"]);
    assert_eq!(
        ours["statistics"]["successful_expectations"],
        theirs["statistics"]["successful_expectations"]
    );
    assert!(ours["meta"]["scans"].as_u64() <= Some(2));
    let (ours, theirs) = (
        &ours["results"],
        theirs["results"].as_array().expect("results"),
    );
    for (place, theirs) in theirs.iter().enumerate() {
        let ours = &ours[place];
        let config = &ours["expectation_config"];
        assert_eq!(
            ours["success"], theirs["success"],
            "{config}\n{ours}\n{theirs}"
        );
        assert_eq!(
            ours["exception_info"]["raised_exception"], theirs["raised"],
            "{ours}"
        );
        if theirs["raised"] == true {
            continue;
        }
        for (name, value) in theirs["result"].as_object().expect("a result") {
            let own = &ours["result"][name];
            assert!(
                alike(own, value),
                "{config}: {name}: ours {own}, theirs {value}"
            );
        }
    }
    theirs.len()
}

/// Equal, numbers within rounding, and names of types as pandas calls their classes.
fn alike(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (
                a.as_f64().unwrap_or(f64::NAN),
                b.as_f64().unwrap_or(f64::NAN),
            );
            (a - b).abs() <= 1e-9 * b.abs().max(1.0)
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(name, value)| b.get(name).is_some_and(|b| alike(value, b)))
        }
        (Value::String(a), Value::String(b)) => a == b || format!("{a}_") == *b,
        (a, b) => a == b,
    }
}

#[test]
fn great_expectations_gave_the_same_verdicts_and_counts() {
    let folder = recorded();
    assert!(compare(&folder, "suite.json", "events.parquet", "verdicts.json") > 50);
    assert!(compare(&folder, "csv_suite.json", "events.csv", "csv_verdicts.json") > 45);
}

#[test]
fn great_expectations_gives_the_same_verdicts_on_fresh_data() {
    let Some(python) = std::env::var_os("STREAMREC_GX_PYTHON") else {
        println!(
            "skipped: STREAMREC_GX_PYTHON names no Python with great_expectations and pyarrow"
        );
        return;
    };
    let bench = Workbench::new();
    let folder = PathBuf::from(bench.path("fresh"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracles/expectations.py");
    let output = Command::new(python)
        .arg(script)
        .arg(&folder)
        .args(["77", "200000"])
        .output();
    expect_success(&output.expect("Python starts"));
    compare(&folder, "suite.json", "events.parquet", "verdicts.json");
    compare(&folder, "csv_suite.json", "events.csv", "csv_verdicts.json");
}

#[test]
fn every_failing_row_is_written_in_full_with_what_it_fails() {
    let bench = Workbench::new();
    let failing = bench.path("failing.parquet");
    let folder = recorded();
    let path = |name: &str| folder.join(name).to_str().expect("UTF-8").to_owned();
    let result = bench.path("result.json");
    let output = streamrec(&[
        "validate",
        "data",
        &path("suite.json"),
        &path("events.parquet"),
        "--failing-rows",
        &failing,
        "--json",
        &result,
    ]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let results = read(Path::new(&result));
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(fs::File::open(&failing).expect("opened"))
            .expect("Parquet");
    let columns = reader.schema().fields().len();
    assert_eq!(
        columns,
        13 + 2,
        "the table's columns, the row and its expectations"
    );
    let (mut failed, mut before) = (
        vec![0u64; results["results"].as_array().expect("results").len()],
        None,
    );
    for batch in reader.build().expect("a reader") {
        let batch = batch.expect("rows");
        let rows = batch.column(columns - 2).as_primitive::<UInt64Type>();
        let ids = batch.column_by_name("event_id").expect("a column").clone();
        let ids = ids.as_primitive::<arrow::datatypes::Int64Type>();
        let lists = batch.column(columns - 1).as_list::<i32>();
        for row in 0..batch.num_rows() {
            // Events are numbered from 0 in the order of the file.
            assert_eq!(rows.value(row), ids.value(row) as u64);
            assert!(before.is_none_or(|before| before < rows.value(row)));
            before = Some(rows.value(row));
            let list = lists.value(row);
            let list = list.as_primitive::<UInt32Type>();
            assert!(!list.is_empty());
            list.values()
                .iter()
                .for_each(|place| failed[*place as usize] += 1);
        }
    }
    for (place, count) in failed.iter().enumerate() {
        let result = &results["results"][place];
        let unexpected = result["result"]["unexpected_count"].as_u64().unwrap_or(0);
        assert_eq!(*count, unexpected, "{}", result["expectation_config"]);
    }
}

#[test]
fn packed_data_is_judged_by_its_raw_values() {
    let bench = Workbench::with_events(20_000);
    let suite = bench.path("suite.toml");
    let text = r#"
        name = "packed"
        [[expectations]]
        type = "expect_column_values_to_be_in_set"
        kwargs = { column = "device", value_set = ["phone", "tablet", "tv", "desktop"], mostly = 0.01 }
        [[expectations]]
        type = "expect_column_values_to_be_between"
        kwargs = { column = "click", min_value = 0, max_value = 1 }
        [[expectations]]
        type = "expect_table_row_count_to_be_between"
        kwargs = { min_value = 20000, max_value = 20000 }
        [[expectations]]
        type = "expect_column_values_to_match_regex"
        kwargs = { column = "device", regex = "p" }
        severity = "warning"
    "#;
    fs::write(&suite, text).expect("written");
    let result = bench.path("result.json");
    let output = streamrec(&[
        "validate",
        "data",
        &suite,
        &bench.path("data"),
        "--json",
        &result,
    ]);
    expect_success(&output);
    let result = read(Path::new(&result));
    let met: Vec<bool> = (0..4)
        .map(|place| result["results"][place]["success"] == true)
        .collect();
    assert_eq!(met, [true, true, true, false], "{}", said(&output));
    assert!(
        said(&output).contains("holds no texts"),
        "{}",
        said(&output)
    );
    let strict = streamrec(&[
        "validate",
        "data",
        &suite,
        &bench.path("data"),
        "--fail-on",
        "warning",
    ]);
    assert_eq!(strict.status.code(), Some(3));
}

#[test]
fn a_suite_that_cannot_be_judged_is_refused_before_any_data_is_read() {
    let bench = Workbench::new();
    let suite = bench.path("suite.json");
    fs::write(
        &suite,
        r#"{"name":"s","expectations":[{"type":"expect_magic","kwargs":{}}]}"#,
    )
    .expect("written");
    let output = streamrec(&["validate", "data", &suite, "nowhere.parquet"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("expect_magic"), "{}", said(&output));
}
