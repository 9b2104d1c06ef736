//! Requests of invented values, for any model.

use serde_json::{Value, json};
use streamrec_artifact::key;

/// A request of invented values: another connection asks for others.
pub fn body(inputs: &[Value], rows: usize, connection: u64) -> String {
    let tensor = |(column, input): (usize, &Value)| {
        let list = input["shape"]
            .as_array()
            .is_some_and(|shape| shape.len() == 2);
        let element = |index: usize| {
            let random = key::hash(((column << 32) + index) as u64 ^ (connection << 56));
            element(input, random)
        };
        let row = |row: usize| match list {
            true => Value::Array((0..10).map(|at| element(row * 10 + at)).collect()),
            false => element(row),
        };
        let (name, datatype) = (&input["name"], &input["datatype"]);
        let shape = if list {
            json!([rows, -1])
        } else {
            json!([rows])
        };
        let data: Value = (0..rows).map(row).collect();
        // In the order in which clients write it: the server reads the data as it comes.
        format!(r#"{{"name":{name},"shape":{shape},"datatype":{datatype},"data":{data}}}"#)
    };
    let inputs: Vec<String> = inputs.iter().enumerate().map(tensor).collect();
    format!(r#"{{"inputs":[{}]}}"#, inputs.join(","))
}

fn element(input: &Value, random: u64) -> Value {
    let range = &input["parameters"]["range"];
    let (low, high) = (
        range[0].as_f64().unwrap_or(0.0),
        range[1].as_f64().unwrap_or(1000.0),
    );
    let number = low + (high - low) * (random >> 11) as f64 / (1u64 << 53) as f64;
    match input["datatype"].as_str() {
        Some("BYTES") => json!(format!("word {}", random % 1000)),
        Some("BOOL") => json!(random % 2 == 1),
        Some("INT64") => json!(number as i64),
        _ => json!((number * 1000.0).round() / 1000.0),
    }
}
