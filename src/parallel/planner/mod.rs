//! Chooses where embedding tables lie, and estimates a step, from what it asks and what ranks can do.
//!
//! ```text
//! TableLoad  what a table is asked for: rows, ids a sample, distinct rows of a batch
//! DenseLoad  what the layers are: float operations, gradients, sums inside shared layers
//! Machine    ranks, memory, Rates of a rank, lines of collectives; measured, or of a datasheet
//!    ├► Cost of each placement: bytes held, looked up, updated and sent, on each rank
//!    │     └► Planner: largest table first, then each again, the least time of the busiest rank that fits
//!    └► StepEstimate: what a step takes, part by part
//! ```
//!
//! Never does: train a job, or look at data.

mod choice;
mod collectives;
mod cost;
mod dense;
mod load;
mod machine;
mod measured;
mod rates;
mod step;

pub use choice::{Choice, PlanError, Planner, totals};
pub use collectives::{Collectives, Line, Link};
pub use cost::{BatchSplit, Cost};
pub use dense::DenseLoad;
pub use load::{Distinct, TableLoad};
pub use machine::{Gpu, Machine, OperationTimes};
pub use rates::{Rates, RowRate, RowWork};
pub use step::StepEstimate;
