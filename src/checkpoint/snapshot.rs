//! A rank's share of the training state, copied at one step.

use std::ops::Range;

use serde::Serialize;

use crate::comm::chunk_range;

/// Some rows of one tensor: all columns of `rows`.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorPart {
    /// The tensor's name, unique in the checkpoint.
    pub name: String,
    /// The whole tensor's shape.
    pub shape: Vec<usize>,
    /// Which rows (of the first dim) are here.
    pub rows: Range<usize>,
    /// `[rows, ...]`, row-major.
    pub data: Vec<f32>,
}

impl TensorPart {
    /// Rows of the whole tensor; a scalar is one row.
    fn row_count(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// The name inside a shard: the tensor's own where all rows are there.
    pub(super) fn key(&self) -> String {
        if self.rows == (0..self.row_count()) {
            self.name.clone()
        } else {
            format!("{}[{}:{}]", self.name, self.rows.start, self.rows.end)
        }
    }

    /// The shape of the part.
    pub(super) fn part_shape(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if let Some(first) = shape.first_mut() {
            *first = self.rows.len();
        }
        shape
    }

    /// Values a row.
    pub(super) fn width(&self) -> usize {
        self.shape.iter().skip(1).product()
    }
}

/// One rank's share of every tensor, and the state that all ranks hold alike.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Global step after which it was taken.
    pub step: u64,
    /// Position in the data and the like, as JSON.
    pub state: serde_json::Value,
    /// The rows of this rank.
    pub parts: Vec<TensorPart>,
    /// The validation loss, where this is the best checkpoint so far.
    pub best_loss: Option<f64>,
}

impl Snapshot {
    /// Copies the share of `rank` of `size` from tensors that every rank holds in whole:
    /// `(name, shape, data)`.
    ///
    /// # Errors
    /// When `state` has no JSON form.
    pub fn of_replicated<'a>(
        step: u64,
        state: &impl Serialize,
        tensors: impl Iterator<Item = (String, Vec<usize>, &'a [f32])>,
        rank: usize,
        size: usize,
    ) -> Result<Self, serde_json::Error> {
        let part = |(name, shape, data): (String, Vec<usize>, &[f32])| {
            let count = shape.first().copied().unwrap_or(1);
            let rows = chunk_range(count, rank, size);
            let width = data.len().checked_div(count).unwrap_or(0);
            let data = data[rows.start * width..rows.end * width].to_vec();
            TensorPart {
                name,
                shape,
                rows,
                data,
            }
        };
        Ok(Self {
            step,
            state: serde_json::to_value(state)?,
            parts: tensors.map(part).collect(),
            best_loss: None,
        })
    }

    /// Marks it as the best checkpoint so far.
    pub fn with_best_loss(mut self, loss: f64) -> Self {
        self.best_loss = Some(loss);
        self
    }
}
