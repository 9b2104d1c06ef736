//! Whatever a packed file holds, reading it gives rows or one error: never a panic, never more memory
//! than the file justifies.
//!
//! Checksums would stop the fuzzer at the first byte it changes, so they are made right first: what
//! is tested is what a checksum cannot catch. Every other input is read as it is.

use std::ops::Range;

use streamrec::data::{Block, PackReader};
use xxhash_rust::xxh3::xxh3_64;

const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 24;

/// The file as it comes, or made right where a checksum would stop it.
pub fn check(data: &[u8]) {
    let mut bytes = data.to_vec();
    if bytes.pop().is_some_and(|choice| choice % 2 == 0) {
        seal(&mut bytes);
    }
    let Ok(file) = tempfile::NamedTempFile::new() else {
        return;
    };
    if std::fs::write(file.path(), &bytes).is_err() {
        return;
    }
    if let Ok(reader) = PackReader::open(file.path()) {
        let mut block = Block::default();
        for number in 0..reader.blocks() {
            if reader.read_block(number, &mut block).is_ok() {
                assert_eq!(block.rows, reader.rows_of_block(number));
            }
        }
    }
}

/// Makes magic, version, lengths and checksums right wherever the offsets lie in the file.
fn seal(bytes: &mut [u8]) {
    if bytes.len() < HEADER_BYTES {
        return;
    }
    bytes[..8].copy_from_slice(b"SRPK\r\n\x1a\n");
    put(bytes, 8, 1_u32.to_le_bytes());
    put(bytes, 48, (bytes.len() as u64).to_le_bytes());
    let directory_end = word(bytes, 32).and_then(|length| HEADER_BYTES.checked_add(length));
    let index = word(bytes, 40);
    if let Some(index) = index.filter(|&index| index < bytes.len()) {
        for entry in (index..bytes.len().saturating_sub(ENTRY_BYTES)).step_by(ENTRY_BYTES) {
            let (start, length) = (word(bytes, entry), word(bytes, entry + 8));
            let end = start
                .zip(length)
                .and_then(|(start, length)| start.checked_add(length));
            seal_range(
                bytes,
                start.unwrap_or(0)..end.unwrap_or(usize::MAX),
                entry + 16,
            );
        }
        let end = bytes.len() - 8;
        seal_range(bytes, index..end, end);
    }
    if let Some(end) = directory_end.and_then(|end| end.checked_sub(8)) {
        seal_range(bytes, HEADER_BYTES..end, end);
    }
    seal_range(bytes, 0..56, 56);
}

/// Writes the checksum of `range`, if there is such a range, at `at`.
fn seal_range(bytes: &mut [u8], range: Range<usize>, at: usize) {
    if let Some(checksum) = bytes.get(range).map(xxh3_64) {
        put(bytes, at, checksum.to_le_bytes());
    }
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *place = value;
    }
}

/// A length or an offset of the file.
fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
    usize::try_from(word).ok()
}
