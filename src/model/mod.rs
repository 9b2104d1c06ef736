//! Models: a static graph, its parameters, and how both are computed.
//!
//! ```text
//! config or own code ─► Graph ─► ParameterStore        Network (plan, layers, buffers)
//!   models, GraphBuilder            weights, gradients    forward ▸ Loss ▸ backward ▸ GradientSink
//! ```
//!
//! There is no tape: each layer has a hand-derived backward pass, and buffers are
//! planned once. The module never updates a weight, and communicates only inside the
//! layers that a tensor-parallel group shares ([`TensorParallel`]): gradients are announced to a
//! [`GradientSink`] and left for the optimiser.

pub mod device;
pub mod models;

mod batch_input;
mod error;
mod graph_builder;
mod layers;
mod loss;
mod micro_batch;
mod network;
mod parameters;
mod plan;
mod planned_buffer;
mod remote_lookup;
mod table_gradients;
mod tensor_parallel;

pub use batch_input::BatchInput;
pub use error::ModelError;
pub use graph_builder::{GraphBuilder, Value};
pub use loss::Loss;
pub use micro_batch::MicroBatch;
pub use network::{GradientSink, KeepGradients, Network};
pub use parameters::{
    BucketSettings, Extent, Gradients, NamedSlice, NamedSliceMut, ParamId, ParameterBuilder,
    ParameterLayout, ParameterStore, Placed, Table, TableId, Weights, dtype,
};
pub use remote_lookup::RemoteLookup;
pub use table_gradients::{BagGradient, SumScratch, TableGradients};
pub use tensor_parallel::TensorParallel;

#[cfg(test)]
pub(crate) mod tests;
