//! Data: the packed format, dataset folders, and readers that give every rank its batches.
//!
//! ```text
//! generator ─┐
//! importers ─┴─► dataset folder: dataset.json + {train,valid,test}.pack ─► BatchReader ─► Batch
//! ```
//!
//! Packed data holds raw typed values and nothing fitted. The global order of rows is a function of
//! seed and epoch alone; the world never enters it.

mod batch;
mod column;
pub mod counter;
mod dataset;
mod error;
pub mod generator;
pub mod history;
pub mod import;
pub mod in_order;
pub mod order;
mod pack;
mod reader;
mod row_copy;

pub use batch::{Batch, Position};
pub use column::{Column, Role};
pub use dataset::{
    Dataset, DatasetWriter, HeldOutCounts, History, Provenance, SourceFile, Split, SplitFile,
    TimeSpan, TrailingSpec,
};
pub use error::Error;
pub use pack::{
    Block, DEFAULT_BLOCK_ROWS, MAX_BLOCK_ROWS, PackReader, PackSummary, PackWriter, RawValue,
};
pub use reader::{BatchReader, Inputs, ReaderSettings, TrailingBase};
pub use streamrec_artifact::{ColumnKind, RawBatch, RawColumn, SourceType};

/// The outcome of everything that touches data.
pub type Result<T, E = Error> = std::result::Result<T, E>;
