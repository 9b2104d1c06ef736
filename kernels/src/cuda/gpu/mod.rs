//! A GPU: what runs launches and products of a step.
//!
//! ```text
//! Gpu          one device's context, shared by its streams; compiles and holds the kernels
//! GpuExecutor  one stream with memory and a product library of its own
//! Graph        a step recorded on a stream
//! Pinned       host memory that copies run from and to beside other work; in a Copying meanwhile
//! Feed         pinned memory with a stream of its own, for the batch ahead
//! Reply        pinned memory that what a step found comes to
//! Nccl         the GPUs of all ranks: collectives on a stream of their own
//! Event        a mark in a stream that another stream, or the host, waits for
//! ```
//!
//! No GPU has run this yet: training steps run over the emulation in tests, through the same trait.

mod context;
mod event;
mod executor;
mod feed;
mod graph;
mod memory;
mod modules;
mod nccl;
mod pinned;
mod products;
mod ranks;
mod reply;
mod stream;
mod times;

pub use context::Gpu;
pub use event::Event;
pub use executor::GpuExecutor;
pub use feed::Feed;
pub use graph::Graph;
#[doc(hidden)]
pub use nccl::DECLARATIONS as NCCL_DECLARATIONS;
pub use nccl::Nccl;
pub use pinned::{Copying, Pinned};
pub use reply::Reply;
pub use stream::Stream;

use super::executor::DeviceError;
use cudarc::driver::result::DriverError;

/// Names the call that a failure belongs to.
fn failed(call: &'static str) -> impl FnOnce(DriverError) -> DeviceError {
    move |error| DeviceError::Driver {
        call,
        message: error.to_string(),
    }
}
