//! The body of a request to a server: rows that fit the model, or one error.

use streamrec_artifact::InputColumn;
use streamrec_serving::protocol::{Expected, InferRequest};

/// Rows of a request at most.
const ROWS_MAX: usize = 64;

/// The body as it comes; and the same as the data of a request that is right else.
pub fn check(data: &[u8]) {
    let inputs: Vec<InputColumn> = serde_json::from_str(
        r#"[{"name":"x","kind":"dense","source":"float","range":[0,10]},
        {"name":"n","kind":"key","source":"integer","required":true},{"name":"s","kind":"key","source":"text"},
        {"name":"k","kind":"key_list","source":"text"},{"name":"t","kind":"time","source":"timestamp"},
        {"name":"b","kind":"key","source":"boolean"}]"#,
    )
    .expect("inputs");
    parse(data, &inputs);
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(data);
    let datatype = ["INT64", "FP32", "BYTES", "UINT64", "BOOL", "FP64"][*choice as usize % 6];
    for input in &inputs {
        let name = &input.name;
        let body = format!(
            r#"{{"id":"i","inputs":[{{"name":"n","shape":[1],"datatype":"INT64","data":[1]}},
            {{"name":"{name}","shape":[1],"datatype":"{datatype}","data":[{text}]}}]}}"#
        );
        parse(body.as_bytes(), &inputs);
    }
}

fn parse(body: &[u8], inputs: &[InputColumn]) {
    let labels = ["click".to_owned(), "like".to_owned()];
    let expected = Expected {
        inputs,
        labels: &labels,
        rows_max: ROWS_MAX,
    };
    match InferRequest::parse(body, expected) {
        Ok(request) => {
            assert!((1..=ROWS_MAX).contains(&request.rows.rows));
            assert!(request.labels.iter().all(|label| *label < labels.len()));
            request
                .rows
                .check(inputs)
                .expect("rows of the model's inputs");
        }
        Err(error) => assert!(
            error.to_string().len() < 2000,
            "an error that repeats what came"
        ),
    }
}
