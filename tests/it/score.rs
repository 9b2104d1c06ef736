//! Scores in a file are those of the server and of evaluation, whatever file the rows come from; and
//! a file of scores is whole or not there.

use std::fmt::Write;
use std::fs::{self, File};
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, ListBuilder, StringArray, StringBuilder,
};
use arrow::datatypes::{Float32Type, Int64Type};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::serving::serve;
use crate::workbench::{Workbench, command, expect_success, said, send, streamrec, wait};

const ROWS: usize = 3000;
const TEST_ROWS: usize = 300;

const IMPORT: &str = r#"
name = "clicks"
labels = [{ name = "click" }]
columns = [
  { name = "user", kind = "key", type = "integer" },
  { name = "device", kind = "key", type = "text" },
  { name = "tags", kind = "key_list", type = "text", separator = ";" },
  { name = "price", kind = "dense", type = "float" },
  { name = "views", kind = "dense", type = "integer" },
  { name = "at", kind = "time", type = "timestamp", format = "ms" },
]
[source]
files = ["clicks.csv"]
[split]
by = "order"
valid = 0.1
test = 0.1
"#;

const EXPERIMENT: &str = r#"
name = "clicks"
[data]
dataset = "DATASET"
labels = ["click"]
[[features]]
name = "user"
kind = "categorical"
column = "user"
encoding = "vocabulary"
[[features]]
name = "device"
kind = "categorical"
column = "device"
encoding = "vocabulary"
[[features]]
name = "tags"
kind = "categorical"
column = "tags"
encoding = "hash"
rows = 97
pooling = "mean"
[[features]]
name = "hour"
kind = "categorical"
column = "at"
encoding = "hour_of_day"
time_zone = "UTC"
[[features]]
name = "price"
kind = "dense"
column = "price"
log1p = true
indicator = true
[[features]]
name = "views"
kind = "dense"
column = "views"
log1p = true
[model]
kind = "dlrm"
embedding_dim = 8
bottom = [16, 8]
top = [32, 16]
[optimizer.dense]
kind = "adam"
learning_rate = 0.01
[optimizer.sparse]
kind = "row_wise_adagrad"
learning_rate = 0.1
[train]
global_batch = 256
epochs = 2
"#;

/// One click, as its author knows it.
struct Click {
    user: i64,
    device: Option<&'static str>,
    tags: Vec<&'static str>,
    price: Option<f64>,
    views: i64,
    at: i64,
    click: bool,
}

impl Click {
    fn of(row: usize) -> Self {
        let random = |of: u64, salt: u64| {
            let mixed = (row as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (salt << 20);
            (mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) % of
        };
        let tags = ["news", "cats", "sport", "music"];
        Self {
            user: random(40, 1) as i64 - 3,
            device: [Some("phone"), Some("tablet"), None][random(3, 2) as usize],
            tags: tags[..random(4, 3) as usize].to_vec(),
            price: (random(5, 4) > 0).then(|| random(1000, 5) as f64 / 8.0),
            views: random(10_000, 6) as i64,
            at: 1_700_000_000_000 + row as i64 * 60_000,
            click: random(3, 1) == 0 || random(9, 7) == 0,
        }
    }
}

/// A folder with a trained run and its artifact, and the rows of its test split as raw files.
struct Bench {
    bench: Workbench,
    test: Vec<Click>,
}

impl Bench {
    fn new() -> Self {
        let bench = Workbench::new();
        let clicks: Vec<Click> = (0..ROWS).map(Click::of).collect();
        fs::write(bench.path("clicks.csv"), csv(&clicks)).expect("written");
        fs::write(bench.path("import.toml"), IMPORT).expect("written");
        let dataset = bench.path("data");
        fs::write(
            bench.path("clicks.toml"),
            EXPERIMENT.replace("DATASET", &dataset),
        )
        .expect("written");
        let (schema, input) = (bench.path("import.toml"), bench.path("clicks.csv"));
        let import = [
            "data", "import", "--format", "csv", &input, "--schema", &schema,
        ];
        expect_success(&streamrec(&[&import[..], &["--out", &dataset]].concat()));
        let output = format!("output={}", bench.path("run"));
        expect_success(&streamrec(&[
            "train",
            &bench.path("clicks.toml"),
            "--set",
            &output,
        ]));
        let (run, out) = (bench.path("run"), bench.path("artifact"));
        expect_success(&streamrec(&["export", &run, "--out", &out]));
        let test = clicks.into_iter().skip(ROWS - TEST_ROWS).collect();
        let bench = Self { bench, test };
        fs::write(bench.path("test.csv"), csv(&bench.test)).expect("written");
        write_parquet(&bench.test, &bench.path("test.parquet"));
        bench
    }

    fn path(&self, name: &str) -> String {
        self.bench.path(name)
    }

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

fn csv(clicks: &[Click]) -> String {
    let mut text = "user,device,tags,price,views,at,click\n".to_owned();
    for click in clicks {
        let price = click.price.map_or(String::new(), |price| price.to_string());
        let (device, tags) = (click.device.unwrap_or_default(), click.tags.join(";"));
        let Click {
            user, views, at, ..
        } = click;
        let label = u8::from(click.click);
        writeln!(text, "{user},{device},{tags},{price},{views},{at},{label}").expect("memory");
    }
    text
}

fn write_parquet(clicks: &[Click], path: &str) {
    let mut tags = ListBuilder::new(StringBuilder::new());
    for click in clicks {
        click
            .tags
            .iter()
            .for_each(|tag| tags.values().append_value(tag));
        tags.append(true);
    }
    let integers = |of: &dyn Fn(&Click) -> i64| -> ArrayRef {
        Arc::new(clicks.iter().map(of).collect::<Int64Array>())
    };
    let devices: StringArray = clicks.iter().map(|click| click.device).collect();
    let prices: Float64Array = clicks.iter().map(|click| click.price).collect();
    let columns: [(&str, ArrayRef); 7] = [
        ("click", integers(&|click| i64::from(click.click))),
        ("at", integers(&|click| click.at)),
        ("device", Arc::new(devices)),
        ("price", Arc::new(prices)),
        ("tags", Arc::new(tags.finish())),
        ("user", integers(&|click| click.user)),
        ("views", integers(&|click| click.views)),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("one table");
    let file = File::create(path).expect("a file");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("a writer");
    writer.write(&batch).expect("written");
    writer.close().expect("written");
}

/// All rows of a Parquet file.
fn read(path: &str) -> RecordBatch {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).expect("scores"));
    let builder = builder.expect("Parquet");
    let schema = builder.schema().clone();
    let batches: Result<Vec<_>, _> = builder.build().expect("readable").collect();
    arrow::compute::concat_batches(&schema, &batches.expect("rows")).expect("one table")
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
        let file = File::create(bench.path(name)).expect("a file");
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("a writer");
        writer.write(&batch).expect("written");
        writer.close().expect("written");
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
