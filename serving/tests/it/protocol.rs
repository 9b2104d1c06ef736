//! What right requests are answered.

use serde_json::{Value, json};
use streamrec_artifact::key;

use crate::model::{Folder, artifact, expected};
use crate::program::{Program, assert_close};
use crate::row::{Row, request, tensor};

/// Replaces a tensor of a request.
fn with_tensor(mut body: Value, replacement: Value) -> Value {
    for tensor in body["inputs"].as_array_mut().unwrap() {
        if tensor["name"] == replacement["name"] {
            *tensor = replacement.clone();
        }
    }
    body
}

#[test]
fn served_probabilities_equal_the_reference() {
    let model = artifact(1);
    let folder = Folder::with(&model);
    let program = Program::start(&folder.path(), &[]);
    for rows in [1, 7, 300, 5000] {
        let rows = Row::many(1000, rows);
        let answer = program.infer(&request(&rows));
        assert_close(&answer.probabilities(), &expected(&model, &rows));
    }
    let none = program.infer(&request(&[]));
    assert_eq!(
        none.body["outputs"][0],
        json!({"name": "click", "shape": [0], "datatype": "FP32", "data": []})
    );
}

#[test]
fn paths_follow_the_open_inference_protocol() {
    let folder = Folder::with(&artifact(1));
    let program = Program::start(&folder.path(), &[]);
    let body = |path: &str| {
        let answer = program.get(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.body
    };
    assert_eq!(body("/v2/health/live"), json!({"live": true}));
    assert_eq!(body("/v2/health/ready"), json!({"ready": true}));
    let server = body("/v2");
    assert_eq!(server["name"], "streamrec-serve");
    assert_eq!(server["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(server["extensions"], json!([]));

    let version = program.version();
    let versioned = format!("/v2/models/videos/versions/{version}");
    let ready = json!({"name": "videos", "ready": true});
    assert_eq!(body("/v2/models/videos/ready"), ready);
    assert_eq!(body(&format!("{versioned}/ready")), ready);
    let model = body("/v2/models/videos");
    assert_eq!(body(&versioned), model);
    assert_eq!(model["name"], "videos");
    assert_eq!(model["versions"], json!([version]));
    let age = &model["inputs"][0];
    assert_eq!(
        (&age["name"], &age["datatype"], &age["shape"]),
        (&json!("age"), &json!("FP64"), &json!([-1]))
    );
    assert_eq!(
        (&age["parameters"]["unit"], &age["parameters"]["range"]),
        (&json!("years"), &json!([0.0, 150.0]))
    );
    assert_eq!(model["inputs"][6]["shape"], json!([-1, -1]));
    assert_eq!(
        model["outputs"][1],
        json!({"name": "like", "datatype": "FP32", "shape": [-1]})
    );

    let rows = request(&Row::many(0, 3));
    let answer = program.post(&format!("{versioned}/infer"), &rows.to_string());
    assert_eq!(answer.version(), version);
    assert_eq!(answer.body, program.infer(&rows).body);
    assert!(
        program
            .get("/v2/models/videos/versions/1")
            .error()
            .contains(&version)
    );
}

#[test]
fn an_answer_has_the_request_s_id_and_the_outputs_it_asked_for() {
    let folder = Folder::with(&artifact(1));
    let program = Program::start(&folder.path(), &[]);
    let mut body = request(&Row::many(0, 3));
    let all = program.infer(&body).body;
    assert!(all.get("id").is_none());
    body["id"] = json!("seventeen");
    body["parameters"] = json!({"priority": 1});
    body["outputs"] = json!([{"name": "like", "parameters": {}}]);
    let one = program.infer(&body).body;
    assert_eq!(one["id"], "seventeen");
    assert_eq!(one["model_name"], "videos");
    assert_eq!(one["outputs"], json!([all["outputs"][1]]));
    assert_eq!(one["outputs"][0]["shape"], json!([3]));
}

#[test]
fn every_way_to_say_the_same_gives_the_same_answer() {
    let folder = Folder::with(&artifact(1));
    let program = Program::start(&folder.path(), &[]);
    let mut rows = Row::many(0, 2);
    rows[0].friends = vec![3, 99];
    rows[1].friends = vec![1, 4];
    rows[0].tags = vec!["cats"];
    rows[1].tags = Vec::new();
    (rows[0].at, rows[1].at) = (Some(1_700_000_000_000), None);
    (rows[0].device, rows[1].device) = (Some("tablet"), Some("phone"));
    (rows[0].views, rows[1].views) = (Some(20), Some(30));
    let plain = request(&rows);
    let answer = program.infer(&plain).body;
    let (tablet, phone, cats) = (
        key::from_text("tablet"),
        key::from_text("phone"),
        key::from_text("cats"),
    );
    let same = [
        tensor("friends", json!([2, 2]), "INT64", json!([[3, 99], [1, 4]])),
        tensor("friends", json!([2, 2]), "INT64", json!([3, 99, 1, 4])),
        tensor("friends", json!([2]), "INT16", json!([[3, 99], [1, 4]])),
        tensor(
            "friends",
            json!([2, -1]),
            "UINT64",
            json!([[3, null, 99], [1, 4]]),
        ),
        tensor("tags", json!([2, 1]), "BYTES", json!(["cats", null])),
        tensor("tags", json!([2, 1]), "BYTES", json!([["cats"], null])),
        tensor("tags", json!([2, -1]), "UINT64", json!([[cats], null])),
        tensor("device", json!([2]), "UINT64", json!([tablet, phone])),
        tensor("device", json!([2, 1]), "BYTES", json!(["tablet", "phone"])),
        tensor(
            "device",
            json!([2, 1]),
            "BYTES",
            json!([["tablet"], ["phone"]]),
        ),
        tensor(
            "at",
            json!([2]),
            "BYTES",
            json!(["2023-11-14T22:13:20Z", null]),
        ),
        tensor("views", json!([2]), "UINT64", json!([20, 30])),
        tensor("views", json!([2]), "FP64", json!([20.0, 30])),
    ];
    for tensor in same {
        assert_eq!(
            program
                .infer(&with_tensor(plain.clone(), tensor.clone()))
                .body,
            answer,
            "{tensor}"
        );
    }
}

#[test]
fn the_fields_of_a_tensor_come_in_any_order() {
    let folder = Folder::with(&artifact(1));
    let program = Program::start(&folder.path(), &[]);
    let infer = |tensor: &str| {
        let body = format!(r#"{{"inputs": [{tensor}]}}"#);
        program.post("/v2/models/videos/infer", &body)
    };
    let head = r#""name": "user_id", "parameters": {"a": [1]}, "shape": [2], "datatype": "INT64""#;
    let first = infer(&format!(r#"{{{head}, "data": [3, 1]}}"#));
    assert_eq!(first.status, 200, "{first:?}");
    let last = infer(&format!(r#"{{"data": [3, 1], {head}}}"#));
    assert_eq!(last.body, first.body);
    let wrong = infer(&format!(r#"{{"data": [3, "1"], {head}}}"#));
    assert_eq!(
        wrong.error(),
        "row 1: `user_id`: expected an element of INT64, got \"1\""
    );
    let twice = infer(&format!(r#"{{{head}, "data": [3, 1], "data": [3, 1]}}"#));
    assert!(
        twice.error().contains("duplicate field `data`"),
        "{twice:?}"
    );
}

#[test]
fn nulls_before_the_first_value_of_a_list_do_not_matter() {
    let folder = Folder::with(&artifact(1));
    let program = Program::start(&folder.path(), &[]);
    let infer = |shape: Value, data: Value| {
        let users = tensor("user_id", json!([2]), "INT64", json!([3, 1]));
        let tags = tensor("tags", shape, "BYTES", data);
        let answer = program.infer(&json!({"inputs": [users, tags]}));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    };
    let second = infer(json!([2, -1]), json!([[], ["cats"]]));
    assert_eq!(infer(json!([2, 1]), json!([null, "cats"])), second);
    assert_eq!(infer(json!([2, 1]), json!([null, ["cats"]])), second);
    assert_eq!(
        infer(json!([2, 2]), json!([null, null, null, "cats"])),
        second
    );
    let none = infer(json!([2]), json!([null, []]));
    assert_ne!(none, second);
    assert_eq!(infer(json!([2, 2]), json!([null, null, null, null])), none);
    assert_eq!(infer(json!([2, 0]), json!([])), none);
    assert_eq!(infer(json!([2, 0]), json!([[], []])), none);
}

#[test]
fn null_and_a_tensor_left_out_are_missing_values() {
    let model = artifact(1);
    let folder = Folder::with(&model);
    let program = Program::start(&folder.path(), &[]);
    let row = Row {
        user: 3,
        ..Row::default()
    };
    let nulls = request(std::slice::from_ref(&row));
    let user = tensor("user_id", json!([1]), "INT64", json!([3]));
    let answer = program.infer(&json!({"inputs": [user]}));
    assert_eq!(answer.body, program.infer(&nulls).body);
    assert_close(&answer.probabilities(), &expected(&model, &[row]));
}
