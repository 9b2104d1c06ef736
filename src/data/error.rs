//! What goes wrong with data: which file, where in it, and what to do next.

use std::io;
use std::path::{Path, PathBuf};

/// An error of reading, writing or describing data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried: `open`, `read`, `write`, `rename`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A packed file whose bytes are not what was written.
    #[error(
        "{}, {part}: {problem}; the file was cut short or changed after it was written: \
         copy it again, or import the data again",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in the file: `header`, `directory`, `index`, `block 3`.
        part: String,
        /// What was expected and what came.
        problem: String,
    },
    /// A packed file or a history of another version of this program.
    #[error(
        "{} has format version {got}, this program reads version {expected}; \
         import the data again with this program, or read it with the one that wrote it",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The version that this program reads.
        expected: u32,
        /// The version of the file.
        got: u32,
    },
    /// Rows that do not fit the columns of the file they are written to.
    #[error("cannot write rows to {}: {problem}", path.display())]
    Rows {
        /// The file.
        path: PathBuf,
        /// What was expected and what came.
        problem: String,
    },
    /// A `dataset.json` that is not JSON of the expected form.
    #[error("{} is not a dataset description; see docs/formats/dataset.md for its fields", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// A dataset that contradicts itself or its files.
    #[error("dataset {}: {problem}", path.display())]
    Dataset {
        /// The folder.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A column that is needed and not there, or cannot be used so.
    #[error("{}, column `{column}`: {problem}", path.display())]
    Column {
        /// The file or folder.
        path: PathBuf,
        /// The column's name.
        column: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Settings that cannot work.
    #[error("{what}: {problem}")]
    Settings {
        /// Which setting.
        what: &'static str,
        /// What was expected and what came.
        problem: String,
    },
    /// A thread that makes batches ended without a result.
    #[error(
        "a reader thread panicked while making batches; this is a bug, its message is on standard error"
    )]
    Thread,
    /// Rows that the encoder refuses.
    #[error("cannot encode the rows of step {step} of epoch {epoch}")]
    Encode {
        /// The epoch of the batch.
        epoch: u64,
        /// The step of the batch in its epoch.
        step: u64,
        /// The encoder's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    pub(super) fn corrupt(
        path: &Path,
        part: impl Into<String>,
        problem: impl Into<String>,
    ) -> Self {
        Self::Corrupt {
            path: path.to_owned(),
            part: part.into(),
            problem: problem.into(),
        }
    }

    pub(super) fn dataset(path: &Path, problem: impl Into<String>) -> Self {
        Self::Dataset {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }

    pub(super) fn column(path: &Path, column: &str, problem: impl Into<String>) -> Self {
        Self::Column {
            path: path.to_owned(),
            column: column.into(),
            problem: problem.into(),
        }
    }

    pub(super) fn settings(what: &'static str, problem: impl Into<String>) -> Self {
        Self::Settings {
            what,
            problem: problem.into(),
        }
    }
}
