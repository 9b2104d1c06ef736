use std::path::Path;

use proptest::prelude::*;
use streamrec_artifact::{ColumnKind, RawColumn, SourceType};

use super::format::{Fields, HEADER_BYTES, Header};
use super::*;
use crate::data::{Column, Error, Role};

/// One column of each kind, with all that a directory can hold.
fn columns() -> Vec<Column> {
    vec![
        Column::new("price", ColumnKind::Dense, SourceType::Float, Role::Feature)
            .with_unit("€")
            .with_range(0.0, 1e9),
        Column::new("user", ColumnKind::Key, SourceType::Integer, Role::Feature),
        Column::new(
            "recent",
            ColumnKind::KeyList,
            SourceType::Text,
            Role::Feature,
        ),
        Column::new("when", ColumnKind::Time, SourceType::Timestamp, Role::Time),
        Column::new("click", ColumnKind::Dense, SourceType::Boolean, Role::Label),
    ]
}

type Row = (f32, u64, Vec<u64>, i64, bool);

fn push(block: &mut Block, (price, user, recent, when, click): &Row) {
    let row = [
        RawValue::Dense(*price),
        RawValue::Key(*user),
        RawValue::KeyList(recent),
        RawValue::Time(*when),
        RawValue::Dense(f32::from(u8::from(*click))),
    ];
    block.push(&row).unwrap();
}

fn block_of(rows: &[Row]) -> Block {
    let mut block = Block::new(&columns());
    rows.iter().for_each(|row| push(&mut block, row));
    block
}

fn row_number(i: u64) -> Row {
    let recent = (0..i % 4).map(|k| i * 10 + k).collect();
    (
        if i.is_multiple_of(5) {
            f32::NAN
        } else {
            i as f32
        },
        i,
        recent,
        i as i64 * 1000,
        i.is_multiple_of(3),
    )
}

/// Writes `rows` numbered rows in blocks of `block_rows`.
fn write(path: &Path, rows: u64, block_rows: usize) -> PackSummary {
    let rows: Vec<_> = (0..rows).map(row_number).collect();
    let mut writer = PackWriter::create(path, &columns(), block_rows).unwrap();
    writer.push_block(&block_of(&rows)).unwrap();
    writer.finish().unwrap()
}

/// Everything that is in a file, as one block.
fn read_all(path: &Path) -> Result<Block, Error> {
    let reader = PackReader::open(path)?;
    let wanted: Vec<_> = (0..reader.columns().len()).collect();
    let mut all = Block::new(reader.columns());
    for block in 0..reader.blocks() {
        reader.append_block(block, &wanted, &mut all)?;
    }
    Ok(all)
}

fn any_row() -> impl Strategy<Value = Row> {
    (
        any::<u32>().prop_map(f32::from_bits),
        any::<u64>(),
        prop::collection::vec(any::<u64>(), 0..6),
        any::<i64>(),
        any::<bool>(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(
        rows in prop::collection::vec(any_row(), 0..60),
        block_rows in 1usize..20,
        pushed_singly in 0usize..60,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pack");
        let mut writer = PackWriter::create(&path, &columns(), block_rows).unwrap();
        let (singly, together) = rows.split_at(pushed_singly.min(rows.len()));
        for (price, user, recent, when, click) in singly {
            writer.push(&[
                RawValue::Dense(*price),
                RawValue::Key(*user),
                RawValue::KeyList(recent),
                RawValue::Time(*when),
                RawValue::Dense(f32::from(u8::from(*click))),
            ]).unwrap();
        }
        writer.push_block(&block_of(together)).unwrap();
        let summary = writer.finish().unwrap();

        let reader = PackReader::open(&path).unwrap();
        prop_assert_eq!(reader.columns(), &columns()[..]);
        prop_assert_eq!(reader.rows(), rows.len() as u64);
        prop_assert_eq!(reader.blocks(), rows.len().div_ceil(block_rows));
        prop_assert_eq!(reader.checksum(), summary.checksum);
        prop_assert_eq!(read_all(&path).unwrap(), block_of(&rows));
    }

    #[test]
    fn one_changed_bit_is_one_clear_error(position in any::<prop::sample::Index>(), bit in 0u8..8) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pack");
        write(&path, 100, 16);
        let mut bytes = std::fs::read(&path).unwrap();
        let position = position.index(bytes.len());
        bytes[position] ^= 1 << bit;
        std::fs::write(&path, &bytes).unwrap();
        let message = read_all(&path).unwrap_err().to_string();
        prop_assert!(message.contains("a.pack") && message.contains("again"), "{}", message);
    }

    #[test]
    fn a_file_cut_short_is_one_clear_error(length in any::<prop::sample::Index>()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pack");
        write(&path, 100, 16);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(length.index(bytes.len()));
        std::fs::write(&path, &bytes).unwrap();
        let message = PackReader::open(&path).unwrap_err().to_string();
        prop_assert!(message.contains("a.pack, header"), "{}", message);
    }

    #[test]
    fn arbitrary_bytes_are_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pack");
        std::fs::write(&path, &bytes).unwrap();
        prop_assert!(read_all(&path).is_err());
    }
}

#[test]
fn a_damaged_block_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pack");
    write(&path, 100, 16);
    let bytes = std::fs::read(&path).unwrap();
    let header: [u8; HEADER_BYTES] = bytes[..HEADER_BYTES].try_into().unwrap();
    let index_offset = Header::from_bytes(&header, bytes.len() as u64)
        .unwrap()
        .index_offset;
    let entry = &bytes[index_offset as usize + 2 * super::format::INDEX_ENTRY_BYTES..];
    let block_2 = Fields(entry).u64().unwrap() as usize;

    let mut damaged = bytes.clone();
    damaged[block_2 + 3] ^= 0x10;
    std::fs::write(&path, &damaged).unwrap();
    let reader = PackReader::open(&path).unwrap();
    let mut block = Block::default();
    reader.read_block(1, &mut block).unwrap();
    assert_eq!(
        block,
        block_of(&(16..32).map(row_number).collect::<Vec<_>>())
    );
    let message = reader.read_block(2, &mut block).unwrap_err().to_string();
    assert!(
        message.contains("a.pack, block 2: its checksum is wrong"),
        "{message}"
    );
}

/// Lengths that pass their checksum and still must not be believed.
#[test]
fn lengths_beyond_the_file_are_refused_before_anything_is_allocated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pack");
    write(&path, 100, 16);
    let bytes = std::fs::read(&path).unwrap();
    let start: [u8; HEADER_BYTES] = bytes[..HEADER_BYTES].try_into().unwrap();
    let sound = Header::from_bytes(&start, bytes.len() as u64).unwrap();
    let lies = [
        Header {
            rows: u64::MAX,
            ..sound
        },
        Header {
            rows: 16 * u64::from(u32::MAX),
            blocks: u32::MAX,
            ..sound
        },
        Header {
            columns: u32::MAX,
            ..sound
        },
        Header {
            columns: sound.columns + 1,
            ..sound
        },
        Header {
            directory_bytes: 1 << 40,
            ..sound
        },
        Header {
            directory_bytes: sound.directory_bytes + 8,
            ..sound
        },
        Header {
            index_offset: u64::MAX,
            ..sound
        },
        Header {
            index_offset: 0,
            ..sound
        },
        Header {
            block_rows: 0,
            ..sound
        },
        Header {
            block_rows: 17,
            ..sound
        },
        Header {
            file_bytes: u64::MAX,
            ..sound
        },
        Header {
            blocks: 0,
            rows: 0,
            ..sound
        },
    ];
    for lie in lies {
        let mut changed = bytes.clone();
        changed[..HEADER_BYTES].copy_from_slice(&lie.to_bytes());
        std::fs::write(&path, &changed).unwrap();
        let error = read_all(&path).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{lie:?}: {error}");
    }
}

#[test]
fn another_version_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pack");
    write(&path, 10, 4);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 9;
    std::fs::write(&path, &bytes).unwrap();
    let error = PackReader::open(&path).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Version {
                expected: 1,
                got: 9,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn an_unfinished_file_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pack");
    let mut writer = PackWriter::create(&path, &columns(), 4).unwrap();
    writer
        .push_block(&block_of(&(0..10).map(row_number).collect::<Vec<_>>()))
        .unwrap();
    drop(writer);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn rows_of_other_columns_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pack");
    let mut writer = PackWriter::create(&path, &columns(), 4).unwrap();
    let message = writer
        .push(&[RawValue::Dense(1.0)])
        .unwrap_err()
        .to_string();
    assert!(message.contains("expected 5 values, got 1"), "{message}");
    let mut block = block_of(&[row_number(1)]);
    block.columns[1] = RawColumn::Time(vec![1]);
    let message = writer.push_block(&block).unwrap_err().to_string();
    assert!(
        message.contains("`user`: expected key, got time"),
        "{message}"
    );
    let mut block = block_of(&[row_number(1), row_number(2)]);
    block.columns[0] = RawColumn::Dense(vec![1.0]);
    let message = writer.push_block(&block).unwrap_err().to_string();
    assert!(
        message.contains("`price`: expected 2 rows, got 1"),
        "{message}"
    );
    assert_eq!(writer.rows(), 0, "refused rows are not written");
}

#[test]
fn wanted_columns_come_in_the_wanted_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pack");
    write(&path, 10, 4);
    let reader = PackReader::open(&path).unwrap();
    let wanted = [
        reader.column("recent").unwrap(),
        reader.column("price").unwrap(),
    ];
    let mut some = Block::of_kinds([ColumnKind::KeyList, ColumnKind::Dense]);
    reader.append_block(2, &wanted, &mut some).unwrap();
    let all = block_of(&[row_number(8), row_number(9)]);
    assert_eq!(
        some.columns,
        [all.columns[2].clone(), all.columns[0].clone()]
    );
    let message = reader.column("prize").unwrap_err().to_string();
    assert!(message.contains("there are price, user"), "{message}");
}

#[test]
fn a_file_that_was_cut_is_the_file_of_the_rows_before() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let rows: Vec<_> = (0..103).map(row_number).collect();
    for cut in [0, 1, 9, 10, 11, 20, 95, 100, 101, 102, 103, 200] {
        let kept = cut.min(103);
        let (mut head, mut tail) = (
            PackWriter::create(place("head"), &columns(), 10).unwrap(),
            PackWriter::create(place("tail"), &columns(), 10).unwrap(),
        );
        head.push_block(&block_of(&rows)).unwrap();
        head.split_off(cut as u64, |block| tail.push_block(block))
            .unwrap();
        // Rows may follow a cut.
        head.push_block(&block_of(&rows[..3])).unwrap();
        head.finish().unwrap();
        tail.finish().unwrap();
        let expected = [&rows[..kept], &rows[..3]].concat();
        let mut writer = PackWriter::create(place("expected"), &columns(), 10).unwrap();
        writer.push_block(&block_of(&expected)).unwrap();
        writer.finish().unwrap();
        let bytes = |name: &str| std::fs::read(place(name)).unwrap();
        assert!(bytes("head") == bytes("expected"), "cut at {cut}");
        assert_eq!(read_all(&place("tail")).unwrap(), block_of(&rows[kept..]));
    }
}
