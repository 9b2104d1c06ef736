use streamrec_artifact::{ColumnKind, SourceType};

use super::*;
use crate::data::{Column, Error, RawValue, Role};

fn columns() -> Vec<Column> {
    vec![
        Column::new("when", ColumnKind::Time, SourceType::Timestamp, Role::Time),
        Column::new("user", ColumnKind::Key, SourceType::Integer, Role::Feature),
        Column::new(
            "seen",
            ColumnKind::Dense,
            SourceType::Integer,
            Role::Feature,
        ),
        Column::new(
            "watched",
            ColumnKind::Dense,
            SourceType::Float,
            Role::Outcome,
        ),
        Column::new("click", ColumnKind::Dense, SourceType::Integer, Role::Label),
    ]
}

fn write(out: &std::path::Path, seed: u64) -> Dataset {
    let mut writer = DatasetWriter::create(out, columns(), 4).unwrap();
    for (split, rows) in [(Split::Train, 10), (Split::Test, 3)] {
        for i in 0..rows {
            let row = [
                RawValue::Time(if i == 1 { i64::MIN } else { 100 + i as i64 }),
                RawValue::Key(seed + i),
                RawValue::Dense(0.0),
                RawValue::Dense(1.0),
                RawValue::Dense(0.0),
            ];
            writer.push(split, &row).unwrap();
        }
    }
    let trailing = vec![TrailingSpec {
        name: "seen".into(),
        keys: vec!["user".into()],
        label: None,
    }];
    let history = Some(History {
        id: "h1".into(),
        base: None,
        before_base: Vec::new(),
        held_out_counts: HeldOutCounts::Progressive,
    });
    writer
        .finish("tiny", trailing, history, Provenance::default())
        .unwrap()
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/tiny");
    let written = write(&out, 0);
    let read = Dataset::open(&out).unwrap();
    assert_eq!(read, written);
    assert_eq!(read.time.as_deref(), Some("when"));
    assert_eq!(
        read.splits[&Split::Train].time,
        Some(TimeSpan {
            first_ms: 100,
            last_ms: 109
        })
    );
    assert_eq!(read.pack(Split::Train).unwrap().rows(), 10);
    assert_eq!(
        std::fs::read_dir(out.parent().unwrap()).unwrap().count(),
        1,
        "no leftovers"
    );
}

#[test]
fn equal_data_has_an_equal_version() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (a, b, c) = (write(&at("a"), 0), write(&at("b"), 0), write(&at("c"), 1));
    assert_eq!(a.version(), b.version());
    assert_ne!(a.version(), c.version());
}

#[test]
fn an_existing_dataset_is_never_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("tiny");
    write(&out, 0);
    let message = DatasetWriter::create(&out, columns(), 4)
        .unwrap_err()
        .to_string();
    assert!(message.contains("exists already"), "{message}");
}

#[test]
fn an_unfinished_dataset_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let writer = DatasetWriter::create(folder.path().join("tiny"), columns(), 4).unwrap();
    drop(writer);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_pack_of_another_dataset_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (a, b) = (write(&at("a"), 0), write(&at("b"), 1));
    std::fs::copy(
        b.split_path(Split::Train).unwrap(),
        a.split_path(Split::Train).unwrap(),
    )
    .unwrap();
    let message = a.pack(Split::Train).unwrap_err().to_string();
    assert!(message.contains("not of one dataset"), "{message}");
    let message = a.pack(Split::Valid).unwrap_err().to_string();
    assert!(message.contains("there are train, test"), "{message}");
}

#[test]
fn what_the_outcome_decides_is_no_input() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = write(&folder.path().join("a"), 0);
    dataset.input_column("user").unwrap();
    for name in ["watched", "click"] {
        let message = dataset.input_column(name).unwrap_err().to_string();
        assert!(
            message.contains("not known when a ranker is asked"),
            "{message}"
        );
    }
}

#[test]
fn descriptions_that_cannot_be_used_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let message = Dataset::open(folder.path()).unwrap_err().to_string();
    assert!(message.contains("streamrec data generate"), "{message}");

    let out = folder.path().join("a");
    write(&out, 0);
    let path = out.join("dataset.json");
    let sound = std::fs::read_to_string(&path).unwrap();
    let cases = [
        (
            "\"format_version\": 1",
            "\"format_version\": 2",
            "format version 2",
        ),
        (
            "\"train.pack\"",
            "\"../train.pack\"",
            "must not leave the folder",
        ),
        (
            "\"time\": \"when\"",
            "\"time\": \"user\"",
            "`time` names `user`",
        ),
        (
            "\"name\": \"seen\",\n      \"kind\"",
            "\"name\": \"saw\",\n      \"kind\"",
            "`seen`",
        ),
        (
            "\"kind\": \"key\"",
            "\"kind\": \"time\"",
            "cannot hold integer",
        ),
    ];
    for (from, to, expected) in cases {
        assert!(sound.contains(from), "{from}");
        std::fs::write(&path, sound.replacen(from, to, 1)).unwrap();
        let message = Dataset::open(&out).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    std::fs::write(&path, sound.replacen("\"name\"", "\"nom\"", 1)).unwrap();
    assert!(matches!(Dataset::open(&out), Err(Error::Json { .. })));
}
