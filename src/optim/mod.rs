//! Optimisers: how parameters follow their gradients.
//!
//! ```text
//! step ─► Schedule ─► learning rates ─┬─► DenseOptimizer: clip, then one pass over each bucket
//!             groups: scales, decay ──┴─► SparseOptimizer: each touched row of a table once
//! ```
//!
//! The formulas are those of [`streamrec_kernels`]; here it is decided which parameter gets which.
//! Weights and optimiser state are float32 and named for checkpoints.

mod dense;
pub mod device;
mod error;
mod groups;
mod loss_scaler;
mod optimizer;
mod schedule;
mod sparse;

pub use dense::DenseOptimizer;
pub use error::OptimError;
pub use loss_scaler::{LossScaler, LossScalerState};
pub use optimizer::Optimizer;
pub use schedule::Schedule;
pub use sparse::SparseOptimizer;

#[cfg(test)]
mod tests;
