//! Pairwise dot products of a sample's feature vectors (DLRM, <https://arxiv.org/abs/1906.00091>).
//!
//! With the vectors `x[0..features]` of a sample, `y = [x[0], z]`, where `z` holds the dot products
//! `x[i] . x[j]` for `i > j`, the strict lower triangle row by row: pair `(i, j)` is at
//! `i * (i - 1) / 2 + j`. `x[0]` is the vector of the dense features.

mod ahead;
mod backward;
mod forward;

pub use backward::backward;
pub use forward::forward;

/// Samples of one parallel task.
const PANEL_ROWS: usize = 32;

/// Columns of the output for `features` vectors of `dim` floats.
pub fn output_columns(features: usize, dim: usize) -> usize {
    dim + pairs(features)
}

fn pairs(features: usize) -> usize {
    features * features.saturating_sub(1) / 2
}
