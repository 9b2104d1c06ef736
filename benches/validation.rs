//! A suite of expectations, or drift, over a file, as one JSON line. `RAYON_NUM_THREADS` says how many threads work.
//!
//! ```text
//! benches/peers/tables.py FOLDER --rows 3000000 --columns 100    # makes reference.parquet, current.parquet, suite.json
//! cargo bench --bench validation -- suite FOLDER                 # writes results.json there, for the peer to compare
//! cargo bench --bench validation -- suite FOLDER current.csv     # the same of another table
//! cargo bench --bench validation -- drift FOLDER                 # the reference's profile is made once and kept
//! ```
//!
//! Time counts from opening the file to the results.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use streamrec::data::import::{FileFormat, InputSettings, SourceSchema};
use streamrec::data::{ColumnKind, SourceType};
use streamrec::validation::drift::{DriftLimits, compare, profile};
use streamrec::validation::expectations::{Suite, Table, validate};
use streamrec_artifact::{InputColumn, Profile, ProfileBuilder};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn suite(folder: &Path, table: &str) -> Result<Value> {
    let suite = Suite::load(&folder.join("suite.json"))?;
    let began = Instant::now();
    let table = Table::open(&folder.join(table), None)?;
    let validation = validate(&suite, &table, None)?;
    let ms = began.elapsed().as_secs_f64() * 1e3;
    let results = serde_json::to_vec(&validation)?;
    fs::write(folder.join("results.json"), results)?;
    Ok(json!({
        "what": "suite", "ms": ms, "rows": validation.meta["rows"],
        "expectations": validation.statistics.evaluated_expectations,
        "met": validation.statistics.successful_expectations,
    }))
}

/// The columns that `tables.py` makes: those named by `x` and a number are numbers.
fn inputs(file: &Path) -> Result<Vec<InputColumn>> {
    let table = Table::open(file, None)?;
    let input = |field: &std::sync::Arc<arrow::datatypes::Field>| {
        let (kind, source) = match field.data_type() {
            arrow::datatypes::DataType::Float64 => (ColumnKind::Dense, SourceType::Float),
            arrow::datatypes::DataType::Int64 => (ColumnKind::Dense, SourceType::Integer),
            _ => (ColumnKind::Key, SourceType::Text),
        };
        InputColumn {
            name: field.name().clone(),
            kind,
            source,
            unit: None,
            range: None,
            required: false,
        }
    };
    Ok(table.schema().fields().iter().map(input).collect())
}

fn profiled(file: &Path) -> Result<Profile> {
    let inputs = inputs(file)?;
    let builder = ProfileBuilder::new(&inputs, &[]).with_sketches_only();
    let settings = InputSettings {
        files: vec![file.to_owned()],
        source: SourceSchema {
            format: FileFormat::Parquet,
            ..SourceSchema::default()
        },
        list_separator: ",".into(),
        inputs,
        keys: Vec::new(),
        piece_rows: profile::PART_ROWS,
    };
    Ok(profile::of_files(settings, &builder)?)
}

fn drift(folder: &Path) -> Result<Value> {
    let kept = folder.join("profile.json");
    if !kept.exists() {
        let reference = profiled(&folder.join("reference.parquet"))?;
        fs::write(&kept, serde_json::to_vec(&reference)?)?;
    }
    let began = Instant::now();
    let reference: Profile = serde_json::from_slice(&fs::read(&kept)?)?;
    let current = profiled(&folder.join("current.parquet"))?;
    let report = compare(&reference, &current, &DriftLimits::default())?;
    let ms = began.elapsed().as_secs_f64() * 1e3;
    let statistics = report.inputs.iter().map(|input| input.statistics.len());
    fs::write(folder.join("drift.json"), serde_json::to_vec(&report)?)?;
    Ok(json!({
        "what": "drift", "ms": ms, "rows": current.rows,
        "statistics": statistics.sum::<usize>(),
    }))
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // Cargo adds `--bench`.
    let mut line = match arguments[..] {
        ["suite", folder, table, ..] if !table.starts_with("--") => {
            suite(Path::new(folder), table)?
        }
        ["suite", folder, ..] => suite(Path::new(folder), "current.parquet")?,
        ["drift", folder, ..] => drift(Path::new(folder))?,
        _ => {
            return Err(
                "expected `suite FOLDER [TABLE]` or `drift FOLDER`; see benches/validation.rs"
                    .into(),
            );
        }
    };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|peak| peak.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    line["side"] = json!("StreamRec");
    line["peak_mib"] = json!(peak.map(|kib| kib / 1024));
    println!("{line}");
    Ok(())
}
