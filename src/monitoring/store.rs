//! The monitoring folder: what stands where.
//!
//! ```text
//! DIR/
//!     predictions/hour=2027-03-14T09/SEGMENT-0.parquet    what was answered
//!     labelled/hour=2027-03-14T09/LABELS-0.parquet        what became of it, by the hour of the answer
//!     unjoined/LABELS.parquet                             labels that found no prediction
//!     compacted/SEGMENT.json                              a receipt for each segment that is in predictions/
//! ```

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::rules::Pass;
use super::{Hour, MonitoringError};

/// Rows of a row group at most, whose pages are in memory until it ends.
const GROUP_ROWS: usize = 1 << 17;

/// A table that is parted by hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// One row for each row that was scored.
    Predictions,
    /// The same with a label, for each label.
    Labelled,
}

impl Table {
    fn folder(self) -> &'static str {
        match self {
            Self::Predictions => "predictions",
            Self::Labelled => "labelled",
        }
    }
}

/// A monitoring folder.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// The right to write a [`Store`]. It ends with the process, however that ends.
#[derive(Debug)]
pub struct StoreLock {
    _file: File,
}

impl Store {
    /// The folder `root`, which need not be there yet.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// A folder that must be there: a slip in its name would be a model that nobody watches.
    ///
    /// # Errors
    /// It is no folder.
    pub fn open(root: &Path) -> Result<Self, MonitoringError> {
        if root.is_dir() {
            return Ok(Self::new(root));
        }
        let root = root.display();
        Err(MonitoringError::Settings {
            problem: format!(
                "{root} is no monitoring folder: there is none of this name; `streamrec monitor compact --out {root}` makes one"
            ),
        })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Waits for nobody: one command at a time adds to the tables.
    ///
    /// # Errors
    /// Another command writes, or the file system refuses.
    pub fn lock(&self) -> Result<StoreLock, MonitoringError> {
        self.lock_file(".lock")
    }

    fn lock_file(&self, name: &str) -> Result<StoreLock, MonitoringError> {
        fs::create_dir_all(&self.root).map_err(MonitoringError::file("make", &self.root))?;
        let path = self.root.join(name);
        let opened = File::options().create(true).append(true).open(&path);
        let file = opened.map_err(MonitoringError::file("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(StoreLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(MonitoringError::Busy {
                path: self.root.clone(),
            }),
            Err(TryLockError::Error(error)) => Err(MonitoringError::file("lock", &path)(error)),
        }
    }

    /// The folder of an hour of a table.
    pub fn folder(&self, table: Table, hour: Hour) -> PathBuf {
        self.root.join(table.folder()).join(hour.to_string())
    }

    /// The hours of a table, ascending; none where there is no table.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn hours(&self, table: Table) -> Result<Vec<Hour>, MonitoringError> {
        let names = names(&self.root.join(table.folder()))?;
        let mut hours: Vec<Hour> = names.iter().filter_map(|name| name.parse().ok()).collect();
        hours.sort_unstable();
        Ok(hours)
    }

    /// The files of an hour of a table, by name.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn files(&self, table: Table, hour: Hour) -> Result<Vec<PathBuf>, MonitoringError> {
        let folder = self.folder(table, hour);
        let mut files = names(&folder)?;
        files.retain(|name| is_table(name));
        files.sort_unstable();
        Ok(files.iter().map(|name| folder.join(name)).collect())
    }

    /// The files of labels that found no prediction.
    pub(super) fn all_unjoined(&self) -> Result<Vec<PathBuf>, MonitoringError> {
        let folder = self.root.join("unjoined");
        let mut files = names(&folder)?;
        files.retain(|name| is_table(name));
        Ok(files.iter().map(|name| folder.join(name)).collect())
    }

    /// The right to judge the windows, which does not hold up those who add to the tables.
    ///
    /// # Errors
    /// Another command judges, or the file system refuses.
    pub fn lock_windows(&self) -> Result<StoreLock, MonitoringError> {
        self.lock_file(".windows.lock")
    }

    /// The summary of an hour.
    pub fn window(&self, hour: Hour) -> PathBuf {
        self.root.join("windows").join(format!("{hour}.json"))
    }

    /// The figures of the window of so many hours that ends with `hour`.
    pub fn measures(&self, over_h: usize, hour: Hour) -> PathBuf {
        let folder = self.root.join("measures").join(format!("{over_h}h"));
        folder.join(format!("{hour}.json"))
    }

    /// The rules that judged last.
    pub fn rule_book(&self) -> PathBuf {
        self.root.join("rules.json")
    }

    /// Where stands what rules said.
    pub fn judgements_folder(&self, pass: Pass) -> PathBuf {
        self.root.join("judgements").join(pass.folder())
    }

    /// What rules said of the windows that end with `hour`.
    pub fn judgements(&self, pass: Pass, hour: Hour) -> PathBuf {
        self.judgements_folder(pass).join(format!("{hour}.json"))
    }

    /// The folders with a file for each hour that was judged.
    pub(super) fn window_folders(&self) -> Result<Vec<PathBuf>, MonitoringError> {
        let measures = self.root.join("measures");
        let spans = names(&measures)?;
        let passes = [Pass::Live, Pass::Labelled].map(|pass| self.judgements_folder(pass));
        let spans = spans.iter().map(|span| measures.join(span));
        Ok([self.root.join("windows")]
            .into_iter()
            .chain(passes)
            .chain(spans)
            .collect())
    }

    /// The folder of receipts.
    pub(super) fn receipts(&self) -> PathBuf {
        self.root.join("compacted")
    }

    /// The newest figures and alerts, OpenMetrics text.
    pub(super) fn figures(&self) -> PathBuf {
        self.root.join("figures.txt")
    }

    /// The receipt of a segment.
    pub(super) fn receipt(&self, segment: &str) -> PathBuf {
        self.receipts().join(format!("{segment}.json"))
    }

    /// Where labels of a file stand that found no prediction.
    pub(super) fn unjoined(&self, labels: &str) -> PathBuf {
        self.root.join("unjoined").join(format!("{labels}.parquet"))
    }
}

/// Whether a file is a whole table.
fn is_table(name: &str) -> bool {
    name.ends_with(".parquet") && !name.starts_with('.')
}

/// Reads a file of JSON whose form has a version; none where there is no file.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(
    path: &Path,
    version: u32,
) -> Result<Option<T>, MonitoringError> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        format_version: u32,
    }
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(MonitoringError::file("read", path)(error)),
    };
    let wrong = |error: serde_json::Error| MonitoringError::table(path, error.to_string());
    let found: Versioned = serde_json::from_slice(&bytes).map_err(wrong)?;
    if found.format_version != version {
        let problem = format!(
            "format_version: expected {version}, got {}",
            found.format_version
        );
        return Err(MonitoringError::table(path, problem));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(wrong)
}

/// Writes a file of JSON; it is there when it is whole.
pub(super) fn write_json<T: serde::Serialize>(
    path: &Path,
    value: &T,
) -> Result<(), MonitoringError> {
    let bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| MonitoringError::table(path, error.to_string()))?;
    replace(path, &bytes)
}

/// The names in a folder; none where it is not there.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, MonitoringError> {
    let failed = |error| MonitoringError::file("read", folder)(error);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(failed)?.file_name().into_string().ok());
    }
    Ok(names)
}

/// Writes a file beside its place; it is there when it is whole.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), MonitoringError> {
    let next = beside(path)?;
    let write = || {
        let mut file = File::create(&next)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        name(&next, path)
    };
    write().map_err(MonitoringError::file("write", path))
}

/// Makes the folder of `path`; where the file stands until it is whole.
fn beside(path: &Path) -> Result<PathBuf, MonitoringError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(MonitoringError::file("make", folder))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(folder.join(format!(".{name}.next")))
}

fn name(next: &Path, path: &Path) -> io::Result<()> {
    fs::rename(next, path)?;
    // The name is on the disk only once its folder is.
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// A Parquet file that is there when it is whole.
pub(super) struct TableFile {
    path: PathBuf,
    next: PathBuf,
    writer: ArrowWriter<File>,
}

impl TableFile {
    pub(super) fn create(
        path: &Path,
        schema: &SchemaRef,
        metadata: &[(&str, String)],
    ) -> Result<Self, MonitoringError> {
        let next = beside(path)?;
        let file = File::create(&next).map_err(MonitoringError::file("write", path))?;
        let value = |(key, value): &(&str, String)| KeyValue::new((*key).to_owned(), value.clone());
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_key_value_metadata(Some(metadata.iter().map(value).collect()))
            .build();
        let writer = ArrowWriter::try_new(file, Arc::clone(schema), Some(properties))
            .map_err(MonitoringError::parquet(path))?;
        Ok(Self {
            path: path.to_owned(),
            next,
            writer,
        })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), MonitoringError> {
        let written = self.writer.write(batch);
        written.map_err(MonitoringError::parquet(&self.path))
    }

    pub(super) fn finish(self) -> Result<PathBuf, MonitoringError> {
        let file = self.writer.into_inner();
        let file = file.map_err(MonitoringError::parquet(&self.path))?;
        let named = file.sync_all().and_then(|()| name(&self.next, &self.path));
        named.map_err(MonitoringError::file("write", &self.path))?;
        Ok(self.path)
    }
}
