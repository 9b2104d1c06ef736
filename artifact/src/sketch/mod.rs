//! Sketches: what a distribution looks like in a few kilobytes, however many values it has.
//!
//! ```text
//! rows of one rank, hour or segment ─► sketch ─┐
//! rows of another ──────────────────► sketch ──┴─ merge ─► the sketch of both
//! ```
//!
//! Each is mergeable: merging sketches of parts keeps the error bound of a sketch of the whole. None
//! draws from the machine: equal values in equal order give equal sketches. JSON of one is checked as it is
//! read, so that a sketch of a hostile file is refused and never trusted.

mod ascending;
mod cardinality;
mod frequent_keys;
mod quantiles;

pub use ascending::Number;
pub use cardinality::{CardinalitySketch, DEFAULT_PRECISION};
pub use frequent_keys::{DEFAULT_COUNTERS, FrequentKey, FrequentKeys};
pub use quantiles::{DEFAULT_ACCURACY, QuantileSketch};

/// A sketch that contradicts itself, or two that cannot be merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {sketch} sketch: {field}: expected {expected}, got {got}")]
pub struct SketchError {
    /// Which sketch.
    pub sketch: &'static str,
    /// What of it.
    pub field: &'static str,
    /// What was expected.
    pub expected: String,
    /// What came.
    pub got: String,
}

impl SketchError {
    pub(crate) fn new(
        sketch: &'static str,
        field: &'static str,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> Self {
        Self {
            sketch,
            field,
            expected: expected.into(),
            got: got.to_string(),
        }
    }
}

/// The counts of two sketches together.
fn sum(sketch: &'static str, a: u64, b: u64) -> Result<u64, SketchError> {
    a.checked_add(b).ok_or_else(|| {
        let expected = format!("at most {}", u64::MAX);
        SketchError::new(sketch, "count", expected, format!("{a} + {b}"))
    })
}
