//! Builds a dataset's folder beside its final place and moves it there when it is whole.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use streamrec_artifact::RawColumn;
use streamrec_artifact::key::MISSING_TIME;
use tempfile::TempDir;

use super::description::{
    Dataset, FILE_NAME, FORMAT_VERSION, History, Provenance, Split, SplitFile, TimeSpan,
    TrailingSpec,
};
use crate::data::pack::sync_folder;
use crate::data::{Block, Column, Error, PackWriter, RawValue, Result, Role, column};

/// Writes the splits of a new dataset; [`DatasetWriter::finish`] puts the folder in its place.
///
/// Dropped before that, it leaves nothing behind.
#[derive(Debug)]
pub struct DatasetWriter {
    folder: TempDir,
    out: PathBuf,
    columns: Vec<Column>,
    /// The place of the time column.
    time: Option<usize>,
    block_rows: usize,
    splits: BTreeMap<Split, SplitWriter>,
}

#[derive(Debug)]
struct SplitWriter {
    pack: PackWriter,
    time: Option<TimeSpan>,
}

impl DatasetWriter {
    /// Begins a dataset that will lie at `out`. The column of role `Time`, if any, is its time.
    ///
    /// # Errors
    /// `out` exists and is not an empty folder, its parent cannot be written, or the columns
    /// contradict themselves.
    pub fn create(
        out: impl Into<PathBuf>,
        columns: Vec<Column>,
        block_rows: usize,
    ) -> Result<Self> {
        let out = out.into();
        column::check_all(&columns).map_err(|problem| Error::dataset(&out, problem))?;
        let mut times = (0..columns.len()).filter(|&i| columns[i].role == Role::Time);
        let (time, second) = (times.next(), times.next());
        if second.is_some() {
            return Err(Error::dataset(
                &out,
                "expected one column of role time, got several",
            ));
        }
        refuse_existing(&out)?;
        let parent = parent(&out);
        std::fs::create_dir_all(parent)
            .map_err(|source| Error::io("create the folder", parent, source))?;
        let folder = tempfile::Builder::new()
            .prefix(".dataset-")
            .suffix(".tmp")
            .permissions(Permissions::from_mode(0o777))
            .tempdir_in(parent)
            .map_err(|source| Error::io("create a temporary folder in", parent, source))?;
        Ok(Self {
            folder,
            out,
            columns,
            time,
            block_rows,
            splits: BTreeMap::new(),
        })
    }

    /// The folder while it is being built, for files beside the splits.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The columns that every row has.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The rows written to `split` so far.
    pub fn rows(&self, split: Split) -> u64 {
        self.splits
            .get(&split)
            .map_or(0, |writer| writer.pack.rows())
    }

    /// Writes one row, a value for each column.
    ///
    /// # Errors
    /// A row of other columns, or a disk that refuses.
    pub fn push(&mut self, split: Split, row: &[RawValue<'_>]) -> Result<()> {
        let time = self.time;
        let writer = self.writer(split)?;
        writer.pack.push(row)?;
        if let Some(RawValue::Time(moment)) = time.and_then(|place| row.get(place)) {
            writer.extend_time(&[*moment]);
        }
        Ok(())
    }

    /// Writes all rows of `block`; it may have any number of them.
    ///
    /// # Errors
    /// A block of other columns, or a disk that refuses.
    pub fn push_block(&mut self, split: Split, block: &Block) -> Result<()> {
        let time = self.time;
        let writer = self.writer(split)?;
        writer.pack.push_block(block)?;
        if let Some(RawColumn::Time(moments)) = time.and_then(|place| block.columns.get(place)) {
            writer.extend_time(moments);
        }
        Ok(())
    }

    /// Moves the rows of `from` that stand at `row` and behind it to the end of `to`, in their order.
    /// For rows without times.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn move_tail(&mut self, from: Split, row: u64, to: Split) -> Result<()> {
        let Some(mut writer) = self.splits.remove(&from) else {
            return Ok(());
        };
        writer.pack.split_off(row, |block| {
            if block.rows > 0 {
                self.push_block(to, block)?;
            }
            Ok(())
        })?;
        if writer.pack.rows() > 0 {
            self.splits.insert(from, writer);
        }
        Ok(())
    }

    /// Finishes the splits, writes the description and moves the folder to its place.
    ///
    /// # Errors
    /// A description that contradicts the columns, or a disk that refuses; nothing is then left.
    pub fn finish(
        self,
        name: impl Into<String>,
        trailing: Vec<TrailingSpec>,
        history: Option<History>,
        provenance: Provenance,
    ) -> Result<Dataset> {
        let mut splits = BTreeMap::new();
        for (split, writer) in self.splits {
            let time = writer.time;
            let summary = writer.pack.finish()?;
            let file = SplitFile {
                file: split.file_name(),
                rows: summary.rows,
                bytes: summary.bytes,
                checksum: format!("{:016x}", summary.checksum),
                time,
            };
            splits.insert(split, file);
        }
        let mut dataset = Dataset {
            format_version: FORMAT_VERSION,
            name: name.into(),
            time: self.time.map(|place| self.columns[place].name.clone()),
            columns: self.columns,
            splits,
            trailing,
            history,
            provenance,
            folder: self.out.clone(),
        };
        dataset.check()?;
        write_description(&dataset, self.folder.path())?;
        sync_folder(self.folder.path())?;
        refuse_existing(&self.out)?;
        std::fs::rename(self.folder.path(), &self.out)
            .map_err(|source| Error::io("rename a temporary folder to", &self.out, source))?;
        // The folder now has its name, there is nothing left to remove.
        let _ = self.folder.keep();
        sync_folder(parent(&self.out))?;
        dataset.folder = self.out;
        Ok(dataset)
    }

    fn writer(&mut self, split: Split) -> Result<&mut SplitWriter> {
        match self.splits.entry(split) {
            std::collections::btree_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let path = self.folder.path().join(split.file_name());
                let pack = PackWriter::create(path, &self.columns, self.block_rows)?;
                Ok(entry.insert(SplitWriter { pack, time: None }))
            }
        }
    }
}

impl SplitWriter {
    fn extend_time(&mut self, moments: &[i64]) {
        for &moment in moments.iter().filter(|&&moment| moment != MISSING_TIME) {
            let span = self.time.get_or_insert(TimeSpan {
                first_ms: moment,
                last_ms: moment,
            });
            span.first_ms = span.first_ms.min(moment);
            span.last_ms = span.last_ms.max(moment);
        }
    }
}

fn write_description(dataset: &Dataset, folder: &Path) -> Result<()> {
    let path = folder.join(FILE_NAME);
    let mut text = serde_json::to_vec_pretty(dataset).map_err(|source| Error::Json {
        path: path.clone(),
        source,
    })?;
    text.push(b'\n');
    File::create(&path)
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
        .map_err(|source| Error::io("write", &path, source))
}

/// A dataset is never written over another.
fn refuse_existing(out: &Path) -> Result<()> {
    let taken = match std::fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    };
    if taken {
        let problem = "it exists already; remove it or choose another place";
        return Err(Error::dataset(out, problem));
    }
    Ok(())
}

fn parent(out: &Path) -> &Path {
    match out.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
