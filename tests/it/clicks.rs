//! Clicks whose author knows them: their dataset, a run of it with its artifact, and the raw rows of its test split as CSV and
//! as Parquet.

use std::fmt::Write;
use std::fs::{self, File};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, ListBuilder, StringArray, StringBuilder};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::workbench::{Workbench, expect_success, streamrec};

const ROWS: usize = 3000;
pub const TEST_ROWS: usize = 300;

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
pub struct Click {
    pub user: i64,
    pub device: Option<&'static str>,
    pub tags: Vec<&'static str>,
    pub price: Option<f64>,
    pub views: i64,
    pub at: i64,
    pub click: bool,
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
pub struct Bench {
    bench: Workbench,
    pub test: Vec<Click>,
}

impl Bench {
    pub fn new() -> Self {
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

    pub fn path(&self, name: &str) -> String {
        self.bench.path(name)
    }
}

pub fn csv(clicks: &[Click]) -> String {
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
    write_table(&batch, path);
}

/// Writes a table as a Parquet file.
pub fn write_table(batch: &RecordBatch, path: &str) {
    let file = File::create(path).expect("a file");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("a writer");
    writer.write(batch).expect("written");
    writer.close().expect("written");
}

/// All rows of a Parquet file.
pub fn read(path: &str) -> RecordBatch {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).expect("scores"));
    let builder = builder.expect("Parquet");
    let schema = builder.schema().clone();
    let batches: Result<Vec<_>, _> = builder.build().expect("readable").collect();
    arrow::compute::concat_batches(&schema, &batches.expect("rows")).expect("one table")
}
