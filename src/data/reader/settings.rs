//! What a batch reader reads, and how.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use streamrec_artifact::Encoder;

use crate::data::history::TrailingHistory;
use crate::data::order::OrderSettings;
use crate::data::{Error, Result, TrailingSpec};

/// The inputs of a batch.
#[derive(Clone)]
pub enum Inputs {
    /// The raw values of these columns, not encoded.
    Raw(Vec<String>),
    /// The inputs of the encoder's schema, encoded.
    Encoded(Arc<Encoder>),
}

impl fmt::Debug for Inputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl Inputs {
    /// The names of the input columns, in order.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::Raw(names) => names.iter().map(String::as_str).collect(),
            Self::Encoded(encoder) => encoder
                .schema()
                .inputs
                .iter()
                .map(|input| input.name.as_str())
                .collect(),
        }
    }
}

/// Counts of earlier data that the trailing columns of this data do not hold yet.
#[derive(Debug, Clone)]
pub struct TrailingBase {
    /// The counts at the end of the earlier data.
    pub history: Arc<TrailingHistory>,
    /// The trailing columns of the data that is read; those among the inputs are added to.
    pub columns: Vec<TrailingSpec>,
    /// Whether these counts take the place of the data's own, as those of a service do whose counts
    /// were made before; else the data's own go on from them.
    pub frozen: bool,
}

/// What a [`BatchReader`](super::BatchReader) reads, and how.
#[derive(Debug, Clone)]
pub struct ReaderSettings {
    /// Packed files of the same columns, read as one.
    pub files: Vec<PathBuf>,
    /// What the model sees.
    pub inputs: Inputs,
    /// Label columns, one head each.
    pub labels: Vec<String>,
    /// A column of weights; every row weighs 1 without one.
    pub weight: Option<String>,
    /// A key column for grouped metrics.
    pub group: Option<String>,
    /// Columns of true probabilities.
    pub truth: Vec<String>,
    /// The rows of a global batch.
    pub global_batch: usize,
    /// Which of the data-parallel ranks this is.
    pub dp_index: usize,
    /// How many data-parallel ranks there are.
    pub dp_size: usize,
    /// Decides the order, together with the epoch.
    pub seed: u64,
    /// Rows come in the order of the files where this is false.
    pub shuffle: bool,
    /// Rows are shuffled inside windows of this many blocks; two to three windows are in memory.
    pub window_blocks: usize,
    /// Batches made ahead of `next()`.
    pub prefetch: usize,
    /// Threads that gather and encode; one more reads.
    pub threads: usize,
    /// Counts to add to trailing columns.
    pub base: Option<TrailingBase>,
    /// Leaves out the last global batch of an epoch where it is not full.
    pub drop_last: bool,
}

impl ReaderSettings {
    /// One rank, shuffled, in windows of 64 blocks, 4 batches ahead, on one thread beside the reading
    /// one; the last batch is kept.
    pub fn new(
        files: Vec<PathBuf>,
        inputs: Inputs,
        labels: Vec<String>,
        global_batch: usize,
    ) -> Self {
        Self {
            files,
            inputs,
            labels,
            weight: None,
            group: None,
            truth: Vec::new(),
            global_batch,
            dp_index: 0,
            dp_size: 1,
            seed: 0,
            shuffle: true,
            window_blocks: 64,
            prefetch: 4,
            threads: 1,
            base: None,
            drop_last: false,
        }
    }

    pub(super) fn order(&self) -> OrderSettings {
        OrderSettings {
            seed: self.seed,
            shuffle: self.shuffle,
            window_blocks: self.window_blocks,
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let at_least_one = [
            ("global_batch", self.global_batch),
            ("dp_size", self.dp_size),
            ("window_blocks", self.window_blocks),
            ("prefetch", self.prefetch),
            ("threads", self.threads),
            ("files", self.files.len()),
        ];
        for (what, got) in at_least_one {
            if got == 0 {
                return Err(Error::settings(what, "expected at least 1, got 0"));
            }
        }
        if self.dp_index >= self.dp_size {
            let problem = format!(
                "expected less than dp_size {}, got {}",
                self.dp_size, self.dp_index
            );
            return Err(Error::settings("dp_index", problem));
        }
        if self.global_batch < self.dp_size {
            let problem = format!(
                "expected a row for each of the {} ranks at least, got {}",
                self.dp_size, self.global_batch
            );
            return Err(Error::settings("global_batch", problem));
        }
        Ok(())
    }
}
