//! Reads checkpoints, of any world size.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::shard::Shard;
use super::{CheckpointError, CheckpointFolder, Index, Tick};
use crate::model::Extent;

/// A complete checkpoint, open for reading.
pub struct Checkpoint {
    folder: PathBuf,
    index: Index,
    shards: Vec<Shard>,
    tick: Tick,
}

impl Checkpoint {
    /// Opens the checkpoint of `step`.
    ///
    /// # Errors
    /// When it is missing, incomplete or damaged.
    pub fn open(checkpoints: &CheckpointFolder, step: u64) -> Result<Self, CheckpointError> {
        let folder = checkpoints.of_step(step);
        let index_path = folder.join("index.json");
        if !index_path.exists() {
            return Err(CheckpointError::Missing { folder });
        }
        let index = Index::read(&index_path)?;
        let shards = index
            .shards
            .iter()
            .map(|shard| Shard::open(folder.join(&shard.file), shard.bytes))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            folder,
            index,
            shards,
            tick: Arc::new(|| ()),
        })
    }

    /// Calls `tick` each time that some more is read.
    pub fn with_tick(mut self, tick: Tick) -> Self {
        self.tick = tick;
        self
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The global step after which it was taken.
    pub fn step(&self) -> u64 {
        self.index.step
    }

    /// The ranks that wrote it.
    pub fn world_size(&self) -> usize {
        self.index.world_size
    }

    /// The names of its tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.tensors.keys().map(String::as_str)
    }

    /// The state that was saved with the tensors.
    ///
    /// # Errors
    /// When it is not a `T`.
    pub fn state<T: DeserializeOwned>(&self) -> Result<T, CheckpointError> {
        serde_json::from_value(self.index.state.clone()).map_err(|error| {
            CheckpointError::damaged(&self.folder.join("index.json"), format!("state: {error}"))
        })
    }

    /// Reads the part `extent` of tensor `name` into `into`. Of the checkpoint's slices, only those that
    /// hold some of it are read.
    ///
    /// # Errors
    /// When the tensor is missing, of another shape, or damaged.
    pub fn read(
        &self,
        name: &str,
        extent: &Extent,
        into: &mut [f32],
    ) -> Result<(), CheckpointError> {
        let mismatch = |problem| CheckpointError::Mismatch {
            path: self.folder.clone(),
            problem,
        };
        let tensor = self
            .index
            .tensors
            .get(name)
            .ok_or_else(|| mismatch(format!("tensor `{name}` is not in it")))?;
        if tensor.shape != extent.shape || extent.len() != into.len() {
            let problem = format!(
                "tensor `{name}` has shape {:?}, expected {:?}",
                tensor.shape, extent.shape
            );
            return Err(mismatch(problem));
        }
        let mut whole_slice = Vec::new();
        for slice in &tensor.slices {
            let shard = &self.shards[slice.shard];
            let rows = overlap(&extent.rows, slice.rows);
            let columns = overlap(&extent.columns, slice.columns);
            if rows.is_empty() || columns.is_empty() {
                continue;
            }
            let (width, first) = (extent.columns.len(), extent.rows.start);
            if slice.columns == [extent.columns.start, extent.columns.end]
                && slice.rows == [rows.start, rows.end]
            {
                let own = (rows.start - first) * width..(rows.end - first) * width;
                shard.read(slice, &mut into[own], self.tick.as_ref())?;
                continue;
            }
            let [[slice_row, last_row], [slice_column, last_column]] = [slice.rows, slice.columns];
            let slice_width = last_column - slice_column;
            whole_slice.resize((last_row - slice_row) * slice_width, 0.0);
            shard.read(slice, &mut whole_slice, self.tick.as_ref())?;
            for row in rows {
                let from = (row - slice_row) * slice_width + columns.start - slice_column;
                let to = (row - first) * width + columns.start - extent.columns.start;
                into[to..to + columns.len()]
                    .copy_from_slice(&whole_slice[from..from + columns.len()]);
            }
        }
        Ok(())
    }
}

fn overlap(wanted: &Range<usize>, [first, end]: [usize; 2]) -> Range<usize> {
    let start = wanted.start.max(first);
    start..wanted.end.min(end).max(start)
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Checkpoint({})", self.folder.display())
    }
}
