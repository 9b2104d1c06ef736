//! What bad requests are told: a status of the caller's fault, and field, row and reason.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::model::{Folder, artifact};
use crate::program::{Program, client};
use crate::row::{Row, request, tensor};

/// A request of two users and `extra` tensors.
fn two_users(extra: &[Value]) -> Value {
    let mut inputs = vec![tensor("user_id", json!([2]), "INT64", json!([3, 1]))];
    inputs.extend_from_slice(extra);
    json!({ "inputs": inputs })
}

#[test]
fn bad_tensors_are_refused_by_field_row_and_reason() {
    let folder = Folder::with(&artifact(1));
    let program = Program::start(&folder.path(), &[]);
    let one = |name: &str, shape: Value, datatype: &str, data: Value| {
        two_users(&[tensor(name, shape, datatype, data)])
    };
    let cases = [
        (
            one("devise", json!([2]), "BYTES", json!(["phone", "phone"])),
            "input: `devise` is no input of the model; did you mean `device`?",
        ),
        (
            one("device", json!([2]), "BYTES", json!(["phone", 7])),
            "row 1: `device`: expected an element of BYTES, got 7",
        ),
        (
            one("views", json!([2]), "UINT8", json!([1, 256])),
            "row 1: `views`: expected an element of UINT8, got 256",
        ),
        (
            one("device", json!([2]), "INT64", json!([4, 7])),
            "row 0: `device`: expected text, got the integer 4",
        ),
        (
            one("age", json!([2]), "FP32", json!([30, 151.5])),
            "row 1: `age`: expected 0 to 150 years, got the number 151.5",
        ),
        (
            one("age", json!([2]), "BOOL", json!([true, false])),
            "row 0: `age`: expected a finite number (years), got true",
        ),
        (
            one("at", json!([2]), "BYTES", json!([null, "noon"])),
            "row 1: `at`: expected milliseconds since 1970 (UTC) or an RFC 3339 time, got the text \"noon\"",
        ),
        (
            one("age", json!([2]), "INT65", json!([1, 2])),
            "input `age`: unknown datatype `INT65`; expected BOOL, UINT8",
        ),
        (
            one("age", json!([2, 2]), "FP32", json!([1, 2, 3, 4])),
            "input `age`: expected shape [rows], got [2, 2]",
        ),
        (
            one(
                "tags",
                json!([2, 2, 1]),
                "BYTES",
                json!(["a", "b", "c", "d"]),
            ),
            "input `tags`: expected shape [rows], [rows, -1] or [rows, length], got [2, 2, 1]",
        ),
        (
            one("age", json!([-1]), "FP32", json!([1, 2])),
            "input `age`: expected shape [rows], got [-1]",
        ),
        (
            one("age", json!([2]), "FP32", json!([1, 2, 3])),
            "input `age`: shape [2] asks for 2 elements, got more",
        ),
        (
            one("tags", json!([2, 3]), "BYTES", json!(["a", "b"])),
            "input `tags`: shape [2, 3] asks for 6 elements, got 2",
        ),
        (
            one("tags", json!([2, i64::MAX]), "BYTES", json!(["a", "b"])),
            "elements, got 2",
        ),
        (
            one("tags", json!([2, 2]), "BYTES", json!([["a", "b"], ["c"]])),
            "row 1: `tags`: expected an array of 2 BYTES, got one of 1",
        ),
        (
            one("tags", json!([2]), "BYTES", json!(["a", ["c"]])),
            "row 0: `tags`: expected a list of BYTES, got \"a\"",
        ),
        (
            one("tags", json!([2, -1]), "BYTES", json!([["a", 5], []])),
            "row 0: `tags`: expected an element of BYTES, got 5",
        ),
        (
            one(
                "device",
                json!([2, 1]),
                "BYTES",
                json!([["phone"], ["a", "b"]]),
            ),
            "row 1: `device`: expected an array of 1 BYTES, got one of more",
        ),
        (
            one("age", json!([2]), "FP32", json!([1, [2]])),
            "row 1: `age`: expected an element of FP32, got an array",
        ),
        (
            one("age", json!([2]), "FP32", json!([1, {}])),
            "row 1: `age`: expected an element of FP32, got an object",
        ),
        (
            one("tags", json!([2]), "BYTES", json!([[], [["a"]]])),
            "row 1: `tags`: expected an element of BYTES, got an array in an array",
        ),
        (
            one("tags", json!([2, 2]), "BYTES", json!(["a", ["b", "c"]])),
            "row 0: `tags`: expected an element of BYTES, got an array",
        ),
        (
            one("tags", json!([2]), "UINT64", json!([vec![1; 4097], []])),
            "row 0: `tags`: expected a list of at most 4096 elements, got more",
        ),
        (
            one("age", json!(vec![1; 9]), "FP32", json!([1])),
            "expected a shape of at most 8 dimensions",
        ),
        (
            one("age", json!([1]), "FP32", json!([1])),
            "input `age`: expected 2 rows, as input `user_id` has, got 1",
        ),
        (
            one("user_id", json!([2]), "INT64", json!([4, 4])),
            "input `user_id` comes twice; send one tensor a feature",
        ),
        (
            json!({"inputs": [tensor("user_id", json!([2]), "INT64", json!([3, null]))]}),
            "row 1: `user_id` is required and has no value: expected an integer",
        ),
        (
            json!({"inputs": [tensor("age", json!([1]), "FP32", json!([3]))]}),
            "row 0: `user_id` is required and has no value",
        ),
        (
            json!({"inputs": []}),
            "`inputs`: expected a tensor for each feature, got none",
        ),
        (
            json!({"inputs": [{"name": "age"}]}),
            "missing field `shape`",
        ),
        (json!({"rows": 1}), "missing field `inputs`"),
    ];
    for (body, reason) in cases {
        let answer = program.infer(&body);
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert!(
            answer.error().contains(reason),
            "{body}: {}",
            answer.error()
        );
    }
}

#[test]
fn requests_that_are_none_are_refused() {
    let folder = Folder::with(&artifact(1));
    let flags = ["--request-rows", "4", "--request-bytes", "2000"];
    let program = Program::start(&folder.path(), &flags);
    let infer = "/v2/models/videos/infer";
    let refused = |path: &str, body: &str, status: u16, reason: &str| {
        let answer = program.post(path, body);
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(
            answer.error().contains(reason),
            "{path}: {}",
            answer.error()
        );
    };
    refused(
        infer,
        "not JSON",
        400,
        "the body is no inference request in JSON: expected",
    );
    refused(infer, "", 400, "the body is no inference request in JSON");
    refused(
        infer,
        &"[".repeat(1000),
        400,
        "the body is no inference request in JSON",
    );
    refused(
        infer,
        &" ".repeat(2001),
        413,
        "the body is longer than 2000 bytes; split the request",
    );
    let rows = |count| {
        let users = vec![1; count];
        json!({"inputs": [tensor("user_id", json!([count]), "INT64", json!(users))]}).to_string()
    };
    assert_eq!(program.post(infer, &rows(4)).status, 200);
    refused(
        infer,
        &rows(5),
        413,
        "expected at most 4 rows, got 5; split the request",
    );
    let body = rows(1);
    refused(
        "/v2/models/films/infer",
        &body,
        404,
        "no model `films`; this server has `videos`",
    );
    refused(
        "/v2/models/videos/versions/7/infer",
        &body,
        404,
        "no version `7` of `videos`",
    );
    refused("/v2/models", &body, 404, "no path /v2/models");
    refused(
        "/v2/health/live",
        &body,
        405,
        "/v2/health/live does not take POST",
    );
    let wrong = program.get(infer);
    assert_eq!(
        (wrong.status, wrong.error()),
        (405, "/v2/models/videos/infer does not take GET")
    );
}

#[test]
fn outputs_that_the_model_lacks_or_that_come_twice_are_refused() {
    let folder = Folder::with(&artifact(1));
    let program = Program::start(&folder.path(), &[]);
    for (outputs, reason) in [
        (
            json!([{"name": "clicks"}]),
            "output `clicks`: the model has click, like",
        ),
        (
            json!([{"name": "like"}, {"name": "click"}, {"name": "like"}]),
            "output `like` is asked for twice; ask for each once",
        ),
    ] {
        let mut body = request(&[Row::nth(1)]);
        body["outputs"] = outputs;
        let answer = program.infer(&body);
        assert_eq!((answer.status, answer.error()), (400, reason));
    }
}

#[test]
fn a_long_name_is_refused_soon_and_in_few_words() {
    let folder = Folder::with(&artifact(1));
    let program = Program::start(&folder.path(), &[]);
    let long = "x".repeat(20 << 20);
    let mut unknown = request(&[Row::nth(1)]);
    unknown["outputs"] = json!([{"name": long}]);
    let bodies = [
        unknown,
        two_users(&[tensor(&long, json!([2]), "FP32", json!([1, 2]))]),
        two_users(&[tensor("age", json!([2]), &long, json!([1, 2]))]),
        two_users(&[tensor("age", json!([2]), "FP32", json!([1, long]))]),
        two_users(&[tensor("at", json!([2]), "BYTES", json!([null, long]))]),
    ];
    for body in bodies {
        let began = Instant::now();
        let answer = program.infer(&body);
        assert_eq!(answer.status, 400);
        assert!(answer.error().contains("xxx..."), "{}", answer.error());
        assert!(answer.error().len() < 300, "{}", answer.error());
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn the_reading_ends_with_the_first_row_too_many() {
    let folder = Folder::with(&artifact(1));
    let program = Program::start(&folder.path(), &[]);
    // What follows the surplus is no JSON, so that the answer tells where the reading ended.
    for (data, reason) in [
        ("1,1,1,nonsense", "shape [2] asks for 2 elements, got more"),
        (
            "[1,2],[3,4],[5,6],nonsense",
            "row 0: `user_id`: expected an element of INT64, got an array",
        ),
    ] {
        let body = format!(
            r#"{{"inputs": [{{"name": "user_id", "shape": [2], "datatype": "INT64", "data": [{data}"#
        );
        let answer = program.post("/v2/models/videos/infer", &body);
        assert_eq!(answer.status, 400);
        assert!(answer.error().contains(reason), "{}", answer.error());
    }
}

#[test]
fn the_binary_extension_is_refused_by_name() {
    let folder = Folder::with(&artifact(1));
    let program = Program::start(&folder.path(), &[]);
    let url = format!("{}/v2/models/videos/infer", program.address);
    let request = client()
        .post(url)
        .header("Inference-Header-Content-Length", "10");
    let mut response = request.send(&[0u8; 32]).unwrap();
    assert_eq!(response.status().as_u16(), 415);
    let body: Value = response.body_mut().read_json().unwrap();
    assert!(
        body["error"]
            .as_str()
            .unwrap()
            .contains("binary_data=False"),
        "{body}"
    );
}

#[test]
fn a_value_too_large_for_the_model_is_told_and_spoils_no_other_request() {
    let folder = Folder::with(&artifact(1));
    let program = Program::start(&folder.path(), &["--batch-delay-us", "200000"]);
    let bid = |second: f64| two_users(&[tensor("bid", json!([2]), "FP64", json!([0.5, second]))]);
    std::thread::scope(|scope| {
        let fine = scope.spawn(|| program.infer(&bid(0.7)));
        let answer = program.infer(&bid(-3e38));
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(
            answer.error().contains("row 1: the score is not a number"),
            "{answer:?}"
        );
        assert_eq!(fine.join().unwrap().status, 200);
    });
}

#[test]
fn what_is_no_http_ends_the_connection_and_not_the_server() {
    let folder = Folder::with(&artifact(1));
    let program = Program::start(&folder.path(), &[]);
    let mut stream = TcpStream::connect(program.host()).unwrap();
    stream
        .write_all(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        .unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 400"), "{said}");
    assert_eq!(program.get("/v2/health/ready").status, 200);
}
