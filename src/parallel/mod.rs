//! How ranks share the work: the mesh of ranks, the layers that a tensor-parallel group shares, and how
//! the gradients of all ranks become one.
//!
//! ```text
//! Mesh        world = dp x tp
//! TensorPlan  which layers a tp group shares, and how; the layers exchange what that needs
//! TablePlan   which rank holds which rows and columns of each embedding table
//!
//! backward ─► GradientBuckets ─► all-reduce in flight, bucket by bucket ─► dense update
//!          ├► SparseSync ─► (row, gradient) of all ranks, merged by row ─► replicated tables
//!          └► EmbeddingExchange ─► gradients to the owners of rows and columns ─► sharded tables
//! ```
//!
//! On a device it is DeviceBuckets for dense gradients; those of tables are exchanged where they are summed,
//! in `optim::device`.
//!
//! Every gradient is already divided by the weight of the global batch, so ranks only add. Dense
//! parameters and replicated tables stay identical, to the bit, on all ranks that hold them: each adds
//! the same numbers in rank order. The module never updates a weight.

mod buckets;
mod device_buckets;
mod embedding_exchange;
mod mesh;
mod micro_shards;
pub mod planner;
mod row_sum;
mod sparse_sync;
mod table_plan;
mod tensor_plan;

pub use buckets::GradientBuckets;
pub use device_buckets::{DeviceBuckets, DeviceBucketsPass, KeepDeviceGradients};
pub use embedding_exchange::{
    DeviceLookups, EmbeddingExchange, HostBags, OwnedBags, PendingGradients, PendingIds,
    PendingVectors,
};
pub use mesh::{Mesh, MeshError};
pub use micro_shards::{GradientTree, InvariantRanksError, MICRO_SHARDS, MicroShards};
pub use sparse_sync::SparseSync;
pub use table_plan::{PlacementError, PlannedTable, TablePlan};
pub use tensor_plan::TensorPlan;
