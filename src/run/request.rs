//! `streamrec request`: sends an artifact's golden examples to a server and compares the answers.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use streamrec_artifact::{
    Artifact, Golden, InputColumn, MISSING_KEY, MISSING_TIME, RawBatch, RawColumn, SourceType,
};

use super::cli::RequestArgs;
use super::{RunError, artifact};

/// How far a served probability may lie from the trainer's.
const TOLERANCE: f64 = 1e-5;

pub(super) fn run(args: &RequestArgs) -> Result<(), RunError> {
    let artifact = artifact::read(&args.artifact)?;
    let rows: Vec<usize> = acceptable(&artifact).take(args.rows).collect();
    let body = body(&artifact, &rows);
    let name = &artifact.manifest.name;
    let url = format!(
        "{}/v2/models/{name}/infer",
        args.server.trim_end_matches('/')
    );
    let began = Instant::now();
    let answer = post(&url, &body)?;
    let took = began.elapsed();
    compare(&artifact, &answer, &rows)?;
    let (count, took_ms) = (rows.len(), took.as_secs_f64() * 1e3);
    println!("{count} rows in {took_ms:.2} ms: the server's scores are the trainer's");
    Ok(())
}

/// The golden rows that a server takes: those that lack nothing that is required.
fn acceptable(artifact: &Artifact) -> impl Iterator<Item = usize> + '_ {
    let inputs = &artifact.manifest.schema.inputs;
    (0..artifact.golden.raw.rows).filter(move |&row| {
        let columns = inputs.iter().zip(&artifact.golden.raw.columns);
        let mut required = columns.filter(|(input, _)| input.required);
        required.all(|(_, column)| match column {
            RawColumn::Dense(values) => !values[row].is_nan(),
            RawColumn::Key(keys) => keys[row] != MISSING_KEY,
            RawColumn::Time(times) => times[row] != MISSING_TIME,
            RawColumn::KeyList { .. } => true,
        })
    })
}

fn body(artifact: &Artifact, rows: &[usize]) -> Value {
    raw_body(&artifact.manifest.schema.inputs, &artifact.golden.raw, rows)
}

/// A request for the scores of some raw rows.
pub(super) fn raw_body(inputs: &[InputColumn], raw: &RawBatch, rows: &[usize]) -> Value {
    let columns = inputs.iter().zip(&raw.columns);
    let inputs: Vec<Value> = columns
        .map(|(input, column)| tensor(input, column, rows))
        .collect();
    json!({ "inputs": inputs })
}

/// One input of the request: golden examples hold keys, which go as they are.
fn tensor(input: &InputColumn, column: &RawColumn, rows: &[usize]) -> Value {
    let elements = |element: &dyn Fn(usize) -> Value| -> Vec<Value> {
        rows.iter().map(|&row| element(row)).collect()
    };
    let count = rows.len();
    let (datatype, shape, data) = match column {
        RawColumn::Dense(values) => {
            let number = |row: usize| match values[row].is_nan() {
                true => Value::Null,
                false => json!(f64::from(values[row])),
            };
            ("FP64", json!([count]), elements(&number))
        }
        RawColumn::Time(times) => {
            let time = |row: usize| match times[row] {
                MISSING_TIME => Value::Null,
                time => json!(time),
            };
            ("INT64", json!([count]), elements(&time))
        }
        RawColumn::Key(keys) => {
            let one = |row: usize| key(input, keys[row]);
            (datatype(input), json!([count]), elements(&one))
        }
        RawColumn::KeyList { offsets, keys } => {
            let list = |row: usize| {
                let range = offsets[row] as usize..offsets[row + 1] as usize;
                Value::Array(keys[range].iter().map(|k| key(input, *k)).collect())
            };
            (datatype(input), json!([count, -1]), elements(&list))
        }
    };
    let mut tensor = Map::new();
    tensor.insert("name".into(), input.name.clone().into());
    tensor.insert("shape".into(), shape);
    tensor.insert("datatype".into(), datatype.into());
    tensor.insert("data".into(), data.into());
    Value::Object(tensor)
}

fn datatype(input: &InputColumn) -> &'static str {
    match input.source {
        SourceType::Integer => "INT64",
        _ => "UINT64",
    }
}

fn key(input: &InputColumn, key: u64) -> Value {
    match (key, input.source) {
        (MISSING_KEY, _) => Value::Null,
        (_, SourceType::Integer) => json!(key as i64),
        _ => json!(key),
    }
}

pub(super) fn post(url: &str, body: &Value) -> Result<Value, RunError> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(30)))
        .http_status_as_error(false)
        .build()
        .into();
    let mut response = agent
        .post(url)
        .send_json(body)
        .map_err(RunError::other(format!(
            "no answer from {url}; is streamrec-serve running?"
        )))?;
    let status = response.status();
    let answer: Value = response
        .body_mut()
        .read_json()
        .map_err(RunError::other(format!(
            "{url} did not answer JSON (status {status})"
        )))?;
    if status.is_success() {
        Ok(answer)
    } else {
        Err(RunError::Usage(format!(
            "{url} answered {status}: {}",
            answer["error"]
        )))
    }
}

fn compare(artifact: &Artifact, answer: &Value, rows: &[usize]) -> Result<(), RunError> {
    let labels = &artifact.manifest.schema.labels;
    let Golden { probabilities, .. } = &artifact.golden;
    for (at, label) in labels.iter().enumerate() {
        let outputs = answer["outputs"].as_array();
        let output = outputs.and_then(|all| all.iter().find(|output| output["name"] == **label));
        let data = output.and_then(|output| output["data"].as_array());
        for (place, row) in rows.iter().enumerate() {
            let expected = f64::from(probabilities[row * labels.len() + at]);
            let got = data.and_then(|data| data.get(place)?.as_f64());
            let differs = got.is_none_or(|got| (got - expected).abs() > TOLERANCE);
            if differs {
                return Err(RunError::Usage(format!(
                    "row {row}, label `{label}`: the trainer's probability is {expected}, the \
                     server answered {got:?}; does it serve another version?"
                )));
            }
            println!("  row {row} {label} {expected:.6}");
        }
    }
    Ok(())
}
