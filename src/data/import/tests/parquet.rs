//! Parquet files, whose columns have types of their own.

use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::file::properties::WriterProperties;
use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Decimal256Array, Float64Array,
    Int32Array, Int64Array, ListArray, RecordBatch, StringArray, TimestampSecondArray, UInt64Array,
};
use arrow::datatypes::{Int32Type, UInt64Type, i256};

use super::super::cancel::Cancel;
use super::super::files::Meter;
use super::super::parquet::ParquetRows;
use super::*;

/// A file of these columns.
fn parquet(columns: Vec<(&str, ArrayRef)>, group_rows: Option<usize>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).expect("a batch");
    let mut bytes = Vec::new();
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(group_rows)
        .build();
    let mut writer =
        ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).expect("a writer");
    writer.write(&batch).expect("memory");
    writer.close().expect("memory");
    bytes
}

#[test]
fn parquet_gives_the_same_rows_as_text() {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("unused", Arc::new(Int64Array::from(vec![0; 4]))),
        (
            "at",
            Arc::new(TimestampSecondArray::from(vec![
                86_400, 172_800, 172_800, 259_200,
            ])),
        ),
        (
            "item",
            Arc::new(StringArray::from(vec!["a", "b", "b", "c"])),
        ),
        ("user", Arc::new(Int64Array::from(vec![1, 2, 1, 1]))),
        (
            "click",
            Arc::new(BooleanArray::from(vec![true, false, true, false])),
        ),
        (
            "seconds",
            Arc::new(Float64Array::from(vec![
                Some(30.0),
                Some(3.0),
                Some(9.0),
                Some(10.0),
            ])),
        ),
    ];
    let bytes = parquet(columns, Some(2));
    let input = folder(&[("clicks.parquet", &bytes), ("items.csv", ITEMS.as_bytes())]);
    let text = SCHEMA.replace(
        r#"["clicks*.csv*"]"#,
        "[\"*.parquet\"]\nformat = \"parquet\"",
    );
    let got = run(&settings(&input, &text)).expect("imported").dataset;
    let plain = clicks_and_items();
    assert_eq!(
        got.splits,
        run(&settings(&plain, SCHEMA))
            .expect("imported")
            .dataset
            .splits
    );
}

#[test]
fn parquet_lists_become_key_lists_and_nulls_are_missing() {
    let lists = [Some(vec![Some(1), None, Some(2)]), None, Some(vec![])];
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "tags",
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists)),
        ),
        (
            "x",
            Arc::new(Int32Array::from(vec![None, Some(3), Some(4)])),
        ),
        (
            "y",
            Arc::new(Int32Array::from(vec![Some(1), Some(0), None])),
        ),
    ];
    let input = folder(&[("n.parquet", &parquet(columns, None))]);
    let text = r#"
        name = "lists"
        labels = [{ name = "y" }]
        columns = [
          { name = "tags", kind = "key_list", type = "integer" },
          { name = "x", kind = "key", type = "integer" },
        ]
        source = { files = ["*.parquet"], format = "parquet" }
        split = { by = "all", into = "train" }
    "#;
    let mut settings = settings(&input, text);
    settings.max_malformed = 0.5;
    let report = run(&settings).expect("imported");
    assert_eq!(
        (report.rows, report.malformed),
        (2, 1),
        "the label of row 3 is missing"
    );
    assert!(
        report.first_malformed[0].contains("n.parquet:3: "),
        "{:?}",
        report.first_malformed
    );
    let tags = RawColumn::KeyList {
        offsets: vec![0, 2, 2],
        keys: vec![1, 2],
    };
    assert_eq!(all_splits(&report.dataset, "tags"), tags);
    assert_eq!(
        all_splits(&report.dataset, "x"),
        RawColumn::Key(vec![key::MISSING_KEY, 3])
    );
}

const IDS: &str = r#"
name = "ids"
labels = [{ name = "y" }]
columns = [
  { name = "id", kind = "key", type = "integer" },
  { name = "more", kind = "key_list", type = "integer", separator = "|" },
  { name = "text", from = "id", kind = "key", type = "text" },
]
source = { files = ["*.csv", "*.parquet"] }
split = { by = "all", into = "train" }
"#;

#[test]
fn unsigned_ids_keep_their_bits_in_parquet_and_in_text() {
    let more = [Some(vec![Some(1), Some(u64::MAX)]), None, None];
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "id",
            Arc::new(UInt64Array::from(vec![7, u64::MAX - 1, 1 << 63])),
        ),
        (
            "more",
            Arc::new(ListArray::from_iter_primitive::<UInt64Type, _, _>(more)),
        ),
        ("y", Arc::new(Int32Array::from(vec![1, 0, 1]))),
    ];
    let text = format!(
        "id,more,y\n7,1|{},1\n{},,0\n{},,1\n",
        u64::MAX,
        u64::MAX - 1,
        1u64 << 63
    );
    let packed = folder(&[("n.parquet", &parquet(columns, None))]);
    let plain = folder(&[("n.csv", text.as_bytes())]);
    for (input, format) in [(packed, "parquet"), (plain, "csv")] {
        let mut settings = settings(&input, IDS);
        settings.schema.source.format = match format {
            "csv" => FileFormat::Csv,
            _ => FileFormat::Parquet,
        };
        settings.max_malformed = 0.5;
        let report = run(&settings).expect("imported");
        assert_eq!((report.rows, report.malformed), (2, 1), "{format}");
        let first = &report.first_malformed[0];
        assert!(first.contains("column `id` is the one integer"), "{first}");
        let values = |name| all_splits(&report.dataset, name);
        assert_eq!(values("id"), RawColumn::Key(vec![7, u64::MAX - 1]));
        let texts = ["7".to_owned(), (u64::MAX - 1).to_string()];
        let texts = texts.map(|text| key::from_text(&text)).to_vec();
        assert_eq!(values("text"), RawColumn::Key(texts), "{format}");
        let more = RawColumn::KeyList {
            offsets: vec![0, 2, 2],
            keys: vec![1, u64::MAX],
        };
        assert_eq!(values("more"), more, "{format}");
    }
}

#[test]
fn a_time_beyond_64_bits_is_a_malformed_line_and_not_the_end() {
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "at",
            Arc::new(TimestampSecondArray::from(vec![
                Some(1),
                Some(i64::MAX),
                None,
            ])),
        ),
        ("y", Arc::new(Int32Array::from(vec![1, 0, 1]))),
    ];
    let input = folder(&[("n.parquet", &parquet(columns, None))]);
    let text = r#"
        name = "times"
        labels = [{ name = "y" }]
        columns = [{ name = "at", kind = "time", type = "timestamp", format = "s" }]
        source = { files = ["*.parquet"], format = "parquet" }
        split = { by = "all", into = "train" }
    "#;
    let mut settings = settings(&input, text);
    settings.max_malformed = 0.5;
    let report = run(&settings).expect("imported");
    let first = &report.first_malformed[0];
    assert!(
        first.contains("n.parquet:2: column `at` is beyond what 64 bits hold"),
        "{first}"
    );
    let times = RawColumn::Time(vec![1000, key::MISSING_TIME]);
    assert_eq!(
        all_splits(&report.dataset, "at"),
        times,
        "a null is missing"
    );
}

#[test]
fn a_parquet_time_without_a_zone_is_in_that_of_the_schema() {
    // 2024-07-01 12:00 on a clock, the same moment in UTC, and the day alone.
    let noon = 1_719_835_200;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("local", Arc::new(TimestampSecondArray::from(vec![noon]))),
        (
            "moment",
            Arc::new(TimestampSecondArray::from(vec![noon]).with_timezone("+00:00")),
        ),
        ("day", Arc::new(Date32Array::from(vec![19_905]))),
        ("y", Arc::new(Int32Array::from(vec![1]))),
    ];
    let input = folder(&[("n.parquet", &parquet(columns, None))]);
    let import = |zone: &str, format: &str, out: &str| {
        let column = |name| {
            format!(
                r#"{{ name = "{name}", kind = "time", type = "timestamp", format = "{format}"{zone} }}"#
            )
        };
        let columns = ["local", "moment", "day"].map(column).join(",\n");
        let text = format!(
            r#"
                name = "times"
                labels = [{{ name = "y" }}]
                columns = [{columns}]
                source = {{ files = ["*.parquet"], format = "parquet" }}
                split = {{ by = "all", into = "train" }}
            "#
        );
        let mut settings = settings(&input, &text);
        settings.output = input.path().join(out);
        run(&settings)
    };
    let times = |report: &ImportReport| {
        ["local", "moment", "day"].map(|name| match all_splits(&report.dataset, name) {
            RawColumn::Time(times) => times[0],
            other => panic!("{}", other.kind()),
        })
    };
    let noon = noon * 1000;
    let hour = 3_600_000;
    // Berlin is two hours ahead of UTC in summer.
    let report = import(r#", time_zone = "Europe/Berlin""#, "iso8601", "berlin").expect("imported");
    assert_eq!(times(&report), [noon - 2 * hour, noon, noon - 14 * hour]);
    let error = import("", "iso8601", "nowhere")
        .expect_err("no zone")
        .to_string();
    assert!(error.contains("column `local` has no offset"), "{error}");
    assert!(error.contains("time_zone"), "{error}");
    let report = import("", "ms", "epoch").expect("imported");
    assert_eq!(
        times(&report),
        [noon, noon, noon - 12 * hour],
        "since the epoch"
    );
}

const NULLS: &str = r#"
name = "nulls"
labels = [{ name = "y" }]
columns = [
  { name = "id", kind = "key", type = "integer" },
  { name = "big", kind = "key", type = "integer", null = ["18446744073709551615"] },
  { name = "age", kind = "dense", type = "integer", null = ["-1", "NA"] },
  { name = "price", kind = "dense", type = "float", null = ["-0.5"] },
  { name = "cost", kind = "dense", type = "float", null = ["0.5"] },
  { name = "flag", kind = "dense", type = "boolean", null = ["false"] },
  { name = "made", kind = "time", type = "timestamp", format = "iso8601", time_zone = "UTC", null = ["1970-01-01"] },
]
[source]
files = ["*.csv", "*.parquet"]
format = "parquet"
null = ["", "0"]
[split]
by = "all"
into = "train"
"#;

#[test]
fn a_null_of_the_schema_is_the_value_it_is_read_as() {
    let decimals = |values: Vec<i128>, scale| {
        Decimal128Array::from(values)
            .with_precision_and_scale(38, scale)
            .expect("a decimal")
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![0, 7]))),
        ("big", Arc::new(UInt64Array::from(vec![u64::MAX, 8]))),
        ("age", Arc::new(Int32Array::from(vec![-1, 9]))),
        ("price", Arc::new(Float64Array::from(vec![-0.5, 1.5]))),
        ("cost", Arc::new(decimals(vec![50, 150], 2))),
        ("flag", Arc::new(BooleanArray::from(vec![false, true]))),
        (
            "made",
            Arc::new(TimestampSecondArray::from(vec![0, 86_400])),
        ),
        ("y", Arc::new(Int32Array::from(vec![1, 1]))),
    ];
    let text = "id,big,age,price,cost,flag,made,y\n\
        0,18446744073709551615,-1,-0.5,0.5,false,1970-01-01,1\n7,8,9,1.5,1.5,true,1970-01-02,1\n";
    let expected = [
        ("id", RawColumn::Key(vec![key::MISSING_KEY, 7])),
        ("big", RawColumn::Key(vec![key::MISSING_KEY, 8])),
        ("age", RawColumn::Dense(vec![f32::NAN, 9.0])),
        ("price", RawColumn::Dense(vec![f32::NAN, 1.5])),
        ("cost", RawColumn::Dense(vec![f32::NAN, 1.5])),
        ("flag", RawColumn::Dense(vec![f32::NAN, 1.0])),
        ("made", RawColumn::Time(vec![key::MISSING_TIME, 86_400_000])),
    ];
    let packed = folder(&[("n.parquet", &parquet(columns, None))]);
    let plain = folder(&[("n.csv", text.as_bytes())]);
    for (input, format) in [(packed, FileFormat::Parquet), (plain, FileFormat::Csv)] {
        let mut settings = settings(&input, NULLS);
        settings.schema.source.format = format;
        let report = run(&settings).expect("imported");
        for (name, values) in &expected {
            assert_eq!(
                &all_splits(&report.dataset, name),
                values,
                "{name}, {format:?}"
            );
        }
    }
}

#[test]
fn a_null_of_a_label_is_a_malformed_line_in_parquet_too() {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("x", Arc::new(Int64Array::from(vec![1, 2]))),
        ("y", Arc::new(Int32Array::from(vec![1, -1]))),
    ];
    let input = folder(&[("n.parquet", &parquet(columns, None))]);
    let text = r#"
        name = "labels"
        labels = [{ name = "y", at_least = 0 }]
        columns = [{ name = "x", kind = "key", type = "integer" }]
        source = { files = ["*.parquet"], format = "parquet", null = ["-1"] }
        split = { by = "all", into = "train" }
    "#;
    let mut settings = settings(&input, text);
    settings.max_malformed = 0.5;
    let report = run(&settings).expect("imported");
    assert_eq!((report.rows, report.malformed), (1, 1));
    let first = &report.first_malformed[0];
    assert!(
        first.contains("n.parquet:2: column `y` is missing"),
        "{first}"
    );
}

#[test]
fn a_cancelled_import_does_not_hash_a_file_to_its_end() {
    let columns: Vec<(&str, ArrayRef)> = vec![("y", Arc::new(Int32Array::from(vec![1])))];
    let input = folder(&[("n.parquet", &parquet(columns, None))]);
    let mut rows = ParquetRows::open(&input.path().join("n.parquet"), &Meter::default())
        .unwrap_or_else(|error| panic!("{error}"));
    let cancel = Cancel::default();
    cancel.0.store(true, Ordering::Relaxed);
    let error = rows.select(&[0], &[], &cancel).expect_err("cancelled");
    assert!(matches!(error, ImportError::Cancelled), "{error}");
}

#[test]
fn a_text_for_a_missing_list_is_refused() {
    let lists = [Some(vec![Some(1)])];
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "tags",
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists)),
        ),
        ("y", Arc::new(Int32Array::from(vec![1]))),
    ];
    let input = folder(&[("n.parquet", &parquet(columns, None))]);
    let text = r#"
        name = "lists"
        labels = [{ name = "y" }]
        columns = [{ name = "tags", kind = "key_list", type = "integer", null = ["-"] }]
        source = { files = ["*.parquet"], format = "parquet" }
        split = { by = "all", into = "train" }
    "#;
    let error = run(&settings(&input, text))
        .expect_err("refused")
        .to_string();
    assert!(error.contains("n.parquet, column `tags`"), "{error}");
    assert!(error.contains("leave `null` out"), "{error}");
}

#[test]
fn decimals_keep_every_digit() {
    let ids = [9_007_199_254_740_993, i128::from(u64::MAX), 1 << 64];
    let ids = Decimal128Array::from(ids.map(|id| id * 100).to_vec())
        .with_precision_and_scale(38, 2)
        .expect("a decimal");
    let wide = Decimal256Array::from([15, 25, 70].map(i256::from_i128).to_vec())
        .with_precision_and_scale(76, 1)
        .expect("a decimal");
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(ids)),
        ("wide", Arc::new(wide)),
        ("y", Arc::new(Int32Array::from(vec![1, 0, 1]))),
    ];
    let input = folder(&[("n.parquet", &parquet(columns, None))]);
    let text = r#"
        name = "decimals"
        labels = [{ name = "y" }, { name = "half", from = "wide", equals = "2.5" }]
        columns = [
          { name = "id", kind = "key", type = "integer" },
          { name = "text", from = "id", kind = "key", type = "text" },
          { name = "wide", kind = "dense", type = "float" },
        ]
        source = { files = ["*.parquet"], format = "parquet" }
        split = { by = "all", into = "train" }
    "#;
    let mut settings = settings(&input, text);
    settings.max_malformed = 0.5;
    let report = run(&settings).expect("imported");
    let first = &report.first_malformed[0];
    assert!(
        first.contains("n.parquet:3: column `id` is not a 64-bit integer"),
        "{first}"
    );
    let values = |name| all_splits(&report.dataset, name);
    assert_eq!(
        values("id"),
        RawColumn::Key(vec![9_007_199_254_740_993, u64::MAX])
    );
    let texts = ["9007199254740993", "18446744073709551615"].map(key::from_text);
    assert_eq!(values("text"), RawColumn::Key(texts.to_vec()));
    assert_eq!(values("wide"), RawColumn::Dense(vec![1.5, 2.5]));
    assert_eq!(values("half"), RawColumn::Dense(vec![0.0, 1.0]));
}
