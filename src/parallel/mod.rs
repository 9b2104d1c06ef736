//! Data parallelism: how the gradients of all ranks become one.
//!
//! ```text
//! backward ─► GradientBuckets ─► all-reduce in flight, bucket by bucket ─► dense update
//!          └► SparseSync ─► (row, gradient) of all ranks, merged by row ─► table update
//! ```
//!
//! Every gradient is already divided by the weight of the global batch, so ranks only add. Dense
//! parameters and replicated tables stay identical on all ranks, to the bit: each rank adds the
//! same numbers in rank order. The module never updates a weight.

mod buckets;
mod sparse_sync;

pub use buckets::GradientBuckets;
pub use sparse_sync::SparseSync;
