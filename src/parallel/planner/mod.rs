//! Chooses where embedding tables lie, from what they cost.
//!
//! ```text
//! TableLoad  what a table is asked for: rows, ids a sample, distinct rows of a batch
//! Machine    ranks, memory, bandwidths
//!    └► Cost of each placement: bytes held, read and sent, on each rank
//!          └► Planner: largest table first, then each again, the least time of the busiest rank that fits
//! ```
//!
//! Estimates are of bytes over bandwidths: they compare placements, and tell what will not fit. Never
//! does: measure a job, or look at data.

mod choice;
mod cost;
mod load;
mod machine;

pub use choice::{Choice, PlanError, Planner};
pub use cost::Cost;
pub use load::{Distinct, TableLoad};
pub use machine::Machine;
