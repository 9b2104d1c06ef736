//! The step on a device: a GPU, or the emulation in tests.
//!
//! ```text
//! host     batch n ─┐           batch n + 1 ─┐                 loss, verdict, probabilities
//! copies            └─► slot 0               └─► slot 1                ▲
//! work              begin ▸ forward ▸ loss ▸ backward ▸ verdict ▸ updates   (recorded, replayed)
//! ```
//!
//! The first step asks for its work piece by piece, so that kernels are compiled and products chosen; later
//! ones are recorded once for each slot and replayed. What changes from step to step lies in device memory:
//! the batch, the learning rates, the loss scale, the verdict. An overflow is part of the same work: updates
//! look at the verdict, and nobody asks the host.

mod slots;
mod step;
mod trainer;

pub use trainer::DeviceTrainer;

#[cfg(test)]
mod tests;
