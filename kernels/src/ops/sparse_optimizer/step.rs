//! What an update of a table takes besides its rule and gradient.

use super::Rounding;

/// The numbers of one update of a table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SparseStep {
    /// The learning rate.
    pub learning_rate: f32,
    /// Counts the updates from 1.
    pub number: u64,
    /// How rows are rounded, where the table is in half precision.
    pub rounding: Rounding,
}

impl SparseStep {
    /// Of a table in float32.
    pub fn new(learning_rate: f32, number: u64) -> Self {
        Self {
            learning_rate,
            number,
            rounding: Rounding::default(),
        }
    }

    /// Of a table in any type.
    #[must_use]
    pub fn rounded(mut self, rounding: Rounding) -> Self {
        self.rounding = rounding;
        self
    }
}
