//! The network on a device: the same graph, plan and parameters, as launches and products.
//!
//! ```text
//! InputSlot ─► DeviceNetwork: forward ▸ (loss) ▸ backward ─► gradients of DeviceWeights
//!   batch        layers, values, gradients of values      └► TableRounds: gradients of pooled vectors
//! ```
//!
//! Everything is written against an [`Executor`](streamrec_kernels::cuda::Executor): a GPU, or the
//! emulation in tests. All memory is taken when the network is made; a pass only asks for work, so that
//! it can be recorded. Places and writes of gradients are those of the CPU's plan, and so are the types:
//! values and their gradients in the compute type, logits and all gradients of parameters float32. Layers that a
//! tensor-parallel group shares exchange inside their passes, as on the CPU.

mod cross;
mod gradient_sink;
mod group;
mod input;
mod layer;
mod linear;
mod memory;
mod network;
mod pass;
mod remote;
mod requested_rows;
mod shards;
mod source;
mod table_rounds;
mod weights;
mod wire;

pub use gradient_sink::DeviceGradientSink;
pub use input::{DeviceInput, HostInput, InputLayout, InputSlot, RemoteInput, RemoteRoom};
pub use memory::{download_floats, upload_floats};
pub use network::DeviceNetwork;
pub use requested_rows::{RowBlock, RowRequest, RowShards, RowTable};
pub use shards::{ShardPart, Shards, share};
pub use source::DeviceSource;
pub use table_rounds::{TableRound, TableRounds};
pub use weights::DeviceWeights;
