//! The folder of a run's checkpoints: which there are, which is best, which may go.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::CheckpointError;

/// `checkpoints/` of a run.
#[derive(Debug, Clone)]
pub struct CheckpointFolder {
    root: PathBuf,
}

/// `best.json`: the checkpoint of the best evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Its global step.
    pub step: u64,
    /// The validation loss that made it the best.
    pub loss: f64,
}

impl CheckpointFolder {
    /// The checkpoints below `root`, which need not exist yet.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of the checkpoint of `step`.
    pub fn of_step(&self, step: u64) -> PathBuf {
        self.root.join(format!("step-{step:012}"))
    }

    /// Steps of the complete checkpoints, ascending.
    ///
    /// # Errors
    /// When the folder exists and cannot be read.
    pub fn complete(&self) -> Result<Vec<u64>, CheckpointError> {
        let (complete, _) = self.list()?;
        Ok(complete)
    }

    /// The newest complete checkpoint.
    ///
    /// # Errors
    /// When the folder exists and cannot be read.
    pub fn latest(&self) -> Result<Option<u64>, CheckpointError> {
        Ok(self.complete()?.last().copied())
    }

    /// What the last evaluation that was better than all before it wrote.
    ///
    /// # Errors
    /// When the file exists and is none.
    pub fn best(&self) -> Result<Option<Best>, CheckpointError> {
        let path = self.root.join("best.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CheckpointError::file("read", &path)(error)),
        };
        let best = serde_json::from_slice(&text);
        best.map(Some)
            .map_err(|error| CheckpointError::damaged(&path, error.to_string()))
    }

    /// Makes `best.json` tell what the checkpoint tells that a run goes on from. The file may be
    /// older, after a crash, or newer, where later checkpoints are gone.
    ///
    /// # Errors
    /// When it cannot be read, written or removed.
    pub fn repair_best(&self, best: Option<&Best>) -> Result<(), CheckpointError> {
        let path = self.root.join("best.json");
        match best {
            Some(best) if self.best()?.as_ref() == Some(best) => Ok(()),
            Some(best) => self.set_best(best),
            None if path.exists() => {
                fs::remove_file(&path).map_err(CheckpointError::file("remove", &path))
            }
            None => Ok(()),
        }
    }

    /// Replaces `best.json`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn set_best(&self, best: &Best) -> Result<(), CheckpointError> {
        let text = serde_json::to_vec(best)
            .map_err(|error| CheckpointError::damaged(&self.root, error.to_string()))?;
        replace(&self.root, "best.json", &text)
    }

    /// Removes complete checkpoints that are neither the `keep` newest nor the best, once the
    /// newest is sure to outlive a loss of power.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn retain(&self, keep: usize) -> Result<(), CheckpointError> {
        let root = &self.root;
        let synced = File::open(root).and_then(|folder| folder.sync_all());
        synced.map_err(CheckpointError::file("sync", root))?;
        let best = self.best()?.map(|best| best.step);
        let complete = self.complete()?;
        let old = complete.len().saturating_sub(keep);
        for step in complete[..old].iter().filter(|step| Some(**step) != best) {
            self.remove(*step)?;
        }
        Ok(())
    }

    /// Removes what interrupted writes left behind. Only while nothing is being written.
    ///
    /// # Errors
    /// When a leftover cannot be removed.
    pub fn remove_incomplete(&self) -> Result<(), CheckpointError> {
        let (_, incomplete) = self.list()?;
        incomplete
            .into_iter()
            .try_for_each(|step| self.remove(step))
    }

    /// The index goes first, so that a removal cut short leaves no checkpoint that looks whole.
    fn remove(&self, step: u64) -> Result<(), CheckpointError> {
        let folder = self.of_step(step);
        let index = folder.join("index.json");
        if index.exists() {
            fs::remove_file(&index).map_err(CheckpointError::file("remove", &index))?;
        }
        fs::remove_dir_all(&folder).map_err(CheckpointError::file("remove", &folder))
    }

    /// Steps of the complete and of the incomplete checkpoints, each ascending.
    fn list(&self) -> Result<(Vec<u64>, Vec<u64>), CheckpointError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Default::default());
            }
            Err(error) => return Err(CheckpointError::file("list", &self.root)(error)),
        };
        let (mut complete, mut incomplete) = (Vec::new(), Vec::new());
        for entry in entries {
            let name = entry
                .map_err(CheckpointError::file("list", &self.root))?
                .file_name();
            let step = name.to_str().and_then(|name| name.strip_prefix("step-"));
            if let Some(step) = step.and_then(|step| step.parse().ok()) {
                let whole = self.of_step(step).join("index.json").exists();
                let steps = if whole {
                    &mut complete
                } else {
                    &mut incomplete
                };
                steps.push(step);
            }
        }
        complete.sort_unstable();
        incomplete.sort_unstable();
        Ok((complete, incomplete))
    }
}

/// Writes `folder/name` so that a reader sees the old file or the new one, whatever happens.
pub(super) fn replace(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
    let path = folder.join(name);
    let temporary = folder.join(format!(".{name}.tmp"));
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(CheckpointError::file("write", &path))
}
