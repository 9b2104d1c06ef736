//! Parquet files as the inputs of a model, in parts that threads read apart: some columns of a row group.
//!
//! Column by column, what is read, unpacked and converted stays in a core's own cache; all columns of a batch of rows do not.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use streamrec_artifact::RawBatch;

use super::error::ImportError;
use super::input_rows::{InputSettings, Selection};
use super::parquet::failed;

/// Open Parquet files of the same columns.
pub struct InputParts {
    selection: Arc<Selection>,
    files: Vec<PartedFile>,
}

struct PartedFile {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    /// The places of the inputs among the file's columns.
    places: Vec<usize>,
}

/// Some inputs of the rows of a row group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputPart {
    /// The places of the inputs in the settings.
    pub inputs: Range<usize>,
    file: usize,
    group: usize,
    /// The number of its first row in its file, from 1.
    first_row: u64,
}

impl InputParts {
    /// Opens every file and looks for the columns. Columns that are passed through are not read.
    ///
    /// # Errors
    /// Files that cannot be read or lack columns.
    pub fn open(settings: InputSettings) -> Result<Self, ImportError> {
        let selection = Arc::new(Selection::new(settings));
        let of_file = |path: &PathBuf| {
            selection.look_into(path)?;
            let file = File::open(path).map_err(|error| ImportError::io("open", path, error))?;
            let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())
                .map_err(|error| failed(path, error))?;
            let names = metadata.schema().fields().iter();
            let names: Vec<_> = names.map(|field| field.name().clone()).collect();
            Ok(PartedFile {
                path: path.clone(),
                places: selection.places(path, &names)?,
                metadata,
            })
        };
        let files = selection.settings.files.iter().map(of_file);
        Ok(Self {
            files: files.collect::<Result<_, ImportError>>()?,
            selection: Arc::clone(&selection),
        })
    }

    /// The number of rows of all files.
    pub fn rows(&self) -> u64 {
        let rows = |file: &PartedFile| file.metadata.metadata().file_metadata().num_rows();
        self.files.iter().map(|file| rows(file).max(0) as u64).sum()
    }

    /// Its parts in the order of rows, of up to `inputs_at_once` inputs each.
    pub fn parts(&self, inputs_at_once: usize) -> Vec<InputPart> {
        let inputs = self.selection.settings.inputs.len();
        let mut parts = Vec::new();
        for (file, parted) in self.files.iter().enumerate() {
            let mut first_row = 1;
            for (group, row_group) in parted.metadata.metadata().row_groups().iter().enumerate() {
                let starts = (0..inputs).step_by(inputs_at_once.max(1));
                parts.extend(starts.map(|start| InputPart {
                    inputs: start..(start + inputs_at_once).min(inputs),
                    file,
                    group,
                    first_row,
                }));
                first_row += row_group.num_rows().max(0) as u64;
            }
        }
        parts
    }

    /// Gives the rows of a part to `visit` in their order, a batch of the part's inputs at a time.
    ///
    /// # Errors
    /// What the file system says, a value that is not what its input takes, and what `visit` says.
    pub fn read<E: From<ImportError>>(
        &self,
        part: &InputPart,
        mut visit: impl FnMut(&RawBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        let PartedFile {
            path,
            metadata,
            places,
        } = &self.files[part.file];
        let settings = &self.selection.settings;
        let file = File::open(path).map_err(|error| ImportError::io("open", path, error))?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone());
        let columns = places[part.inputs.clone()].iter().copied();
        let mask = ProjectionMask::roots(builder.parquet_schema(), columns);
        let reader = builder
            .with_row_groups(vec![part.group])
            .with_projection(mask)
            .with_batch_size(settings.piece_rows)
            .build()
            .map_err(|error| failed(path, error))?;
        let mut raw = RawBatch::new(&settings.inputs[part.inputs.clone()]);
        let mut first_row = part.first_row;
        for batch in reader {
            let batch = batch.map_err(|error| failed(path, error))?;
            self.selection
                .convert(&batch, first_row, path, part.inputs.clone(), &mut raw)?;
            first_row += batch.num_rows() as u64;
            visit(&raw)?;
        }
        Ok(())
    }
}
