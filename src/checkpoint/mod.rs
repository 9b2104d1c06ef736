//! Checkpoints, version 1: sharded, atomic, readable by slice (docs/formats/checkpoint.md).
//!
//! ```text
//! checkpoints/step-000000001200/
//!     rank-0-of-2.safetensors     what rank 0 alone holds, and its share of what others hold too
//!     rank-1-of-2.safetensors     likewise
//!     index.json                  renamed into place last: without it there is no checkpoint
//! checkpoints/best.json           the step of the best evaluation
//! ```
//!
//! 1. The step copies its tensors ([`Snapshot`]); training goes on.
//! 2. A thread of each rank writes and fsyncs its shard, and all ranks tell each other how it went.
//! 3. Rank 0 renames the index into place, then removes checkpoints that the rule no longer keeps.
//!
//! Never does: know what a tensor means, or write in place.

mod error;
mod folder;
mod index;
mod load;
mod saver;
mod shard;
mod snapshot;

pub use error::CheckpointError;
pub use folder::{Best, CheckpointFolder};
pub use index::{Index, IndexedTensor, Slice};
pub use load::Checkpoint;
pub use saver::{Saver, Tick};
pub use snapshot::{Snapshot, TensorPart};

#[cfg(test)]
mod tests;
