//! Packed files: typed columns in checksummed blocks, read by position.
//!
//! ```text
//! header 64 B │ column directory │ block 0 │ block 1 │ … │ block index
//! ```
//!
//! Bytes and limits are specified in `docs/formats/packed.md`. No length is believed before it is
//! bounded, and no file is mapped into memory: a file cut short is an error, not a signal.

mod block;
mod format;
mod reader;
mod writer;

pub use block::{Block, RawValue};
pub use format::{DEFAULT_BLOCK_ROWS, MAX_BLOCK_ROWS};
pub use reader::PackReader;
pub(super) use writer::sync_folder;
pub use writer::{PackSummary, PackWriter};

#[cfg(test)]
mod tests;
