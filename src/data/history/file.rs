//! The bytes of `history.bin`, specified in `docs/formats/history.md`.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::{Group, TrailingHistory};
use crate::data::{Error, Result};

const MAGIC: [u8; 8] = *b"SRHISTRY";
const VERSION: u32 = 1;
/// Magic, version, length of the description.
const HEADER_BYTES: u64 = 16;
const CHECKSUM_BYTES: u64 = 8;
/// Far above any real description.
const DESCRIPTION_BYTES_MAX: u64 = 16 << 20;
/// Values written or read at a time.
const CHUNK: usize = 4096;

/// What the tables that follow hold.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_ms: Option<i64>,
    groups: Vec<GroupDescription>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupDescription {
    keys: Vec<String>,
    labels: Vec<String>,
    entries: u32,
}

/// The identity of a history with this checksum.
fn identity(checksum: u64) -> String {
    format!("{checksum:016x}")
}

/// Hashes what passes through.
struct Hashed<T> {
    inner: T,
    hash: Xxh3,
}

impl<W: Write> Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hash.update(bytes);
        self.inner.write_all(bytes)
    }

    fn write_words(&mut self, words: impl Iterator<Item = u64>) -> std::io::Result<()> {
        let mut bytes = Vec::with_capacity(8 * CHUNK);
        for word in words {
            bytes.extend_from_slice(&word.to_le_bytes());
            if bytes.len() == 8 * CHUNK {
                self.write(&bytes)?;
                bytes.clear();
            }
        }
        self.write(&bytes)
    }
}

impl<R: Read> Hashed<R> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<()> {
        self.inner.read_exact(bytes)?;
        self.hash.update(bytes);
        Ok(())
    }

    fn read_words(&mut self, count: usize, mut take: impl FnMut(u64)) -> std::io::Result<()> {
        let mut bytes = [0; 8 * CHUNK];
        let mut left = count;
        while left > 0 {
            let now = left.min(CHUNK);
            self.read(&mut bytes[..8 * now])?;
            for word in bytes[..8 * now].as_chunks().0 {
                take(u64::from_le_bytes(*word));
            }
            left -= now;
        }
        Ok(())
    }
}

pub(super) fn write(history: &TrailingHistory, path: &Path) -> Result<String> {
    let description = Description {
        last_ms: history.last_ms,
        groups: history
            .groups
            .iter()
            .map(|group| GroupDescription {
                keys: group.keys.clone(),
                labels: group.labels.clone(),
                // Places are numbered by u32.
                entries: group.places.len() as u32,
            })
            .collect(),
    };
    let description = serde_json::to_vec(&description).map_err(|source| Error::Json {
        path: path.to_owned(),
        source,
    })?;
    let fail = |source| Error::io("write", path, source);
    let file = File::create(path).map_err(fail)?;
    let mut out = Hashed {
        inner: BufWriter::new(file),
        hash: Xxh3::new(),
    };
    let write = |out: &mut Hashed<BufWriter<File>>| {
        out.write(&MAGIC)?;
        out.write(&VERSION.to_le_bytes())?;
        out.write(&(description.len() as u32).to_le_bytes())?;
        out.write(&description)?;
        history
            .groups
            .iter()
            .try_for_each(|group| write_group(group, out))?;
        let checksum = out.hash.digest();
        out.inner.write_all(&checksum.to_le_bytes())?;
        out.inner.flush()?;
        out.inner.get_ref().sync_all()?;
        Ok(identity(checksum))
    };
    write(&mut out).map_err(fail)
}

fn write_group(group: &Group, out: &mut Hashed<BufWriter<File>>) -> std::io::Result<()> {
    let mut entries: Vec<_> = group
        .places
        .iter()
        .map(|(key, place)| (*key, *place as usize))
        .collect();
    entries.sort_unstable();
    out.write_words(entries.iter().map(|(key, _)| *key))?;
    for value in 0..group.width() {
        let values = entries
            .iter()
            .map(|(_, place)| group.settled[place * group.width() + value].to_bits());
        out.write_words(values)?;
    }
    Ok(())
}

pub(super) fn read(path: &Path) -> Result<(TrailingHistory, String)> {
    let fail = |source| Error::io("read", path, source);
    let file = File::open(path).map_err(|source| Error::io("open", path, source))?;
    let actual = file.metadata().map_err(fail)?.len();
    let mut input = Hashed {
        inner: BufReader::new(file),
        hash: Xxh3::new(),
    };
    let corrupt = |part: &str, problem: String| Error::corrupt(path, part, problem);
    if actual < HEADER_BYTES + CHECKSUM_BYTES {
        return Err(corrupt(
            "header",
            format!("expected a history, the file has {actual} bytes"),
        ));
    }
    let mut header = [0; HEADER_BYTES as usize];
    input.read(&mut header).map_err(fail)?;
    let length = description_bytes(&header, actual, path)?;
    let mut text = vec![0; length as usize];
    input.read(&mut text).map_err(fail)?;
    let description: Description =
        serde_json::from_slice(&text).map_err(|error| corrupt("description", error.to_string()))?;
    let words: u64 = description
        .groups
        .iter()
        .map(|g| u64::from(g.entries) * (2 + g.labels.len() as u64))
        .sum();
    let expected = HEADER_BYTES + length + 8 * words + CHECKSUM_BYTES;
    if expected != actual {
        return Err(corrupt(
            "length",
            format!("expected {expected} bytes, the file has {actual}"),
        ));
    }
    let groups = description
        .groups
        .into_iter()
        .map(|group| {
            read_group(group, &mut input)
                .map_err(fail)?
                .map_err(|problem| corrupt("keys", problem))
        })
        .collect::<Result<_>>()?;
    let computed = input.hash.digest();
    let mut checksum = [0; CHECKSUM_BYTES as usize];
    input.inner.read_exact(&mut checksum).map_err(fail)?;
    if u64::from_le_bytes(checksum) != computed {
        return Err(corrupt("checksum", "it does not match the contents".into()));
    }
    let history = TrailingHistory {
        groups,
        last_ms: description.last_ms,
    };
    Ok((history, identity(computed)))
}

/// The length of the description, of a file of `actual` bytes.
fn description_bytes(header: &[u8; 16], actual: u64, path: &Path) -> Result<u64> {
    let corrupt = |problem: String| Err(Error::corrupt(path, "header", problem));
    if header[..8] != MAGIC {
        return corrupt("the file does not begin like a history".into());
    }
    let word = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    if word(8) != VERSION {
        return Err(Error::Version {
            path: path.to_owned(),
            expected: VERSION,
            got: word(8),
        });
    }
    let length = u64::from(word(12));
    if length > DESCRIPTION_BYTES_MAX.min(actual - HEADER_BYTES - CHECKSUM_BYTES) {
        return corrupt(format!(
            "a description of {length} bytes does not fit the file"
        ));
    }
    Ok(length)
}

/// The file was long enough for every entry, so the lengths here are believed.
fn read_group(
    description: GroupDescription,
    input: &mut Hashed<BufReader<File>>,
) -> std::io::Result<std::result::Result<Group, String>> {
    let entries = description.entries as usize;
    let mut group = Group {
        keys: description.keys,
        labels: description.labels,
        ..Group::default()
    };
    let width = group.width();
    group.places.reserve(entries);
    group.settled = vec![0.0; entries * width];
    let (mut next, places) = (0, &mut group.places);
    input.read_words(entries, |key| {
        places.insert(key, next);
        next += 1;
    })?;
    if group.places.len() != entries {
        return Ok(Err(format!(
            "expected {entries} distinct keys, got {}",
            group.places.len()
        )));
    }
    for value in 0..width {
        let mut place = value;
        let settled = &mut group.settled;
        input.read_words(entries, |bits| {
            settled[place] = f64::from_bits(bits);
            place += width;
        })?;
    }
    Ok(Ok(group))
}
