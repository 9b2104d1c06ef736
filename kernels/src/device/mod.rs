//! Where tensors live and operations run.

mod affinity;
mod context;
mod disjoint;
mod scratch;

pub use context::Context;
pub(crate) use disjoint::DisjointMut;
pub(crate) use scratch::Scratch;

/// Where a tensor lives and its operations run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// The host's processors and memory.
    Cpu,
}
