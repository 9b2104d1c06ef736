//! Compaction: every closed segment becomes a file for each hour, once.
//!
//! 1. The files of a segment have names of its own, so a second attempt writes over the first.
//! 2. Its receipt is written after them. A segment with a receipt is never read again.
//!
//! Whatever ends the program between two of these steps, no row is lost and none is there twice.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use streamrec_serving::prediction_log::{SegmentEnd, SegmentName, SegmentReader, SegmentState};

use super::part::Part;
use crate::monitoring::store::{names, replace};
use crate::monitoring::{Hour, MonitoringError, Store, Table};

const RECEIPT_VERSION: u32 = 1;

/// What a compaction found and did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CompactReport {
    /// Segments that are in the tables now and were not before.
    pub segments: u64,
    /// Segments that were there already.
    pub segments_known: u64,
    /// Segments that a server still writes.
    pub segments_open: u64,
    /// Requests of the new segments.
    pub records: u64,
    /// Rows of the new segments.
    pub rows: u64,
    /// Whole frames that are not understood: of a later version.
    pub unreadable: u64,
    /// Segments that do not end in a whole frame.
    pub torn: Vec<TornSegment>,
    /// Segments that were removed.
    pub removed: u64,
}

/// A segment whose end could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TornSegment {
    /// Its name.
    pub segment: String,
    /// Where the first bytes stand that are no frame.
    pub at: u64,
    /// How many could not be read.
    pub bytes: u64,
    /// What is wrong.
    pub problem: String,
    /// Whether its writer had closed it: then it was damaged later, or by the disk.
    pub closed: bool,
}

/// `compacted/SEGMENT.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Receipt {
    version: u32,
    records: u64,
    rows: u64,
    files: Vec<String>,
    unreadable: u64,
    torn_bytes: u64,
}

impl Receipt {
    fn read(path: &Path) -> Result<Self, MonitoringError> {
        let text = fs::read(path).map_err(MonitoringError::file("read", path))?;
        serde_json::from_slice(&text)
            .map_err(|error| MonitoringError::table(path, error.to_string()))
    }
}

/// Puts the closed segments of the folder `log` into the tables of `store`; with `remove`, removes those that are
/// there and are whole.
///
/// # Errors
/// When another command writes the tables, or the file system refuses. What was done before stays done.
pub fn compact(log: &Path, store: &Store, remove: bool) -> Result<CompactReport, MonitoringError> {
    let _lock = store.lock()?;
    let mut report = CompactReport::default();
    for (name, state) in segments(log)? {
        if store.receipt(&name.to_string()).exists() {
            report.segments_known += 1;
        } else {
            match Held::take(log, &name, state)? {
                Some(held) => take(&held, &name, store, &mut report)?,
                None => {
                    report.segments_open += 1;
                    continue;
                }
            }
        }
        if remove && !is_damaged(store, &name, state)? {
            report.removed += u64::from(removed(log, &name)?);
        }
    }
    Ok(report)
}

/// The segments of a folder, oldest first.
fn segments(log: &Path) -> Result<Vec<(SegmentName, SegmentState)>, MonitoringError> {
    let failed = |error| MonitoringError::file("read", log)(error);
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(log).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if let Some((name, state)) = SegmentName::parse(&name) {
            found.insert(name, state);
        }
    }
    Ok(found.into_iter().collect())
}

/// A segment that does not grow any more.
struct Held {
    path: PathBuf,
    state: SegmentState,
    /// Keeps the lock of a segment whose writer died.
    _file: File,
}

impl Held {
    /// `None` where its writer lives.
    fn take(
        log: &Path,
        name: &SegmentName,
        state: SegmentState,
    ) -> Result<Option<Self>, MonitoringError> {
        let path = log.join(name.file_name(state));
        let file = match File::open(&path) {
            // Its writer closed it since the folder was read.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && state == SegmentState::Open =>
            {
                return Self::take(log, name, SegmentState::Closed);
            }
            opened => opened.map_err(MonitoringError::file("read", &path))?,
        };
        if state == SegmentState::Open {
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => {
                    return Err(MonitoringError::file("lock", &path)(error));
                }
            }
            // It may have been closed between the opening and the locking; then it has its last name.
            if !path.exists() {
                return Self::take(log, name, SegmentState::Closed);
            }
        }
        Ok(Some(Self {
            path,
            state,
            _file: file,
        }))
    }
}

fn take(
    held: &Held,
    name: &SegmentName,
    store: &Store,
    report: &mut CompactReport,
) -> Result<(), MonitoringError> {
    let failed = |error| MonitoringError::file("read", &held.path)(error);
    let mut reader = SegmentReader::open(&held.path).map_err(failed)?;
    let mut parts: BTreeMap<(Hour, usize), Part> = BTreeMap::new();
    let mut records = 0;
    while let Some((model, record)) = reader.next_record().map_err(failed)? {
        let hour = Hour::of(record.time_ms);
        let part = match parts.entry((hour, model)) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let folder = store.folder(Table::Predictions, hour);
                let path = folder.join(format!("{name}-{model}.parquet"));
                entry.insert(Part::create(path, &reader.models()[model])?)
            }
        };
        part.add(record)?;
        records += 1;
    }
    let mut receipt = Receipt {
        version: RECEIPT_VERSION,
        records,
        rows: 0,
        files: Vec::new(),
        unreadable: reader.unreadable(),
        torn_bytes: 0,
    };
    for part in parts.into_values() {
        let (path, rows) = part.finish()?;
        let path = path.strip_prefix(store.root()).unwrap_or(&path);
        receipt.files.push(path.to_string_lossy().into_owned());
        receipt.rows += rows;
    }
    if let Some(SegmentEnd::Torn { at, bytes, problem }) = reader.end() {
        receipt.torn_bytes = *bytes;
        report.torn.push(TornSegment {
            segment: name.to_string(),
            at: *at,
            bytes: *bytes,
            problem: problem.clone(),
            closed: held.state == SegmentState::Closed,
        });
    }
    report.segments += 1;
    report.records += receipt.records;
    report.rows += receipt.rows;
    report.unreadable += receipt.unreadable;
    let path = store.receipt(&name.to_string());
    let json = serde_json::to_vec_pretty(&receipt)
        .map_err(|error| MonitoringError::table(&path, error.to_string()))?;
    replace(&path, &json)
}

/// Whether a part of a segment that its writer had closed could not be read: then a person should look at it.
fn is_damaged(
    store: &Store,
    name: &SegmentName,
    state: SegmentState,
) -> Result<bool, MonitoringError> {
    let path = store.receipt(&name.to_string());
    let receipt = Receipt::read(&path)?;
    Ok(state == SegmentState::Closed && receipt.torn_bytes > 0)
}

/// What is known of a segment that is in the tables.
pub(in crate::monitoring) struct TakenSegment {
    pub(in crate::monitoring) path: PathBuf,
    /// When its writer began it, milliseconds since the epoch.
    pub(in crate::monitoring) begun_ms: i64,
    /// Its files in the tables, as they were named.
    pub(in crate::monitoring) files: Vec<PathBuf>,
}

/// The segments that were taken, oldest first.
pub(in crate::monitoring) fn receipts(store: &Store) -> Result<Vec<TakenSegment>, MonitoringError> {
    let folder = store.receipts();
    let mut found = names(&folder)?;
    found.sort_unstable();
    let mut taken = Vec::new();
    for name in found {
        let path = folder.join(&name);
        let segment = Path::new(&name).with_extension(SegmentState::Closed.extension());
        let Some((segment, _)) = SegmentName::parse(segment.as_os_str()) else {
            continue;
        };
        let receipt = Receipt::read(&path)?;
        let files = receipt.files.iter().map(|file| store.root().join(file));
        taken.push(TakenSegment {
            begun_ms: segment.created_ms(),
            files: files.collect(),
            path,
        });
    }
    Ok(taken)
}

fn removed(log: &Path, name: &SegmentName) -> Result<bool, MonitoringError> {
    for state in [SegmentState::Closed, SegmentState::Open] {
        let path = log.join(name.file_name(state));
        match fs::remove_file(&path) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(MonitoringError::file("remove", &path)(error)),
        }
    }
    Ok(false)
}
