//! Scores in a file are those of the server and of evaluation, whatever file the rows come from; and
//! a file of scores is whole or not there.

use std::fs;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::datatypes::{Float32Type, Int64Type};
use arrow::record_batch::RecordBatch;
use serde_json::{Value, json};

use crate::clicks::{Bench, Click, TEST_ROWS, csv, read, write_table};
use crate::serving::serve;
use crate::workbench::{command, expect_success, said, send, streamrec, wait};

impl Bench {
    /// Scores files of this folder into another.
    fn score(&self, model: &str, input: &str, out: &str, more: &[&str]) -> Output {
        let (model, input, out) = (self.path(model), self.path(input), self.path(out));
        let words = [&["score", &model, &input, "--out", &out][..], more].concat();
        streamrec(&words)
    }

    fn scores(&self, model: &str, input: &str, more: &[&str]) -> RecordBatch {
        let out = format!("{model}-{input}.scores");
        expect_success(&self.score(model, input, &out, more));
        read(&self.path(&out))
    }
}

fn clicks_of(batch: &RecordBatch) -> Vec<f32> {
    let column = batch.column_by_name("score_click").expect("scores");
    assert_eq!(column.null_count(), 0);
    column.as_primitive::<Float32Type>().values().to_vec()
}

/// What a server says of raw rows.
fn served(artifact: &str, clicks: &[Click]) -> Vec<f64> {
    let (_server, address) = serve(artifact);
    let tensor = |name: &str, datatype: &str, data: Vec<Value>| json!({"name": name, "shape": [clicks.len()], "datatype": datatype, "data": data});
    let of = |value: &dyn Fn(&Click) -> Value| clicks.iter().map(value).collect::<Vec<_>>();
    let body = json!({"inputs": [
        tensor("user", "INT64", of(&|click| json!(click.user))),
        tensor("device", "BYTES", of(&|click| json!(click.device))),
        tensor("tags", "BYTES", of(&|click| json!(click.tags))),
        tensor("price", "FP64", of(&|click| json!(click.price))),
        tensor("views", "INT64", of(&|click| json!(click.views))),
        tensor("at", "INT64", of(&|click| json!(click.at))),
    ]});
    let url = format!("{address}/v2/models/clicks/infer");
    let mut answer = ureq::post(&url).send_json(&body).expect("an answer");
    let answer: Value = answer.body_mut().read_json().expect("JSON");
    let data = answer["outputs"][0]["data"].as_array().expect("scores");
    data.iter()
        .map(|score| score.as_f64().expect("a number"))
        .collect()
}

#[test]
fn scores_of_files_are_those_of_the_server_and_of_evaluation() {
    let bench = Bench::new();
    let keys = ["--key", "user,at"];
    let list = ["--list-separator", ";"];
    let from_csv = bench.scores("artifact", "test.csv", &[&keys[..], &list].concat());
    let from_parquet = bench.scores("artifact", "test.parquet", &keys);
    let packed = [
        "--split", "test", "--key", "user", "--key", "at", "--batch", "77",
    ];
    let from_packed = bench.scores("artifact", "data", &packed);
    let from_run = bench.scores("run", "data", &packed);
    let run_from_parquet = bench.scores("run", "test.parquet", &keys);

    let expected = clicks_of(&from_parquet);
    assert_eq!(expected.len(), TEST_ROWS);
    for (name, batch) in [
        ("csv", &from_csv),
        ("packed", &from_packed),
        ("run", &from_run),
        ("run, parquet", &run_from_parquet),
    ] {
        for (row, (a, b)) in clicks_of(batch).iter().zip(&expected).enumerate() {
            assert!((a - b).abs() <= 1e-6, "{name}, row {row}: {a} and {b}");
        }
        assert_eq!(batch.num_rows(), TEST_ROWS, "{name}");
    }
    let served = served(&bench.path("artifact"), &bench.test);
    for (row, (a, b)) in served.iter().zip(&expected).enumerate() {
        assert!(
            (a - f64::from(*b)).abs() <= 1e-6,
            "row {row}: served {a}, scored {b}"
        );
    }

    let users = from_parquet.column(0).as_primitive::<Int64Type>();
    let own: Vec<i64> = bench.test.iter().map(|click| click.user).collect();
    assert_eq!(users.values(), &own[..], "keys go with their scores");
    assert_eq!(
        from_packed.column(0).as_ref(),
        from_parquet.column(0).as_ref()
    );
    let texts = from_csv.column(0).as_string::<i32>();
    assert_eq!(texts.value(0), own[0].to_string(), "text stays as it was");
    let metadata = from_parquet.schema();
    assert_eq!(metadata.fields().len(), 3);
    evaluation_agrees(&bench, &expected);
}

/// The log loss and AUC that `evaluate` prints are those of the scores in the file.
fn evaluation_agrees(bench: &Bench, scores: &[f32]) {
    let evaluated = streamrec(&["evaluate", &bench.path("run"), "--split", "test", "--json"]);
    expect_success(&evaluated);
    let record: Value = serde_json::from_slice(&evaluated.stdout).expect("JSON");
    let metrics = &record["labels"]["click"];
    let rows = bench.test.iter().zip(scores);
    let loss = |(click, &score): (&Click, &f32)| {
        let p = f64::from(score);
        -(if click.click { p } else { 1.0 - p }).ln()
    };
    let mean = rows.clone().map(loss).sum::<f64>() / TEST_ROWS as f64;
    let got = metrics["log_loss"].as_f64().expect("a log loss");
    assert!((mean - got).abs() < 1e-6, "{mean} and {got}");
    let side = |happened: bool| {
        let side = rows
            .clone()
            .filter(move |(click, _)| click.click == happened);
        side.map(|(_, score)| *score).collect::<Vec<f32>>()
    };
    let (clicked, not) = (side(true), side(false));
    let wins = |a: &f32| {
        let wins = |b: &f32| {
            if a > b {
                1.0
            } else if a == b {
                0.5
            } else {
                0.0
            }
        };
        not.iter().map(wins).sum::<f64>()
    };
    let auc = clicked.iter().map(wins).sum::<f64>() / (clicked.len() * not.len()) as f64;
    let got = metrics["auc"].as_f64().expect("an AUC");
    assert!((auc - got).abs() < 1e-6, "{auc} and {got}");
}

#[test]
fn what_cannot_be_scored_is_told_with_its_place_and_leaves_nothing() {
    let bench = Bench::new();
    let list = ["--list-separator", ";"];
    let text = fs::read_to_string(bench.path("test.csv")).expect("read");
    let lacking = text.replace("views", "visits");
    fs::write(bench.path("lacking.csv"), lacking).expect("written");
    let wrong: String = text
        .lines()
        .enumerate()
        .map(|(at, line)| match at {
            7 => line.replacen(',', "x,", 1) + "\n",
            _ => line.to_owned() + "\n",
        })
        .collect();
    fs::write(bench.path("wrong.csv"), wrong).expect("written");
    let cut = text[..text.len() - 8].to_owned() + "\n";
    fs::write(bench.path("cut.csv"), cut).expect("written");
    for (input, more, expected) in [
        (
            "lacking.csv",
            &list[..],
            vec!["has no field `views`", "visits"],
        ),
        (
            "wrong.csv",
            &list[..],
            vec!["row 8", "`user`", "is not a 64-bit integer"],
        ),
        ("cut.csv", &list[..], vec!["line 301", "expected 7 fields"]),
        (
            "test.csv",
            &["--key", "basket"][..],
            vec!["has no field `basket`"],
        ),
        (
            "test.csv",
            &["--split", "test"][..],
            vec!["only a packed dataset has splits"],
        ),
        ("test.csv", &["--step", "3"][..], vec!["is an artifact"]),
        ("test.csv", &["--key", "at,at"][..], vec!["given twice"]),
        ("nothing.csv", &[][..], vec!["is not there"]),
    ] {
        let output = bench.score("artifact", input, "scores.parquet", more);
        assert!(!output.status.success(), "{input}");
        for words in expected {
            assert!(said(&output).contains(words), "{input}: {}", said(&output));
        }
        let left: Vec<_> = fs::read_dir(bench.path(""))
            .expect("listed")
            .flatten()
            .collect();
        let left = left
            .iter()
            .filter_map(|entry| entry.file_name().into_string().ok());
        let left: Vec<_> = left
            .filter(|name| name.contains("scores.parquet"))
            .collect();
        assert_eq!(left, Vec::<String>::new(), "{input}");
    }
    let first = bench.score("artifact", "test.parquet", "scores.parquet", &[]);
    expect_success(&first);
    let again = bench.score("artifact", "test.parquet", "scores.parquet", &[]);
    assert!(said(&again).contains("--overwrite"), "{}", said(&again));
    let over = bench.score(
        "artifact",
        "test.parquet",
        "scores.parquet",
        &["--overwrite"],
    );
    expect_success(&over);
    let onto = bench.score("artifact", "test.parquet", "test.parquet", &["--overwrite"]);
    assert!(said(&onto).contains("is the input"), "{}", said(&onto));
}

/// Parquet files that cannot be scored, beside `test.parquet`.
fn write_bad_parquet(bench: &Bench) {
    let (good, clicks) = (bench.path("test.parquet"), &bench.test);
    let bytes = fs::read(&good).expect("read");
    let write = |name: &str, bytes: &[u8]| fs::write(bench.path(name), bytes).expect("written");
    write("nothing-in.parquet", b"");
    write("cut.parquet", &bytes[..bytes.len() / 2]);
    write("text.parquet", csv(clicks).as_bytes());
    let rows = read(&good);
    let with = |name: &str, column: &str, values: Option<ArrayRef>| {
        let mut columns = Vec::new();
        for (field, own) in rows.schema().fields().iter().zip(rows.columns()) {
            if field.name() != column {
                columns.push((field.name().clone(), Arc::clone(own)));
            } else if let Some(values) = &values {
                columns.push((field.name().clone(), Arc::clone(values)));
            }
        }
        let batch = RecordBatch::try_from_iter(columns).expect("one table");
        write_table(&batch, &bench.path(name));
    };
    with("lacking.parquet", "views", None);
    let words = StringArray::from(vec!["many"; rows.num_rows()]);
    with("words.parquet", "views", Some(Arc::new(words)));
    let tags = rows.column_by_name("tags").expect("tags");
    with("lists.parquet", "price", Some(Arc::clone(tags)));
}

#[test]
fn parquet_that_cannot_be_scored_is_told_in_one_line_and_leaves_earlier_scores() {
    let bench = Bench::new();
    write_bad_parquet(&bench);
    let kept = b"earlier scores";
    fs::write(bench.path("kept.parquet"), kept).expect("written");
    let whole = ["as Parquet", "cut short", "write or fetch it again"];
    let cases: [(&str, &[&str]); 6] = [
        (
            "lacking.parquet",
            &["has no field `views`", "click, at, device"],
        ),
        (
            "words.parquet",
            &["row 1", "`views`", "an integer", "correct the file"],
        ),
        (
            "lists.parquet",
            &["row 1", "`price`", "another type", "takes a number"],
        ),
        ("nothing-in.parquet", &whole),
        ("cut.parquet", &whole),
        ("text.parquet", &whole),
    ];
    let refused = |output: &Output, words: &[&str]| {
        let text = said(output);
        assert!(!output.status.success(), "{text}");
        let one = text.starts_with("error: ") && text.trim_end().lines().count() == 1;
        assert!(one, "one line: {text}");
        for word in words {
            assert!(text.contains(word), "expected {word:?} in: {text}");
        }
        let left = fs::read(bench.path("kept.parquet")).expect("still there");
        assert_eq!(left, kept);
    };
    for (input, words) in cases {
        let output = bench.score("artifact", input, "kept.parquet", &["--overwrite"]);
        refused(&output, &[&[input], words].concat());
    }
    // A file is where the folder of the scores would be, and a folder that takes no files.
    let beneath = bench.score("artifact", "test.parquet", "kept.parquet/scores", &[]);
    refused(&beneath, &["folder cannot be made", "another --out"]);
    let (artifact, input) = (bench.path("artifact"), bench.path("test.parquet"));
    let nowhere = streamrec(&["score", &artifact, &input, "--out", "/proc/scores.parquet"]);
    refused(
        &nowhere,
        &["/proc/scores.parquet cannot be written", "another place"],
    );
    // An artifact whose schema was changed is not that which its golden examples are of.
    let manifest = bench.path("artifact/manifest.json");
    let text = fs::read_to_string(&manifest).expect("read");
    fs::write(&manifest, text.replace("\"views\"", "\"visits\"")).expect("written");
    let other = bench.score("artifact", "test.parquet", "kept.parquet", &["--overwrite"]);
    refused(&other, &["the artifact cannot be used", "visits"]);
}

#[test]
fn an_interrupted_scoring_leaves_nothing() {
    let bench = Bench::new();
    // Long enough that the signal comes before the end.
    let rows = fs::read_to_string(bench.path("test.csv")).expect("read");
    let (header, body) = rows.split_once('\n').expect("a header");
    let long = format!("{header}\n{}", body.repeat(8000));
    fs::write(bench.path("long.csv"), long).expect("written");
    let (artifact, input, out) = (
        bench.path("artifact"),
        bench.path("long.csv"),
        bench.path("scores.parquet"),
    );
    let mut child = command()
        .args([
            "score",
            &artifact,
            &input,
            "--list-separator",
            ";",
            "--out",
            &out,
        ])
        .spawn()
        .expect("starts");
    let begun = bench.path(".scores.parquet.next");
    wait(Duration::from_secs(60), || {
        fs::exists(&begun).unwrap_or(false)
    });
    send("INT", child.id() as i32);
    let status = child.wait().expect("ends");
    assert_eq!(status.code(), Some(130));
    let left = fs::read_dir(bench.path("")).expect("listed").flatten();
    let left = left.filter(|entry| entry.file_name().to_string_lossy().contains("scores"));
    assert_eq!(left.count(), 0);
}
