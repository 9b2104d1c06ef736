//! Schema and drift: is the data still what the model was trained on?
//!
//! ```text
//! artifact's profile (sketches) ─┐
//! data ─► profile ───────────────┴─► statistics of each input and segment ─► limits ─► report
//! ```

mod chance;
mod compare;
mod limits;
pub mod profile;
mod schema;
mod statistics;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use streamrec_artifact::RawBatchError;
use streamrec_artifact::sketch::SketchError;

use crate::data::Error as DataError;
use crate::data::import::ImportError;

pub use chance::is_chance;
pub use compare::{DriftReport, InputDrift, Level, Statistic, compare};
pub use limits::{DRIFT_VERSION, DriftLimits, Limit, Limits};
pub use schema::schema_problems;
pub use statistics::{BinShares, kolmogorov_p, kolmogorov_smirnov, wasserstein};

/// Profiles that cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum DriftError {
    /// Limits that cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Limits that are wrong.
    #[error("the limits {} cannot be used: {problem}", path.display())]
    Limits {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Limits of what the model does not have.
    #[error("the limits do not fit the model:\n  {problems}")]
    Unknown {
        /// Every name, a line each.
        problems: String,
    },
    /// Profiles of different inputs.
    #[error("the profiles have other inputs: expected {expected}; got {got}")]
    Inputs {
        /// Those of the reference.
        expected: String,
        /// Those of the other.
        got: String,
    },
    /// A profile of version 1.
    #[error(
        "the profile has no sketch of `{input}`: the artifact is of an earlier version; export it again"
    )]
    NoSketch {
        /// The first input without one.
        input: String,
    },
    /// Data that cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Files that cannot be read.
    #[error(transparent)]
    Files(#[from] ImportError),
    /// Data without the model's inputs.
    #[error("the data does not fit the model's inputs")]
    Rows(#[from] RawBatchError),
    /// Parts of a profile of different kinds.
    #[error("profiles of parts do not merge")]
    Parts(#[from] SketchError),
}
