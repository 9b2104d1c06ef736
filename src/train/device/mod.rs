//! The step on a device: a GPU, or the emulation in tests.
//!
//! ```text
//! packing  batch n ─┐                batch n + 1 ─┐
//! host              │     ask for n               │        loss, verdict, probabilities of n - 1
//! copies            └─► slot 0                    └─► slot 1            ▲
//! work              begin ▸ forward ▸ loss ▸ backward ▸ verdict ▸ updates   (recorded, replayed)
//! ```
//!
//! The first step asks for its work piece by piece, so that kernels are compiled and products chosen; later
//! ones are recorded once for each slot and replayed. What changes from step to step lies in device memory:
//! the batch, the learning rates, the loss scale, the verdict. An overflow is part of the same work: updates
//! look at the verdict, and nobody asks the host.
//!
//! The host asks for a step before the next batch is packed, which another thread does (ADR 59), and reads what became of the
//! step before (ADR 52).
//!
//! With several ranks, each of which has a device, the same step holds what they exchange:
//!
//! ```text
//! work         loss ▸ backward, to the embeddings ▸ sums of rows ▸ backward, the rest ▸ merged rows ▸ verdict ▸ updates
//! collectives    └► loss       └► buckets ...                  └► rows, overflow  └► buckets ...
//! host         arrive (step, stop, ids) ▸ ask for all of it ▸ leave
//! ```
//!
//! With `parallel.reduction = "invariant"` its micro-batches are micro-shards, the same ones on any number of ranks, and sums
//! are taken in their order (ADR 50).
//!
//! Layers that a tensor-parallel group shares exchange inside forward and backward, as on the CPU (ADR 47).
//!
//! Collectives run in this order on a stream of their own; what the host's ranks tell one another (ADR 44) finds the
//! rank that is gone, which the others' devices would wait for.

mod build;
mod difference;
mod outcomes;
mod owned_lookups;
mod packing;
mod predictions;
mod roll_call;
mod self_check;
mod slots;
mod step;
mod trainer;
mod waiting;

pub use difference::Difference;
pub use self_check::{SelfCheck, SelfCheckError};
pub use trainer::DeviceTrainer;

#[cfg(test)]
mod tests;
