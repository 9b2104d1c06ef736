//! Validation: nothing unproven goes live.
//!
//! ```text
//! data ─► expectations ───────┐
//! artifact's profile ─► drift ┼─► people
//! model ─► behaviour ─┐       │
//! models on data ─────┴─► gate ─► verdict.json beside the artifact ─► streamrec-serve --require-verdict
//! ```
//!
//! Never does: train, or change an artifact but for its verdict.

pub mod behaviour;
pub mod drift;
pub mod expectations;
pub mod gate;
pub mod report;

mod artifact_model;
pub(crate) mod normal;

pub use artifact_model::{ArtifactModel, ModelLoadError};
