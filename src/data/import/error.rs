//! What goes wrong with an import: which file, where in it, and what to do next.

use std::io;
use std::path::{Path, PathBuf};

/// An import that could not be done. Nothing half-written is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A schema that contradicts itself.
    #[error("the import schema {place} has {} to fix:\n  - {}", count(errors.len()), errors.join("\n  - "))]
    Schema {
        /// The schema's file or name.
        place: String,
        /// One line a fault.
        errors: Vec<String>,
    },
    /// An importer that does not exist.
    #[error("no importer is called `{name}`; expected one of {}, or a schema file of your own", known.join(", "))]
    UnknownFormat {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<&'static str>,
    },
    /// Files that the schema names and the input lacks.
    #[error(
        "no file of {} matches {}; expected the files as their authors publish them, plain, .gz or .zst; \
         give the folder that holds them, or name them in the schema",
        input.display(), patterns.join(" or ")
    )]
    NoFiles {
        /// The input folder or file.
        input: PathBuf,
        /// The patterns that were tried.
        patterns: Vec<String>,
    },
    /// The same file twice, plain and compressed.
    #[error("{} and {} are the same file twice; remove one, so that no row counts double", first.display(), second.display())]
    SameFileTwice {
        /// One of the two.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried: `open`, `read`, `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A source file that ends early or cannot be decompressed.
    #[error("{} is damaged after line {line}; it was cut short or changed on its way: fetch it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The last whole line, counted from 1.
        line: u64,
        /// The decompressor's reason.
        source: io::Error,
    },
    /// Fields that the schema reads and the file lacks.
    #[error("{} has no field {}; {}: correct the schema or the file", path.display(), missing.join(", "), fields(found))]
    Fields {
        /// The file.
        path: PathBuf,
        /// The fields it lacks.
        missing: Vec<String>,
        /// The fields it has.
        found: Vec<String>,
    },
    /// Fields whose Parquet type cannot be read as the schema says.
    #[error("{}, column `{field}`: cannot read Parquet type {found} as {expected}; write the column with such a type", path.display())]
    FieldType {
        /// The file.
        path: PathBuf,
        /// The column.
        field: String,
        /// The type in the file.
        found: String,
        /// What the schema says.
        expected: String,
    },
    /// A text for a missing value where only a null can be missing.
    #[error(
        "{}, column `{field}`: no text stands for a missing Parquet list, which is null there; \
         leave `null` out of this column of the schema",
        path.display()
    )]
    NullOfList {
        /// The file.
        path: PathBuf,
        /// The column.
        field: String,
    },
    /// Files of one source whose headers differ from the first file's.
    #[error("{} has other fields than {}; import them one by one, each with its schema", path.display(), first.display())]
    DifferentFields {
        /// The file that differs.
        path: PathBuf,
        /// The first file.
        first: PathBuf,
    },
    /// A Parquet file that cannot be read.
    #[error(
        "cannot read {} as Parquet: it was cut short or changed on its way, or is of another format; write or fetch it again",
        path.display()
    )]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The reader's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A value that is not what an input of the model takes.
    #[error("{}, row {row}, column `{column}`: {got} {problem}; the model takes {expected} here: correct the file", path.display())]
    InputValue {
        /// The file.
        path: PathBuf,
        /// The line of a text file, the row of a Parquet file, from 1.
        row: u64,
        /// The column.
        column: String,
        /// What is wrong with it.
        problem: Box<str>,
        /// What the model takes.
        expected: Box<str>,
        /// What came.
        got: String,
    },
    /// A line that is no row, where every row is needed.
    #[error("{}, line {line}: {problem}; correct the file: every row of it gets a score", path.display())]
    InputLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// More malformed lines than allowed.
    #[error(
        "{malformed} of {lines} lines are malformed, more than the allowed share of {allowed}; the first:\n  {}\n\
         correct the schema or the files, or allow more with --max-malformed",
        first.join("\n  ")
    )]
    TooManyMalformed {
        /// The malformed lines.
        malformed: u64,
        /// All lines so far.
        lines: u64,
        /// The allowed share.
        allowed: f64,
        /// The first of them, with file, line and reason.
        first: Vec<String>,
    },
    /// No rows at all.
    #[error("{} holds no rows; a dataset needs at least one", input.display())]
    Empty {
        /// The input folder or file.
        input: PathBuf,
    },
    /// The disk is full.
    #[error(
        "the disk that holds {} is full: {available_bytes} bytes are free, about {needed_bytes} more are needed; \
         free some, or write the dataset elsewhere",
        path.display()
    )]
    NoSpace {
        /// What was being written.
        path: PathBuf,
        /// Free bytes after the import was removed.
        available_bytes: u64,
        /// An estimate from the rows so far.
        needed_bytes: u64,
        /// The refused write.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Rows that are not later than the history they continue.
    #[error(
        "the data begins at {first_ms} ms, the history of {} ends at {last_ms} ms; \
         rows would see their own future: import only rows later than the history",
        path.display()
    )]
    NotLater {
        /// The history's folder.
        path: PathBuf,
        /// The first time of the data.
        first_ms: i64,
        /// The last time of the history.
        last_ms: i64,
    },
    /// A history for a schema that counts nothing.
    #[error(
        "the history of {} cannot be continued: the schema {schema} has no trailing aggregates; \
         leave out --history, or add [[trailing]] to the schema",
        history.display()
    )]
    NothingToContinue {
        /// The history's folder.
        history: PathBuf,
        /// The schema's name.
        schema: String,
    },
    /// A thread of the import ended without a result.
    #[error("an import thread panicked; this is a bug, its message is on standard error")]
    Thread,
    /// The import was asked to stop.
    #[error("the import was interrupted; nothing was written")]
    Cancelled,
    /// Packing or describing the data failed.
    #[error("the dataset could not be written")]
    Data(#[source] crate::data::Error),
}

impl ImportError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether a full disk is the cause.
    pub(super) fn is_disk_full(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<io::Error>()
                && matches!(
                    io.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                )
            {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

impl From<crate::data::Error> for ImportError {
    fn from(error: crate::data::Error) -> Self {
        Self::Data(error)
    }
}

fn fields(found: &[String]) -> String {
    if found.is_empty() {
        "it is empty".into()
    } else {
        format!("its fields are {}", found.join(", "))
    }
}

fn count(errors: usize) -> String {
    if errors == 1 {
        "one thing".into()
    } else {
        format!("{errors} things")
    }
}
