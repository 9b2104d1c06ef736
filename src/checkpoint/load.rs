//! Reads checkpoints, of any world size.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::shard::Shard;
use super::{CheckpointError, CheckpointFolder, Index};

/// A complete checkpoint, open for reading.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    index: Index,
    shards: Vec<Shard>,
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
        })
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

    /// Reads all of tensor `name` into `into`, which must have the tensor's `shape`.
    ///
    /// # Errors
    /// When the tensor is missing, of another shape, or damaged.
    pub fn read(
        &self,
        name: &str,
        shape: &[usize],
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
        if tensor.shape != shape || shape.iter().product::<usize>() != into.len() {
            let problem = format!(
                "tensor `{name}` has shape {:?}, expected {shape:?}",
                tensor.shape
            );
            return Err(mismatch(problem));
        }
        let mut rest = into;
        for slice in &tensor.slices {
            // The index was checked: slices follow one another and end with the tensor.
            let [first, end] = slice.rows;
            let (part, tail) = rest.split_at_mut((end - first) * slice.columns[1]);
            self.shards[slice.shard].read(slice, part)?;
            rest = tail;
        }
        Ok(())
    }
}
