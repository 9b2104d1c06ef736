//! The folder in which a dataset takes shape, and what becomes of it when an import is killed.
//!
//! A running import holds a lock on it. One that was killed leaves a folder that nobody locks, and
//! the next import into the same parent removes it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::error::ImportError;

/// Inside the folder of an unfinished dataset: sorted runs. It marks the folder as an import's.
const WORK: &str = "import.work";

/// The locked work folder of a running import.
#[derive(Debug)]
pub(super) struct WorkFolder {
    path: PathBuf,
    /// Holds the lock.
    _dataset: File,
}

impl WorkFolder {
    /// Locks the folder of an unfinished dataset and makes a folder for runs in it.
    pub(super) fn create(dataset: &Path) -> Result<Self, ImportError> {
        let lock = File::open(dataset).map_err(|error| ImportError::io("open", dataset, error))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| ImportError::io("lock", dataset, error.into()))?;
        let path = dataset.join(WORK);
        std::fs::create_dir(&path).map_err(|error| ImportError::io("create", &path, error))?;
        Ok(Self {
            path,
            _dataset: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the runs, before the dataset takes its place.
    pub(super) fn remove(self) -> Result<(), ImportError> {
        std::fs::remove_dir_all(&self.path)
            .map_err(|error| ImportError::io("remove", &self.path, error))
    }
}

/// Removes what killed imports left in `parent`.
pub(super) fn remove_abandoned(parent: &Path) -> Result<(), ImportError> {
    let entries = match std::fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ImportError::io("list", parent, error)),
    };
    for folder in entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join(WORK).is_dir())
    {
        let unlocked = |file: &File| flock(file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if File::open(&folder).is_ok_and(|file| unlocked(&file)) {
            tracing::info!(
                "removing {}, left by an import that was killed",
                folder.display()
            );
            std::fs::remove_dir_all(&folder)
                .map_err(|error| ImportError::io("remove", &folder, error))?;
        }
    }
    Ok(())
}
