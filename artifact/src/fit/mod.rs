//! Fitting: from feature specifications to a feature schema, in one pass over the training split.
//!
//! ```text
//! [FeatureSpec] + [ColumnInfo] ─► Fitter::new (every fault at once)
//!                                    │ observe(&RawBatch) ...
//!                                    ▼
//!                    finish ─► FeatureSchema + Vocabularies
//! ```
//!
//! Only the training split may be observed: whatever else is seen here leaks into the evaluation.

mod dense_fit;
mod fitter;
mod plan;
mod rate_prior;
mod spec_error;
mod table_fit;

pub use fitter::{FitError, Fitter};
pub use spec_error::SpecError;

use crate::input::{ColumnKind, SourceType};

/// A column that a feature may read.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnInfo {
    /// Its name.
    pub name: String,
    /// How its values are held.
    pub kind: ColumnKind,
    /// What its values are where they come from.
    pub source: SourceType,
    /// Their unit.
    pub unit: Option<String>,
    /// Their valid range.
    pub range: Option<[f64; 2]>,
    /// Why no feature may read it, such as that it is known only after the outcome.
    pub usable: Result<(), String>,
}
