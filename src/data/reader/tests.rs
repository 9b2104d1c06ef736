use std::path::{Path, PathBuf};
use std::sync::Arc;

use streamrec_artifact::{
    CategoricalFeature, DenseFeature, DenseSource, Encoder, Encoding, FeatureSchema, MISSING_KEY,
    Pooling, RawColumn, SourceType, TableSchema, Vocabularies,
};

use super::*;
use crate::data::history::{TrailingCounter, TrailingHistory};
use crate::data::{
    Batch, Block, Column, ColumnKind, Error, PackReader, PackWriter, Position, RawValue, Role,
    TrailingSpec,
};

mod refusals;

const ROWS: u64 = 1000;
const BLOCK_ROWS: usize = 16;

fn columns() -> Vec<Column> {
    let dense = |name, role| Column::new(name, ColumnKind::Dense, SourceType::Float, role);
    vec![
        Column::new("user", ColumnKind::Key, SourceType::Integer, Role::Feature),
        dense("number", Role::Feature),
        Column::new(
            "recent",
            ColumnKind::KeyList,
            SourceType::Integer,
            Role::Feature,
        ),
        Column::new("when", ColumnKind::Time, SourceType::Timestamp, Role::Time),
        dense("weight", Role::Weight),
        dense("watched", Role::Outcome),
        dense("p_click", Role::Truth),
        dense("click", Role::Label),
        dense("complete", Role::Label),
    ]
}

/// A file whose `number` is the row's place in it.
fn write(path: &Path, rows: u64) {
    let mut writer = PackWriter::create(path, &columns(), BLOCK_ROWS).unwrap();
    for i in 0..rows {
        let recent: Vec<u64> = (0..i % 3).map(|k| i + k).collect();
        writer
            .push(&[
                RawValue::Key(i % 37),
                RawValue::Dense(i as f32),
                RawValue::KeyList(&recent),
                RawValue::Time(i as i64),
                RawValue::Dense((i % 5) as f32),
                RawValue::Dense(f32::NAN),
                RawValue::Dense(0.25),
                RawValue::Dense((i % 2) as f32),
                RawValue::Dense(f32::from(u8::from(i % 4 == 3))),
            ])
            .unwrap();
    }
    writer.finish().unwrap();
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn settings(file: PathBuf) -> ReaderSettings {
    let inputs = Inputs::Raw(names(&["number", "user", "recent", "when"]));
    ReaderSettings {
        weight: Some("weight".into()),
        group: Some("user".into()),
        truth: names(&["p_click"]),
        seed: 7,
        window_blocks: 4,
        ..ReaderSettings::new(vec![file], inputs, names(&["click", "complete"]), 48)
    }
}

fn read(settings: ReaderSettings, epoch: u64, step: u64) -> Vec<Batch> {
    let mut reader = BatchReader::new(settings).unwrap();
    reader.start(epoch, step).unwrap();
    let mut batches = Vec::new();
    while let Some(batch) = reader.next().unwrap() {
        batches.push(batch);
    }
    batches
}

/// The numbers of the rows that are not padding.
fn numbers(batch: &Batch) -> Vec<u64> {
    match &batch.raw.columns[0] {
        RawColumn::Dense(values) => values.iter().map(|&value| value as u64).collect(),
        other => panic!("{}", other.kind()),
    }
}

#[test]
fn each_row_occurs_once_an_epoch_with_all_its_values() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.pack");
    write(&file, ROWS);
    let batches = read(settings(file), 0, 0);
    assert_eq!(batches.len(), 21);
    let mut seen = Vec::new();
    for (step, batch) in batches.iter().enumerate() {
        assert_eq!(
            batch.position,
            Position {
                epoch: 0,
                step: step as u64
            }
        );
        assert_eq!((batch.rows, batch.first_row), (48, 48 * step as u64));
        let rows = numbers(batch);
        assert_eq!(rows.len(), batch.filled);
        for (row, &i) in rows.iter().enumerate() {
            assert_eq!(
                batch.labels[2 * row..][..2],
                [(i % 2) as f32, f32::from(u8::from(i % 4 == 3))]
            );
            assert_eq!(
                (batch.weights[row], batch.truth[row]),
                ((i % 5) as f32, 0.25)
            );
            assert_eq!(batch.groups[row], i % 37);
            let RawColumn::KeyList { offsets, keys } = &batch.raw.columns[2] else {
                panic!()
            };
            let recent = &keys[offsets[row] as usize..offsets[row + 1] as usize];
            assert_eq!(recent, (0..i % 3).map(|k| i + k).collect::<Vec<_>>());
        }
        let sum: f64 = rows.iter().map(|i| (i % 5) as f64).sum();
        assert_eq!(batch.weight_sum, sum);
        seen.extend(rows);
    }
    assert!(
        seen.windows(2).any(|pair| pair[0] > pair[1]),
        "rows are shuffled"
    );
    seen.sort_unstable();
    assert_eq!(seen, (0..ROWS).collect::<Vec<_>>());

    let last = &batches[20];
    assert_eq!(last.filled, 40);
    assert_eq!(last.weights[40..], [0.0; 8]);
    assert_eq!(last.labels[80..], [0.0; 16]);
    assert_eq!(last.groups[40..], [MISSING_KEY; 8]);
}

#[test]
fn ranks_together_read_the_same_global_batches() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.pack");
    write(&file, ROWS);
    for global_batch in [48, 50, 200] {
        let settings = ReaderSettings {
            global_batch,
            ..settings(file.clone())
        };
        let alone = read(settings.clone(), 3, 0);
        for dp_size in 2..=4 {
            let ranks: Vec<_> = (0..dp_size)
                .map(|dp_index| {
                    read(
                        ReaderSettings {
                            dp_index,
                            dp_size,
                            ..settings.clone()
                        },
                        3,
                        0,
                    )
                })
                .collect();
            for (step, whole) in alone.iter().enumerate() {
                let parts: Vec<_> = ranks.iter().map(|rank| &rank[step]).collect();
                let together: Vec<_> = parts.iter().flat_map(|part| numbers(part)).collect();
                assert_eq!(together, numbers(whole), "dp {dp_size}, step {step}");
                let mut first_row = whole.first_row;
                for part in parts {
                    assert_eq!(part.rows, global_batch.div_ceil(dp_size));
                    assert_eq!(part.weight_sum.to_bits(), whole.weight_sum.to_bits());
                    assert_eq!(part.first_row, first_row);
                    first_row += part.filled as u64;
                }
            }
        }
    }
}

#[test]
fn a_resumed_reader_gives_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.pack");
    write(&file, ROWS);
    let whole = read(settings(file.clone()), 2, 0);
    for step in [0, 1, 7, 20] {
        assert!(
            read(settings(file.clone()), 2, step) == whole[step as usize..],
            "step {step}"
        );
    }
    assert!(read(settings(file.clone()), 2, 21).is_empty());
    let mut reader = BatchReader::new(settings(file)).unwrap();
    assert!(reader.start(2, 22).is_err());
    // One reader, started again and again, is no different; nor is recycled memory.
    for step in [20, 3, 5] {
        reader.start(2, step).unwrap();
        for expected in &whole[step as usize..] {
            let batch = reader.next().unwrap().unwrap();
            assert!(batch == *expected);
            reader.recycle(batch);
        }
        assert!(reader.next().unwrap().is_none());
        assert!(reader.next().unwrap().is_none());
    }
}

#[test]
fn threads_and_prefetch_do_not_change_batches() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.pack");
    write(&file, ROWS);
    let expected = read(settings(file.clone()), 1, 0);
    for (threads, prefetch) in [(1, 1), (2, 3), (4, 9)] {
        let settings = ReaderSettings {
            threads,
            prefetch,
            ..settings(file.clone())
        };
        assert!(
            read(settings, 1, 0) == expected,
            "{threads} threads, {prefetch} ahead"
        );
    }
}

#[test]
fn evaluation_keeps_the_order_of_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.pack"), folder.path().join("b.pack"));
    write(&a, 50);
    write(&b, 70);
    let settings = ReaderSettings {
        shuffle: false,
        files: vec![a.clone(), b],
        ..settings(a)
    };
    let rows: Vec<_> = read(settings.clone(), 0, 0)
        .iter()
        .flat_map(numbers)
        .collect();
    assert_eq!(rows, (0..50).chain(0..70).collect::<Vec<_>>());
    let dropped = ReaderSettings {
        drop_last: true,
        ..settings
    };
    assert_eq!(
        read(dropped, 0, 0)
            .iter()
            .map(|batch| batch.filled)
            .collect::<Vec<_>>(),
        [48, 48]
    );
}

#[test]
fn an_empty_file_has_no_batches() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.pack");
    write(&file, 0);
    assert!(read(settings(file), 0, 0).is_empty());
}

#[test]
fn a_reader_dropped_in_the_middle_ends_its_threads() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.pack");
    write(&file, ROWS);
    for taken in [0, 1, 5] {
        let mut reader = BatchReader::new(ReaderSettings {
            threads: 3,
            ..settings(file.clone())
        })
        .unwrap();
        reader.start(0, 0).unwrap();
        for _ in 0..taken {
            reader.next().unwrap().unwrap();
        }
        let source = Arc::downgrade(&reader.source);
        drop(reader);
        assert!(
            source.upgrade().is_none(),
            "no thread holds the files any more"
        );
    }
}

#[test]
fn encoded_batches_are_padded_with_zeros_and_empty_bags() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.pack");
    write(&file, 50);
    let all = columns();
    let schema = FeatureSchema {
        inputs: [0, 1].map(|i: usize| all[i].input(false)).to_vec(),
        dense: vec![DenseFeature {
            name: "number".into(),
            source: DenseSource::Column("number".into()),
            steps: Vec::new(),
            fill: 0.0,
        }],
        categorical: vec![CategoricalFeature {
            name: "user".into(),
            input: "user".into(),
            encoding: Encoding::Hash { rows: 100 },
            table: "user".into(),
            pooling: Pooling::Sum,
            max_length: None,
        }],
        tables: vec![TableSchema {
            name: "user".into(),
            rows: 100,
            dim: None,
        }],
        labels: names(&["click"]),
    };
    let encoder = Arc::new(Encoder::new(&schema, &Vocabularies::new()).unwrap());
    let inputs = Inputs::Encoded(encoder.clone());
    let batches = read(
        ReaderSettings {
            inputs,
            shuffle: false,
            ..settings(file)
        },
        0,
        0,
    );
    let last = batches.last().unwrap();
    assert_eq!((last.filled, last.encoded.rows), (2, 48));
    assert_eq!(last.encoded.dense[..2], [48.0, 49.0]);
    assert_eq!(last.encoded.dense[2..], [0.0; 46]);
    assert_eq!(last.encoded.ids.len(), 2);
    assert_eq!(last.encoded.offsets[2..], [2; 47]);
}

#[test]
fn counts_of_earlier_data_are_added_to_trailing_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.pack");
    write(&file, 60);
    // The earlier data: users 0, 1, 2 with 3, 2, 1 rows.
    let specs = vec![TrailingSpec {
        name: "number".into(),
        keys: names(&["user"]),
        label: None,
    }];
    let user = Column::new("user", ColumnKind::Key, SourceType::Integer, Role::Feature);
    let mut counter = TrailingCounter::new(&[user], None, &specs, None).unwrap();
    let mut earlier = Block::of_kinds([ColumnKind::Key, ColumnKind::Dense]);
    earlier.rows = 6;
    earlier.columns[0] = RawColumn::Key(vec![0, 0, 0, 1, 1, 2]);
    let counted = earlier.rows;
    counter.fill(&mut earlier, counted).unwrap();
    let history: Arc<TrailingHistory> = Arc::new(counter.finish());

    let rows = |frozen: bool| {
        let base = Some(TrailingBase {
            history: history.clone(),
            columns: specs.clone(),
            frozen,
        });
        let settings = ReaderSettings {
            base,
            shuffle: false,
            ..settings(file.clone())
        };
        let batches = read(settings, 0, 0);
        batches.iter().flat_map(numbers).collect::<Vec<_>>()
    };
    let earlier = |i: u64| *[3, 2, 1].get(i as usize % 37).unwrap_or(&0);
    let added: Vec<_> = (0..60).map(|i| i + earlier(i)).collect();
    assert_eq!(rows(false), added);
    let replaced: Vec<_> = (0..60).map(earlier).collect();
    assert_eq!(rows(true), replaced, "nothing of the data's own");
}
