//! Why a checkpoint could not be written or read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::comm::CommError;

/// A checkpoint that could not be written or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CheckpointError {
    /// The file system refused.
    #[error("cannot {action} {}{}", path.display(), advice(source))]
    File {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: Arc<std::io::Error>,
    },
    /// The file is not what a checkpoint's file must be.
    #[error(
        "{}: {problem}; the checkpoint is damaged: remove its folder, then --resume goes on from the one before",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The checkpoint holds another model.
    #[error(
        "{}: {problem}; it was written by another configuration: train into another output folder, \
         or give the configuration that wrote it",
        path.display()
    )]
    Mismatch {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What differs.
        problem: String,
    },
    /// There is none.
    #[error(
        "{} holds no checkpoint; train this run first, or check the path",
        folder.display()
    )]
    Missing {
        /// Where one was expected.
        folder: PathBuf,
    },
    /// Another rank could not write its shard.
    #[error("rank {rank} could not write its shard: {reason}")]
    OtherRank {
        /// That rank.
        rank: usize,
        /// Its error.
        reason: String,
    },
    /// The ranks lost one another.
    #[error("the ranks could not agree that the checkpoint is complete")]
    Comm(#[from] CommError),
    /// The writing thread ended by a bug.
    #[error("the thread that writes checkpoints panicked; see the log above")]
    Panicked,
}

impl CheckpointError {
    pub(super) fn file(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> CheckpointError {
        let path = path.to_owned();
        move |source| CheckpointError::File {
            action,
            path,
            source: Arc::new(source),
        }
    }

    pub(super) fn damaged(path: &Path, problem: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }
}

fn advice(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull => {
            "; the disk is full: free space, the last complete checkpoint is still there"
        }
        std::io::ErrorKind::PermissionDenied => "; check its permissions",
        _ => "",
    }
}
