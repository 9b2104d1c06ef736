//! Why something could not be monitored.

use std::io;
use std::path::{Path, PathBuf};

use arrow::error::ArrowError;
use parquet::errors::ParquetError;

/// A file or a folder of monitoring that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MonitoringError {
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A table is not what it should be.
    #[error("{}: {problem}", path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was expected.
        problem: String,
    },
    /// Rules or settings are wrong.
    #[error("{problem}")]
    Settings {
        /// Everything that is wrong, a line each.
        problem: String,
    },
    /// Another command writes there.
    #[error("another command is writing {}; wait until it is done", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
}

impl MonitoringError {
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }

    pub(super) fn table(path: &Path, problem: impl Into<String>) -> Self {
        Self::Table {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }

    pub(super) fn arrow(path: &Path) -> impl Fn(ArrowError) -> Self {
        move |error| Self::table(path, error.to_string())
    }

    pub(super) fn parquet(path: &Path) -> impl Fn(ParquetError) -> Self {
        move |error| Self::table(path, error.to_string())
    }
}

/// An error with its causes in one line.
pub(super) fn chain(error: &MonitoringError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
