//! What is asked of an import, what it tells while it runs, and what it did.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::schema::ImportSchema;
use super::split::SplitSchema;
use crate::data::{DEFAULT_BLOCK_ROWS, Dataset, HeldOutCounts, Split};

/// What to import, and where to.
#[derive(Debug, Clone)]
pub struct ImportSettings {
    /// What the files mean.
    pub schema: ImportSchema,
    /// The folder of the files, or the main file itself; side tables then lie beside it.
    pub input: PathBuf,
    /// The dataset's folder, which must not exist.
    pub output: PathBuf,
    /// Names the dataset; by default the schema does.
    pub name: Option<String>,
    /// In place of the schema's split.
    pub split: Option<SplitSchema>,
    /// In place of what the schema says of the counts of valid and test rows.
    pub held_out_counts: Option<HeldOutCounts>,
    /// The share of lines that may be malformed.
    pub max_malformed: f64,
    /// A dataset's folder whose history the trailing aggregates continue.
    pub history: Option<PathBuf>,
    /// The most bytes of rows in memory while they are put in order. Side tables and trailing
    /// aggregates come on top: they grow with the number of distinct keys.
    pub memory_bytes: usize,
    /// Rows of a block of the packed files.
    pub block_rows: usize,
    /// Set to true, from a signal handler for instance, to stop the import and leave nothing behind.
    pub cancel: Arc<AtomicBool>,
}

impl ImportSettings {
    /// The default share of lines that may be malformed.
    pub const MAX_MALFORMED: f64 = 0.001;
    /// The default of [`ImportSettings::memory_bytes`].
    pub const MEMORY_BYTES: usize = 256 << 20;

    /// Imports `input` as `schema` says into `output`, with every default.
    pub fn new(
        schema: ImportSchema,
        input: impl Into<PathBuf>,
        output: impl Into<PathBuf>,
    ) -> Self {
        Self {
            schema,
            input: input.into(),
            output: output.into(),
            name: None,
            split: None,
            held_out_counts: None,
            max_malformed: Self::MAX_MALFORMED,
            history: None,
            memory_bytes: Self::MEMORY_BYTES,
            block_rows: DEFAULT_BLOCK_ROWS,
            cancel: Arc::default(),
        }
    }
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// What it is doing.
    pub stage: Stage,
    /// Bytes of the source files read so far, as they lie on disk.
    pub bytes_read: u64,
    /// Bytes of all source files.
    pub bytes_total: u64,
    /// Rows read or, in the stage of writing, written so far.
    pub rows: u64,
    /// All rows, once they are known.
    pub rows_total: Option<u64>,
}

/// The two passes of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Parses the files.
    Reading,
    /// Counts, splits and packs the rows in their order.
    Writing,
}

/// What an import did.
#[derive(Debug, Clone)]
pub struct ImportReport {
    /// The dataset it wrote.
    pub dataset: Dataset,
    /// Rows of all splits.
    pub rows: u64,
    /// Lines of all files, malformed ones and side tables included, headers not.
    pub lines: u64,
    /// Lines left out.
    pub malformed: u64,
    /// The first malformed lines with file, line and reason.
    pub first_malformed: Vec<String>,
    /// For each side table, the rows whose key it lacks; their values are missing.
    pub unmatched: Vec<(String, u64)>,
    /// How long it took.
    pub elapsed: Duration,
}

impl FromStr for SplitSchema {
    type Err = String;

    /// `train`, `valid` or `test` (all rows there), `time`, `order`, `key_tail:KEY` or `hash:KEY`;
    /// the last four may end in `:VALID,TEST`, the shares of these splits.
    fn from_str(text: &str) -> Result<Self, String> {
        let help = || {
            format!(
                "expected train, valid, test, time, order, key_tail:KEY or hash:KEY, \
                 the last four with :VALID,TEST if wanted, such as time:0.1,0.1; got `{text}`"
            )
        };
        let shares = |text: Option<&str>| -> Result<(f64, f64), String> {
            let Some(text) = text else {
                return Ok((0.1, 0.1));
            };
            let (valid, test) = text.split_once(',').ok_or_else(help)?;
            Ok((
                valid.parse().map_err(|_| help())?,
                test.parse().map_err(|_| help())?,
            ))
        };
        let (by, rest) = text
            .split_once(':')
            .map_or((text, None), |(by, rest)| (by, Some(rest)));
        let schema = match (by, rest) {
            ("train", None) => Self::All { into: Split::Train },
            ("valid", None) => Self::All { into: Split::Valid },
            ("test" | "all-test", None) => Self::All { into: Split::Test },
            ("time", rest) => shares(rest).map(|(valid, test)| Self::Time { valid, test })?,
            ("order", rest) => shares(rest).map(|(valid, test)| Self::Order { valid, test })?,
            ("key_tail" | "hash", Some(rest)) => {
                let (key, rest) = rest
                    .split_once(':')
                    .map_or((rest, None), |(key, rest)| (key, Some(rest)));
                let (key, (valid, test)) = (key.to_owned(), shares(rest)?);
                if by == "hash" {
                    Self::Hash { key, valid, test }
                } else {
                    Self::KeyTail { key, valid, test }
                }
            }
            _ => return Err(help()),
        };
        let mut errors = Vec::new();
        schema.check(&mut errors);
        if errors.is_empty() {
            Ok(schema)
        } else {
            Err(errors.join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_read_from_options() {
        let read = |text: &str| text.parse::<SplitSchema>();
        assert_eq!(read("test"), Ok(SplitSchema::All { into: Split::Test }));
        assert_eq!(
            read("time"),
            Ok(SplitSchema::Time {
                valid: 0.1,
                test: 0.1
            })
        );
        let tail = SplitSchema::KeyTail {
            key: "user_id".into(),
            valid: 0.0,
            test: 0.2,
        };
        assert_eq!(read("key_tail:user_id:0,0.2"), Ok(tail));
        for text in [
            "",
            "half",
            "time:0.1",
            "time:0.9,0.9",
            "hash",
            "test:0.1,0.1",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
