//! The prediction log as tables: segments of servers in, an hour's Parquet files out.

mod columns;
mod compaction;
mod part;

pub use columns::{
    INPUT_PREFIX, MODEL_METADATA, input_array, logged_model, prediction_schema, raw_batch,
};
pub(super) use compaction::receipts;
pub use compaction::{CompactReport, TornSegment, compact};
