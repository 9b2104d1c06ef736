//! A packed dataset whose description, counts or rows were changed: it is refused, or all of it is read.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use streamrec::data::generator::{GeneratorSettings, generate};
use streamrec::data::{Block, Dataset, Split};
use xxhash_rust::xxh3::xxh3_64;

use super::edits::edited;

const FILES: [&str; 3] = ["dataset.json", "history.bin", "test.pack"];

static VALID: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("data");
    let settings = GeneratorSettings {
        impressions: 160,
        users: Some(10),
        items: Some(20),
        threads: 1,
        ..GeneratorSettings::default()
    };
    generate(&settings, &dir, |_, _| ()).expect("generated");
    (folder, dir)
});

/// The first byte picks a file and whether its checksum is made right, the others say what is changed.
pub fn check(data: &[u8]) {
    let Some((choice, edits)) = data.split_first() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let changed = FILES[*choice as usize % FILES.len()];
    for entry in fs::read_dir(&VALID.1).expect("a folder").flatten() {
        let name = entry.file_name().into_string().expect("a name");
        let mut bytes = fs::read(entry.path()).expect("a file");
        if name == changed {
            bytes = edited(&bytes, edits);
            if name == "history.bin" && *choice < 200 {
                seal(&mut bytes);
            }
        }
        fs::write(folder.path().join(name), bytes).expect("written");
    }
    let Ok(dataset) = Dataset::open(folder.path()) else {
        return;
    };
    drop(dataset.trailing_history());
    // Not only the one that the description speaks of.
    drop(streamrec::data::history::TrailingHistory::read(
        &folder.path().join("history.bin"),
    ));
    drop((dataset.version(), dataset.first_ms()));
    for split in [Split::Train, Split::Valid, Split::Test] {
        let Ok(pack) = dataset.pack(split) else {
            continue;
        };
        let mut block = Block::default();
        for number in 0..pack.blocks() {
            drop(pack.read_block(number, &mut block));
        }
    }
}

/// Makes the checksum at the end right.
fn seal(bytes: &mut [u8]) {
    if let Some(end) = bytes.len().checked_sub(8) {
        let checksum = xxh3_64(&bytes[..end]);
        bytes[end..].copy_from_slice(&checksum.to_le_bytes());
    }
}
