//! What a reader refuses: columns by their role, values out of bounds, damaged files.

use super::*;

#[test]
fn a_damaged_block_is_an_error_of_next_after_the_batches_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.pack");
    write(&file, ROWS);
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    for threads in [1, 3] {
        let settings = ReaderSettings {
            shuffle: false,
            threads,
            ..settings(file.clone())
        };
        let mut reader = BatchReader::new(settings).unwrap();
        reader.start(0, 0).unwrap();
        let mut steps = 0;
        let error = loop {
            match reader.next() {
                Ok(batch) => assert_eq!(batch.unwrap().position.step, steps),
                Err(error) => break error,
            }
            steps += 1;
        };
        assert!((5..15).contains(&steps), "{steps}");
        assert!(
            matches!(&error, Error::Corrupt { part, .. } if part.starts_with("block")),
            "{error}"
        );
        assert!(reader.next().unwrap().is_none(), "nothing follows an error");
    }
}

#[test]
fn columns_are_refused_where_their_role_forbids() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.pack");
    write(&file, 10);
    let sound = settings(file);
    let cases = [
        (
            ReaderSettings {
                inputs: Inputs::Raw(names(&["watched"])),
                ..sound.clone()
            },
            "not known when",
        ),
        (
            ReaderSettings {
                inputs: Inputs::Raw(names(&["click"])),
                ..sound.clone()
            },
            "not known when",
        ),
        (
            ReaderSettings {
                inputs: Inputs::Raw(names(&["nobody"])),
                ..sound.clone()
            },
            "there are user",
        ),
        (
            ReaderSettings {
                labels: names(&["number"]),
                ..sound.clone()
            },
            "click, complete",
        ),
        (
            ReaderSettings {
                weight: Some("number".into()),
                ..sound.clone()
            },
            "expected a weight",
        ),
        (
            ReaderSettings {
                group: Some("number".into()),
                ..sound.clone()
            },
            "expected a key column",
        ),
        (
            ReaderSettings {
                global_batch: 0,
                ..sound.clone()
            },
            "at least 1",
        ),
        (
            ReaderSettings {
                dp_index: 1,
                ..sound.clone()
            },
            "less than dp_size",
        ),
        (
            ReaderSettings {
                dp_size: 49,
                ..sound.clone()
            },
            "49 ranks",
        ),
    ];
    for (settings, expected) in cases {
        let message = BatchReader::new(settings).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    let mut reader = BatchReader::new(sound).unwrap();
    assert!(reader.next().unwrap_err().to_string().contains("start()"));
}

#[test]
fn labels_and_weights_out_of_bounds_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.pack");
    write(&file, 10);
    let mut block = Block::default();
    PackReader::open(&file)
        .unwrap()
        .read_block(0, &mut block)
        .unwrap();
    for (column, value, expected) in [
        (7, f32::NAN, "labels of 0 and 1"),
        (4, -1.0, "weights of 0 or more"),
    ] {
        let mut changed = block.clone();
        let RawColumn::Dense(values) = &mut changed.columns[column] else {
            panic!()
        };
        values[3] = value;
        let path = folder.path().join("b.pack");
        let mut writer = PackWriter::create(&path, &columns(), BLOCK_ROWS).unwrap();
        writer.push_block(&changed).unwrap();
        writer.finish().unwrap();
        let mut reader = BatchReader::new(settings(path)).unwrap();
        reader.start(0, 0).unwrap();
        let message = reader.next().unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}
