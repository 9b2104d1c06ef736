//! The command line of `streamrec score`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::run::cli::SplitName;

/// Arguments of `score`.
#[derive(Debug, Args)]
pub struct ScoreArgs {
    /// The artifact's or the run's folder.
    pub model: PathBuf,
    /// Parquet or delimited text (plain, .gz or .zst), folders of such files, or one packed dataset.
    #[arg(required = true)]
    pub input: Vec<PathBuf>,
    /// The Parquet file of scores.
    #[arg(long)]
    pub out: PathBuf,
    /// Columns of the input to keep beside the scores; may be given several times.
    #[arg(long, value_delimiter = ',')]
    pub key: Vec<String>,
    /// What the files are, where their names do not tell.
    #[arg(long, value_enum)]
    pub format: Option<ScoreFormat>,
    /// The split of a packed dataset; all of it where unset.
    #[arg(long, value_enum)]
    pub split: Option<SplitName>,
    /// What parts two fields of text; a tab for .tsv, else a comma.
    #[arg(long)]
    pub delimiter: Option<String>,
    /// A text that stands for a missing value, beside the empty one; may be given several times.
    #[arg(long)]
    pub null: Vec<String>,
    /// What parts the elements of a list in text.
    #[arg(long, default_value = ",")]
    pub list_separator: String,
    /// The checkpoint of this step of a run instead of the best one.
    #[arg(long)]
    pub step: Option<u64>,
    /// Rows scored together.
    #[arg(long, default_value = "1024")]
    pub batch: NonZeroUsize,
    /// Threads that score; all cores where unset.
    #[arg(long)]
    pub threads: Option<NonZeroUsize>,
    /// Replace the file if it exists.
    #[arg(long)]
    pub overwrite: bool,
}

/// What rows to score lie in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScoreFormat {
    /// Apache Parquet.
    Parquet,
    /// Delimited text with a header.
    Csv,
    /// A dataset of `streamrec data import` or `generate`.
    Packed,
}
