//! Writes checkpoints beside training, one at a time.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::index::{FORMAT_VERSION, IndexedTensor};
use super::shard::{self, Written};
use super::{Best, CheckpointError, CheckpointFolder, Index, Snapshot, folder};
use crate::comm::Communicator;

/// One rank's part in writing checkpoints. All ranks make the same calls.
pub struct Saver {
    comm: Arc<dyn Communicator>,
    folder: CheckpointFolder,
    keep: usize,
    tick: Tick,
    writing: Option<JoinHandle<Result<(), CheckpointError>>>,
}

/// Hears that a long write or read gets on.
pub type Tick = Arc<dyn Fn() + Send + Sync>;

impl Saver {
    /// A saver over a communicator of its own (from `split`), since it writes while the step
    /// uses the other. `keep` newest checkpoints stay.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(
        comm: Arc<dyn Communicator>,
        folder: CheckpointFolder,
        keep: usize,
    ) -> Result<Self, CheckpointError> {
        if comm.rank() == 0 {
            let root = folder.root();
            fs::create_dir_all(root).map_err(CheckpointError::file("make", root))?;
            folder.remove_incomplete()?;
        }
        comm.barrier().wait()?;
        Ok(Self {
            comm,
            folder,
            keep,
            tick: Arc::new(|| ()),
            writing: None,
        })
    }

    /// Calls `tick` each time that some more is on the disk.
    pub fn with_tick(mut self, tick: Tick) -> Self {
        self.tick = tick;
        self
    }

    /// Starts to write `snapshot`, after the one before is complete.
    ///
    /// # Errors
    /// When the checkpoint before could not be written, on any rank: then on all ranks.
    pub fn save(&mut self, snapshot: Snapshot) -> Result<(), CheckpointError> {
        self.finish()?;
        let (comm, folder, keep) = (Arc::clone(&self.comm), self.folder.clone(), self.keep);
        let tick = Arc::clone(&self.tick);
        let thread = std::thread::Builder::new().name("checkpoint".into());
        let writing =
            thread.spawn(move || write(comm.as_ref(), &folder, keep, &snapshot, tick.as_ref()));
        let root = self.folder.root();
        self.writing = Some(writing.map_err(CheckpointError::file("start a thread for", root))?);
        Ok(())
    }

    /// Notes that the complete checkpoint of `best.step` is the best.
    ///
    /// # Errors
    /// When it cannot be noted, on any rank: then on all ranks.
    pub fn mark_best(&mut self, best: &Best) -> Result<(), CheckpointError> {
        self.finish()?;
        let marked = match self.comm.rank() {
            0 => self.folder.set_best(best),
            _ => Ok(()),
        };
        agree(self.comm.as_ref(), marked).map(drop)
    }

    /// Waits until what was started is complete.
    ///
    /// # Errors
    /// When it could not be written, on any rank: then on all ranks.
    pub fn finish(&mut self) -> Result<(), CheckpointError> {
        match self.writing.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(CheckpointError::Panicked),
        }
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            tracing::error!(%error, "the last checkpoint is not complete");
        }
    }
}

fn write(
    comm: &dyn Communicator,
    folder: &CheckpointFolder,
    keep: usize,
    snapshot: &Snapshot,
    tick: &dyn Fn(),
) -> Result<(), CheckpointError> {
    let path = folder.of_step(snapshot.step);
    let made = if comm.rank() == 0 {
        fs::create_dir_all(&path).map_err(CheckpointError::file("make", &path))
    } else {
        Ok(())
    };
    agree(comm, made)?;
    let written = shard::write(&path, snapshot, comm.rank(), comm.size(), tick);
    let shards = agree(comm, written)?;
    let indexed = if comm.rank() == 0 {
        complete(folder, snapshot, &shards, keep)
    } else {
        Ok(())
    };
    agree(comm, indexed)?;
    Ok(())
}

/// Tells all ranks how it went on each; an error on one is an error on all.
fn agree<T: serde::Serialize + serde::de::DeserializeOwned>(
    comm: &dyn Communicator,
    local: Result<T, CheckpointError>,
) -> Result<Vec<T>, CheckpointError> {
    let outcome = local.as_ref().map_err(ToString::to_string);
    let message = serde_json::to_vec(&outcome).unwrap_or_default();
    let gathered = comm.all_gather_bytes(message).wait()?;
    local?;
    let outcome = |(rank, bytes): (usize, &Vec<u8>)| {
        let outcome: Result<T, String> =
            serde_json::from_slice(bytes).unwrap_or_else(|error| Err(error.to_string()));
        outcome.map_err(|reason| CheckpointError::OtherRank { rank, reason })
    };
    gathered.iter().enumerate().map(outcome).collect()
}

/// In this order, a crash leaves at worst a checkpoint more than needed, and a `best.json` that is
/// behind: `CheckpointFolder::repair_best` mends it from the state in the index.
fn complete(
    folder: &CheckpointFolder,
    snapshot: &Snapshot,
    shards: &[Written],
    keep: usize,
) -> Result<(), CheckpointError> {
    write_index(folder, snapshot, shards)?;
    if let Some(loss) = snapshot.best_loss {
        folder.set_best(&Best {
            step: snapshot.step,
            loss,
        })?;
    }
    folder.retain(keep)
}

fn write_index(
    folder: &CheckpointFolder,
    snapshot: &Snapshot,
    shards: &[Written],
) -> Result<(), CheckpointError> {
    let mut tensors = BTreeMap::<String, IndexedTensor>::new();
    for (name, shape, slice) in shards.iter().flat_map(|written| &written.slices) {
        let tensor = tensors
            .entry(name.clone())
            .or_insert_with(|| IndexedTensor {
                shape: shape.clone(),
                slices: Vec::new(),
            });
        // A rank with nothing of a tensor has nothing to read.
        if slice.rows[0] < slice.rows[1] {
            tensor.slices.push(slice.clone());
        }
    }
    for tensor in tensors.values_mut() {
        tensor
            .slices
            .sort_by_key(|slice| (slice.columns, slice.rows));
    }
    let index = Index {
        format_version: FORMAT_VERSION,
        step: snapshot.step,
        world_size: shards.len(),
        state: snapshot.state.clone(),
        shards: shards.iter().map(|written| written.shard.clone()).collect(),
        tensors,
    };
    let path = folder.of_step(snapshot.step);
    let text = serde_json::to_vec_pretty(&index)
        .map_err(|error| CheckpointError::damaged(&path, error.to_string()))?;
    folder::replace(&path, "index.json", &text)
}
