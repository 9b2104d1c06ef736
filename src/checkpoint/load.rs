//! Reads checkpoints, of any world size.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use serde::de::DeserializeOwned;
use streamrec_kernels::{DType, TensorMut};

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

    /// Reads the part `extent` of tensor `name` into `into`, which is contiguous. Of the checkpoint's slices, only those
    /// that hold some of it are read. What is stored in half precision is read into its own type, or widened to float32;
    /// nothing is rounded.
    ///
    /// # Errors
    /// When the tensor is missing, of another shape or of a type that would have to be rounded, or damaged.
    pub fn read(
        &self,
        name: &str,
        extent: &Extent,
        mut into: TensorMut<'_>,
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
        let (dtype, size) = (into.dtype(), into.dtype().bytes());
        let into = into.bytes_mut().unwrap_or_default();
        if tensor.shape != extent.shape || extent.len() * size != into.len() {
            let problem = format!(
                "tensor `{name}` has shape {:?}, expected {:?}",
                tensor.shape, extent.shape
            );
            return Err(mismatch(problem));
        }
        let mut whole_slice: Vec<u8> = Vec::new();
        for slice in &tensor.slices {
            let shard = &self.shards[slice.shard];
            let rows = overlap(&extent.rows, slice.rows);
            let columns = overlap(&extent.columns, slice.columns);
            if rows.is_empty() || columns.is_empty() {
                continue;
            }
            let stored = shard.dtype(slice)?;
            if stored != dtype && (dtype != DType::F32 || !stored.is_half()) {
                return Err(mismatch(format!(
                    "tensor `{name}` is stored in {stored}, expected {dtype}: the checkpoint was written with another \
                     `train.table_precision`"
                )));
            }
            let (width, first) = (extent.columns.len(), extent.rows.start);
            if stored == dtype
                && slice.columns == [extent.columns.start, extent.columns.end]
                && slice.rows == [rows.start, rows.end]
            {
                let own = (rows.start - first) * width * size..(rows.end - first) * width * size;
                shard.read(slice, &mut into[own], self.tick.as_ref())?;
                continue;
            }
            let [[slice_row, last_row], [slice_column, last_column]] = [slice.rows, slice.columns];
            let slice_width = last_column - slice_column;
            let stored_size = stored.bytes();
            whole_slice.resize((last_row - slice_row) * slice_width * stored_size, 0);
            shard.read(slice, &mut whole_slice, self.tick.as_ref())?;
            for row in rows {
                let from = (row - slice_row) * slice_width + columns.start - slice_column;
                let to = (row - first) * width + columns.start - extent.columns.start;
                copy_row(
                    stored,
                    &whole_slice[from * stored_size..][..columns.len() * stored_size],
                    &mut into[to * size..][..columns.len() * size],
                );
            }
        }
        Ok(())
    }
}

/// Copies the bytes of numbers of a type, to the same type or to float32.
fn copy_row(stored: DType, from: &[u8], into: &mut [u8]) {
    if from.len() == into.len() {
        into.copy_from_slice(from);
        return;
    }
    let halves = from
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&bytes| u16::from_ne_bytes(bytes));
    for (into, bits) in into.as_chunks_mut::<4>().0.iter_mut().zip(halves) {
        let wide = match stored {
            DType::Bf16 => bf16::from_bits(bits).to_f32(),
            _ => f16::from_bits(bits).to_f32(),
        };
        *into = wide.to_ne_bytes();
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
