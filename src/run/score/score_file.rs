//! The Parquet file of scores, which is there when it is whole and not before.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{Field, Schema};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use crate::run::RunError;
use crate::run::output_lock::OutputLock;
use crate::run::replacement::{parent, sibling};

/// Rows of a row group, whose pages are in memory until it ends.
const GROUP_ROWS: usize = 1 << 18;

/// A file of scores that is being written, in the sibling `.NAME.next`.
pub(super) struct ScoreFile {
    out: PathBuf,
    next: PathBuf,
    schema: Arc<Schema>,
    /// Until the file has its name.
    writer: Option<ArrowWriter<File>>,
    /// Keeps other commands away from these names.
    _lock: OutputLock,
}

impl ScoreFile {
    /// Begins to write the columns `fields`, those of the scores last.
    ///
    /// # Errors
    /// A file is there and may not be replaced, another command writes it, or the file system refuses.
    pub(super) fn create(
        out: &Path,
        fields: Vec<Field>,
        metadata: Vec<(&'static str, String)>,
        overwrite: bool,
    ) -> Result<Self, RunError> {
        let shown = out.display();
        if out.is_dir() || out.file_name().is_none() {
            return Err(RunError::Usage(format!(
                "--out {shown}: expected the name of a file, got a folder"
            )));
        }
        if out.exists() && !overwrite {
            return Err(RunError::Usage(format!(
                "{shown} exists; replace it by --overwrite, or choose another --out"
            )));
        }
        let folder = parent(out);
        std::fs::create_dir_all(folder).map_err(RunError::other(format!(
            "--out {shown}: its folder cannot be made; choose another --out"
        )))?;
        let lock = OutputLock::take(sibling(out, "lock"), out)?;
        let next = sibling(out, "next");
        // What a command left that was killed is written over.
        let file = File::create(&next).map_err(RunError::file("write", &next))?;
        let schema = Arc::new(Schema::new(fields));
        let value = |(key, value): (&str, String)| KeyValue::new(key.to_owned(), value);
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_key_value_metadata(Some(metadata.into_iter().map(value).collect()))
            .build();
        let writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties))
            .map_err(failed(&next))?;
        Ok(Self {
            out: out.to_owned(),
            next,
            schema,
            writer: Some(writer),
            _lock: lock,
        })
    }

    /// Writes rows: their keys and `scores`, `[rows, labels]`. A score that is no number is null.
    ///
    /// # Errors
    /// When the disk is full, or the file system refuses.
    pub(super) fn write(&mut self, keys: &[ArrayRef], scores: &[f32]) -> Result<(), RunError> {
        let labels = self.schema.fields().len() - keys.len();
        let columns = (0..labels).map(|label| {
            let own: Vec<f32> = scores.iter().skip(label).step_by(labels).copied().collect();
            let present: NullBuffer = own.iter().map(|score| !score.is_nan()).collect();
            Arc::new(Float32Array::new(own.into(), Some(present))) as ArrayRef
        });
        let columns = keys.iter().cloned().chain(columns).collect();
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(RunError::other("the scores are no rows of one table"))?;
        match &mut self.writer {
            Some(writer) => writer.write(&batch).map_err(failed(&self.next)),
            None => Ok(()),
        }
    }

    /// Gives the file its name, once it is on the disk.
    ///
    /// # Errors
    /// As of [`ScoreFile::write`].
    pub(super) fn finish(mut self) -> Result<(), RunError> {
        let Some(writer) = self.writer.take() else {
            return Ok(());
        };
        let named = || -> Result<(), RunError> {
            let file = writer.into_inner().map_err(failed(&self.next))?;
            let name = || {
                file.sync_all()?;
                std::fs::rename(&self.next, &self.out)?;
                // The name is on the disk only once its folder is.
                File::open(parent(&self.out))?.sync_all()
            };
            name().map_err(RunError::file("write", &self.out))
        };
        named().inspect_err(|_| remove(&self.next))
    }
}

impl Drop for ScoreFile {
    fn drop(&mut self) {
        if self.writer.take().is_some() {
            remove(&self.next);
        }
    }
}

/// The error that led here is the one to tell.
fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
}

fn failed(path: &Path) -> impl FnOnce(ParquetError) -> RunError {
    RunError::other(format!("cannot write {}", path.display()))
}
