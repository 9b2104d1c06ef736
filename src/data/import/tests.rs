//! Whole imports of small files made here, and of the real files where they are at hand.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use streamrec_artifact::key;
use tempfile::TempDir;

use super::*;
use crate::data::{Dataset, RawColumn, Role, Split};

mod chunks;
mod held_out_counts;
mod parquet;
mod real_files;
mod trouble;

const SCHEMA: &str = r#"
name = "clicks"
time = { from = "at", format = "s" }
labels = [{ name = "click" }, { name = "long", from = "seconds", at_least = 10 }]
columns = [
  { name = "user", kind = "key", type = "integer" },
  { name = "item", kind = "key", type = "text" },
  { name = "price", from = "items.price", kind = "dense", type = "float", unit = "EUR" },
  { name = "tags", from = "items.tags", kind = "key_list", type = "text", separator = "|" },
  { name = "age_days", from = "items.made", kind = "dense", type = "timestamp", format = "iso8601", time_zone = "UTC", elapsed = "days" },
  { name = "seconds", kind = "dense", type = "integer", role = "outcome" },
]
[source]
files = ["clicks*.csv*"]
[[tables]]
name = "items"
on = ["item"]
key = ["id"]
source = { files = ["items.csv*"] }
[split]
by = "time"
valid = 0.25
test = 0.25
[[trailing]]
keys = ["user"]
count = "user_count"
sums = { click = "user_clicks", seconds = "user_seconds" }
"#;

const CLICKS: &str = "at,user,item,click,seconds\n\
    86400,1,a,1,30\n\
    172800,2,b,0,3\n\
    172800,1,b,1,9\n\
    259200,1,c,0,10\n";

const ITEMS: &str = "id,price,tags,made\na,1.5,x|y,1970-01-01\nb,,,1970-01-03T00:00:00+00:00\n";

/// A folder with these files.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, contents) in files {
        std::fs::write(folder.path().join(name), contents).expect("a file");
    }
    folder
}

fn clicks_and_items() -> TempDir {
    folder(&[
        ("clicks.csv", CLICKS.as_bytes()),
        ("items.csv", ITEMS.as_bytes()),
    ])
}

fn schema(text: &str) -> ImportSchema {
    ImportSchema::parse(text, "test").unwrap_or_else(|error| panic!("{error}"))
}

fn settings(input: &TempDir, schema_text: &str) -> ImportSettings {
    ImportSettings::new(schema(schema_text), input.path(), input.path().join("out"))
}

fn run(settings: &ImportSettings) -> Result<ImportReport, ImportError> {
    import(settings, &mut |_| {})
}

/// The values of one column over all blocks of a split; empty without the split.
fn values(dataset: &Dataset, split: Split, column: &str) -> RawColumn {
    let (place, described) = dataset.column(column).expect("a column");
    let mut all = RawColumn::new(described.kind);
    if dataset.splits.contains_key(&split) {
        let pack = dataset.pack(split).expect("a pack");
        let mut block = crate::data::Block::default();
        for i in 0..pack.blocks() {
            pack.read_block(i, &mut block).expect("a block");
            (0..block.rows).for_each(|row| all.push_row_of(&block.columns[place], row));
        }
    }
    all
}

fn all_splits(dataset: &Dataset, column: &str) -> RawColumn {
    let mut all = values(dataset, Split::Train, column);
    for split in [Split::Valid, Split::Test] {
        let more = values(dataset, split, column);
        (0..more.rows()).for_each(|row| all.push_row_of(&more, row));
    }
    all
}

fn rows(dataset: &Dataset) -> [u64; 3] {
    Split::ALL.map(|split| dataset.splits.get(&split).map_or(0, |file| file.rows))
}

#[test]
fn columns_labels_joins_and_aggregates_are_what_the_schema_says() {
    let input = clicks_and_items();
    let report = run(&settings(&input, SCHEMA)).expect("imported");
    let dataset = Dataset::open(input.path().join("out")).expect("a dataset");
    assert_eq!(dataset, report.dataset);
    assert_eq!(
        rows(&dataset),
        [3, 0, 1],
        "row 2 would begin valid, but has the time of row 1"
    );
    let nan = f32::NAN;
    let dense = |values: &[f32]| RawColumn::Dense(values.to_vec());
    let texts = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| key::from_text(text))
            .collect::<Vec<_>>()
    };
    let expected = [
        (
            "time",
            RawColumn::Time(vec![86_400_000, 172_800_000, 172_800_000, 259_200_000]),
        ),
        ("user", RawColumn::Key(vec![1, 2, 1, 1])),
        ("item", RawColumn::Key(texts(&["a", "b", "b", "c"]))),
        ("price", dense(&[1.5, nan, nan, nan])),
        (
            "tags",
            RawColumn::KeyList {
                offsets: vec![0, 2, 2, 2, 2],
                keys: texts(&["x", "y"]),
            },
        ),
        ("age_days", dense(&[1.0, 0.0, 0.0, nan])),
        ("click", dense(&[1.0, 0.0, 1.0, 0.0])),
        ("long", dense(&[1.0, 0.0, 0.0, 1.0])),
        ("user_count", dense(&[0.0, 0.0, 1.0, 2.0])),
        ("user_clicks", dense(&[0.0, 0.0, 1.0, 2.0])),
        ("user_seconds", dense(&[0.0, 0.0, 30.0, 39.0])),
    ];
    for (name, values) in expected {
        assert_eq!(all_splits(&dataset, name), values, "{name}");
    }
    assert_eq!(report.unmatched, [("items".to_owned(), 1)]);
    assert_eq!(
        dataset.column("seconds").expect("kept").1.role,
        Role::Outcome
    );
    assert_eq!(dataset.time.as_deref(), Some("time"));
    assert_eq!(dataset.provenance.sources.len(), 2);
}
