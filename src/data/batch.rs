//! A batch: what one rank sees of a global batch.

use streamrec_artifact::{Encoded, RawBatch};

/// Where a global batch stands in a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The epoch, from 0.
    pub epoch: u64,
    /// The step in the epoch, from 0.
    pub step: u64,
}

/// One rank's rows of a global batch, padded to a constant number.
///
/// Padding rows have weight 0, label 0, dense values 0 and empty bags.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// The number of rows, padding included: equal for all batches and all ranks.
    pub rows: usize,
    /// How many of the rows are not padding; they come first.
    pub filled: usize,
    /// The raw inputs of the filled rows.
    pub raw: RawBatch,
    /// The model's inputs, `[rows]`; without rows where the reader does not encode.
    pub encoded: Encoded,
    /// Labels, `[rows, labels]`.
    pub labels: Vec<f32>,
    /// Weights, `[rows]`; 1 where the reader has no weight column.
    pub weights: Vec<f32>,
    /// The sum of the weights of the GLOBAL batch, equal on all ranks.
    pub weight_sum: f64,
    /// The values of the group column, `[rows]`; empty where the reader has none.
    pub groups: Vec<u64>,
    /// The values of the truth columns, `[rows, truths]`.
    pub truth: Vec<f32>,
    /// Where the global batch stands in the run.
    pub position: Position,
    /// The place in the epoch's global order of this rank's first row.
    pub first_row: u64,
}
