//! Finds source files and opens them, compressed or not, counting and hashing what is read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use xxhash_rust::xxh3::Xxh3;

use super::error::ImportError;
use crate::data::SourceFile;

/// The files under `input` that match any of `patterns`, in the order of their paths.
///
/// # Errors
/// No file matches, or one matches plain and compressed.
pub(super) fn find(input: &Path, patterns: &[String]) -> Result<Vec<PathBuf>, ImportError> {
    let mut found = Vec::new();
    for pattern in patterns {
        expand(input, pattern, &mut found)?;
    }
    found.sort();
    found.dedup();
    if found.is_empty() {
        return Err(ImportError::NoFiles {
            input: input.to_owned(),
            patterns: patterns.to_vec(),
        });
    }
    let mut seen: HashMap<PathBuf, &PathBuf> = HashMap::new();
    for path in &found {
        let name = path.file_name().and_then(|name| name.to_str());
        let plain = name.map_or_else(|| path.clone(), |name| path.with_file_name(plain(name)));
        if let Some(first) = seen.insert(plain, path) {
            return Err(ImportError::SameFileTwice {
                first: first.clone(),
                second: path.clone(),
            });
        }
    }
    Ok(found)
}

fn expand(folder: &Path, pattern: &str, found: &mut Vec<PathBuf>) -> Result<(), ImportError> {
    let (name, rest) = match pattern.split_once('/') {
        Some((name, rest)) => (name, Some(rest)),
        None => (pattern, None),
    };
    let mut candidates = Vec::new();
    if name.contains('*') {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(ImportError::io("list", folder, error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| ImportError::io("list", folder, error))?;
            if entry.file_name().to_str().is_some_and(|file| match rest {
                Some(_) => matches_pattern(name, file),
                None => matches_file(name, file),
            }) {
                candidates.push(entry.path());
            }
        }
    } else {
        candidates.push(folder.join(name));
    }
    for path in candidates {
        match rest {
            Some(rest) if path.is_dir() => expand(&path, rest, found)?,
            None if path.is_file() => found.push(path),
            _ => {}
        }
    }
    Ok(())
}

/// A file's name without what says how it is compressed.
fn plain(name: &str) -> &str {
    let compressed = [".gz", ".zst"];
    let stripped = compressed.iter().find_map(|end| name.strip_suffix(end));
    stripped.unwrap_or(name)
}

/// Whether a pattern for files means `name`. A last `*` behind an extension stands for nothing,
/// `.gz` or `.zst`: `ratings.csv*` is not `ratings.csv.bak`, the same rows once more.
pub(super) fn matches_file(pattern: &str, name: &str) -> bool {
    let has_extension = |text: &str| match text.rsplit_once('.') {
        Some((_, end)) => !end.is_empty() && end.bytes().all(|byte| byte.is_ascii_alphabetic()),
        None => false,
    };
    match pattern.strip_suffix('*').filter(|text| has_extension(text)) {
        Some(whole) => matches_pattern(whole, name) || matches_pattern(whole, plain(name)),
        None => matches_pattern(pattern, name),
    }
}

/// Whether `name` matches `pattern`, in which `*` stands for any text.
fn matches_pattern(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len())
                .filter(|i| rest.is_char_boundary(*i))
                .any(|i| matches_pattern(tail, &rest[i..]))
        }),
    }
}

/// What is read of the files, for progress and provenance.
#[derive(Debug, Clone, Default)]
pub(super) struct Meter {
    /// Bytes read of all files, as they lie on disk.
    pub(super) bytes: Arc<AtomicU64>,
}

/// The bytes of one file as they are read.
struct Metered {
    file: File,
    meter: Meter,
    seen: Arc<Mutex<(u64, Xxh3)>>,
}

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read(buffer)?;
        self.meter.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Ok(mut seen) = self.seen.lock() {
            seen.0 += bytes as u64;
            seen.1.update(&buffer[..bytes]);
        }
        Ok(bytes)
    }
}

/// What identifies a file, known once it was read to its end.
#[derive(Clone)]
pub(super) struct Fingerprint {
    path: PathBuf,
    seen: Arc<Mutex<(u64, Xxh3)>>,
}

impl Fingerprint {
    /// The file's name, length and XXH3-64.
    pub(super) fn source_file(&self) -> SourceFile {
        let (bytes, xxh3) = self
            .seen
            .lock()
            .map_or((0, 0), |seen| (seen.0, seen.1.digest()));
        let name = self
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        SourceFile {
            name,
            bytes,
            xxh3: format!("{xxh3:016x}"),
        }
    }
}

/// A file's contents, decompressed.
pub(super) struct Contents {
    pub(super) reader: Box<dyn Read + Send>,
    pub(super) fingerprint: Fingerprint,
}

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTANDARD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The first byte of a skippable frame may end in any digit (RFC 8878, section 3.1.2).
const SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
const BUFFER_BYTES: usize = 1 << 17;

/// Whether a file begins with a frame of Zstandard, perhaps a skippable one (pzstd writes such first).
fn is_zstandard(head: &[u8]) -> bool {
    let skippable = |(&first, rest): (&u8, &[u8])| first & 0xf0 == 0x50 && rest == SKIPPABLE;
    head.starts_with(&ZSTANDARD) || head.split_first().is_some_and(skippable)
}

/// Opens a file; gzip (of any number of members) and Zstandard are recognised by their first bytes.
pub(super) fn open(path: &Path, meter: &Meter) -> Result<Contents, ImportError> {
    let fail = |error| ImportError::io("open", path, error);
    let file = File::open(path).map_err(fail)?;
    let seen = Arc::new(Mutex::new((0, Xxh3::new())));
    let fingerprint = Fingerprint {
        path: path.to_owned(),
        seen: seen.clone(),
    };
    let mut file = Metered {
        file,
        meter: meter.clone(),
        seen,
    };
    let head = first_bytes(&mut file, 4).map_err(fail)?;
    let (gzip, zstandard) = (head.starts_with(&GZIP), is_zstandard(&head));
    let file = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(head).chain(file));
    let mut reader: Box<dyn Read + Send> = if gzip {
        Box::new(flate2::bufread::MultiGzDecoder::new(file))
    } else if zstandard {
        Box::new(zstd::stream::read::Decoder::with_buffer(file).map_err(fail)?)
    } else {
        Box::new(file)
    };
    // Text may begin with a byte order mark, which is not part of the first field.
    let head = first_bytes(&mut reader, 3).map_err(|error| read_error(path, 0, error))?;
    let text = if head == b"\xef\xbb\xbf" {
        Vec::new()
    } else {
        head
    };
    Ok(Contents {
        reader: Box::new(Cursor::new(text).chain(reader)),
        fingerprint,
    })
}

/// A failed read: the system's refusal, or contents that end early or are not what they should be.
pub(super) fn read_error(path: &Path, line: u64, source: io::Error) -> ImportError {
    if source.raw_os_error().is_some() {
        ImportError::io("read", path, source)
    } else {
        ImportError::Damaged {
            path: path.to_owned(),
            line,
            source,
        }
    }
}

fn first_bytes(reader: &mut impl Read, count: u64) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader.by_ref().take(count).read_to_end(&mut head)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder
            .write_all(text)
            .and_then(|()| encoder.finish())
            .expect("memory does not fail")
    }

    fn read(bytes: &[u8]) -> io::Result<String> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("file");
        std::fs::write(&path, bytes)?;
        let meter = Meter::default();
        let mut contents = open(&path, &meter).map_err(io::Error::other)?;
        let mut text = String::new();
        contents.reader.read_to_string(&mut text)?;
        assert_eq!(meter.bytes.load(Ordering::Relaxed), bytes.len() as u64);
        let expected = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(bytes));
        assert_eq!(contents.fingerprint.source_file().xxh3, expected);
        Ok(text)
    }

    #[test]
    fn compression_is_recognised_by_content() {
        let zstandard = zstd::encode_all(&b"abc"[..], 1).expect("memory does not fail");
        let frames = [zstandard.clone(), zstandard].concat();
        let members = [gzip(b"abc"), gzip(b"abc")].concat();
        for (bytes, expected) in [
            (b"abc".to_vec(), "abc"),
            (Vec::new(), ""),
            (b"\xef\xbb\xbfabc".to_vec(), "abc"),
            (members, "abcabc"),
            (frames, "abcabc"),
        ] {
            assert_eq!(read(&bytes).expect("readable"), expected);
        }
    }

    #[test]
    fn a_gzip_file_cut_short_is_damaged() {
        let mut bytes = gzip(&b"some text ".repeat(1000));
        bytes.truncate(bytes.len() - 9);
        let error = read(&bytes).expect_err("the end is missing");
        assert!(matches!(
            read_error(Path::new("f"), 3, error),
            ImportError::Damaged { line: 3, .. }
        ));
    }

    #[test]
    fn patterns_find_files_in_folders_and_refuse_the_same_file_twice() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("data")).expect("a folder");
        for name in [
            "data/log_1.csv",
            "data/log_2.csv.gz",
            "data/other.csv",
            "log_0.csv",
        ] {
            std::fs::write(folder.path().join(name), "").expect("a file");
        }
        let patterns = ["data/log_*.csv*".to_owned(), "log_*.csv*".to_owned()];
        let found = find(folder.path(), &patterns).expect("files");
        let names: Vec<_> = found
            .iter()
            .filter_map(|p| p.file_name()?.to_str())
            .collect();
        assert_eq!(names, ["log_1.csv", "log_2.csv.gz", "log_0.csv"]);
        std::fs::write(folder.path().join("data/log_1.csv.gz"), "").expect("a file");
        assert!(matches!(
            find(folder.path(), &patterns),
            Err(ImportError::SameFileTwice { .. })
        ));
        assert!(matches!(
            find(folder.path(), &["x*".to_owned()]),
            Err(ImportError::NoFiles { .. })
        ));
    }

    #[test]
    fn a_star_behind_an_extension_stands_for_compression_only() {
        for (pattern, name, expected) in [
            ("ratings.csv*", "ratings.csv", true),
            ("ratings.csv*", "ratings.csv.gz", true),
            ("log_*.csv*", "log_1.csv.zst", true),
            ("ratings.csv*", "ratings.csv.bak", false),
            ("ratings.csv*", "ratings.csv.gz.part", false),
            ("ratings.csv*", "ratings.csv~", false),
            ("day_*", "day_3", true),
            ("day_*", "day_3.gz", true),
            ("part.*", "part.7", true),
        ] {
            assert_eq!(matches_file(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn the_same_file_twice_is_found_whatever_lies_between() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["day_1", "day_1-late", "day_1.zst"] {
            std::fs::write(folder.path().join(name), "").expect("a file");
        }
        let error = find(folder.path(), &["day_*".to_owned()]).expect_err("day_1 is there twice");
        let ImportError::SameFileTwice { first, second } = error else {
            panic!("{error}")
        };
        assert!(first.ends_with("day_1") && second.ends_with("day_1.zst"));
    }
}
