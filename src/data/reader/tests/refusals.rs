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
fn a_label_or_weight_out_of_bounds_is_told_with_its_file_and_row() {
    let folder = tempfile::tempdir().unwrap();
    let [sound, bad] = ["a.pack", "b.pack"].map(|name| folder.path().join(name));
    write(&sound, ROWS);
    let rows = 3 * BLOCK_ROWS as u64;
    write(&bad, rows);
    let mut block = Block::default();
    let mut changed = Block::new(&columns());
    let pack = PackReader::open(&bad).unwrap();
    let all: Vec<_> = (0..columns().len()).collect();
    for i in 0..pack.blocks() {
        pack.append_block(i, &all, &mut changed).unwrap();
    }
    // In the second block, so that neither the file nor the place in a block is the first.
    let row = BLOCK_ROWS + 3;
    for (column, value, name, expected, seen_by) in [
        // Once shuffled and once not, by the one rank that has the row, or by both.
        (7, f32::NAN, "click", "labels of 0 and 1", 2),
        (4, -1.0, "weight", "weights of 0 or more", 4),
    ] {
        let mut seen = 0;
        block.clone_from(&changed);
        let RawColumn::Dense(values) = &mut block.columns[column] else {
            panic!()
        };
        values[row] = value;
        let mut writer = PackWriter::create(&bad, &columns(), BLOCK_ROWS).unwrap();
        writer.push_block(&block).unwrap();
        writer.finish().unwrap();
        for (shuffle, dp_index) in [(true, 0), (true, 1), (false, 0), (false, 1)] {
            let mut reader = BatchReader::new(ReaderSettings {
                files: vec![sound.clone(), bad.clone()],
                shuffle,
                dp_index,
                dp_size: 2,
                ..settings(bad.clone())
            })
            .unwrap();
            reader.start(0, 0).unwrap();
            let outcome = loop {
                match reader.next() {
                    Ok(Some(_)) => {}
                    other => break other,
                }
            };
            let Err(error) = outcome else {
                continue;
            };
            seen += 1;
            let message = error.to_string();
            let place = format!("in row {row} (from 0)");
            for part in ["b.pack", name, expected, &place] {
                assert!(message.contains(part), "expected {part:?} in: {message}");
            }
        }
        assert_eq!(seen, seen_by, "{name}");
    }
}
