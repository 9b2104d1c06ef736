//! A rank's share of the training state, copied at one step.

use serde::Serialize;
use streamrec_kernels::DType;

use crate::comm::chunk_range;
use crate::model::{Extent, NamedSlice};

/// A part of one tensor that one rank writes: what no other rank does.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorPart {
    /// The tensor's name, unique in the checkpoint.
    pub name: String,
    /// Which part is here.
    pub extent: Extent,
    /// The type of its elements.
    pub dtype: DType,
    /// The part's elements, row-major.
    pub bytes: Vec<u8>,
}

impl TensorPart {
    /// Of a part that several ranks hold, each writes some rows.
    fn of(slice: NamedSlice<'_>) -> Self {
        let NamedSlice {
            name,
            mut extent,
            values,
        } = slice;
        let first = extent.rows.start;
        let rows = chunk_range(extent.rows.len(), extent.replica, extent.replicas);
        extent.rows = first + rows.start..first + rows.end;
        // Some rows of what is contiguous are.
        let bytes = values.rows(rows).bytes().unwrap_or_default();
        Self {
            name,
            extent: extent.replicated(0, 1),
            dtype: values.dtype(),
            bytes: bytes.to_vec(),
        }
    }

    /// The name inside a shard: the tensor's own where all of it is there.
    pub(super) fn key(&self) -> String {
        let Extent { rows, columns, .. } = &self.extent;
        if self.extent.is_whole() {
            self.name.clone()
        } else if columns.len() == self.extent.width() {
            format!("{}[{}:{}]", self.name, rows.start, rows.end)
        } else {
            let (rows, columns) = ((rows.start, rows.end), (columns.start, columns.end));
            format!(
                "{}[{}:{},{}:{}]",
                self.name, rows.0, rows.1, columns.0, columns.1
            )
        }
    }
}

/// One rank's share of every tensor, and the state that all ranks hold alike.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Global step after which it was taken.
    pub step: u64,
    /// Position in the data and the like, as JSON.
    pub state: serde_json::Value,
    /// What this rank writes.
    pub parts: Vec<TensorPart>,
    /// The validation loss, where this is the best checkpoint so far.
    pub best_loss: Option<f64>,
}

impl Snapshot {
    /// Copies this rank's share of the tensors: of a part that several ranks hold, each takes some
    /// rows.
    ///
    /// # Errors
    /// When `state` has no JSON form.
    pub fn of<'a>(
        step: u64,
        state: &impl Serialize,
        slices: impl Iterator<Item = NamedSlice<'a>>,
    ) -> Result<Self, serde_json::Error> {
        Ok(Self {
            step,
            state: serde_json::to_value(state)?,
            parts: slices.map(TensorPart::of).collect(),
            best_loss: None,
        })
    }

    /// Marks it as the best checkpoint so far.
    pub fn with_best_loss(mut self, loss: f64) -> Self {
        self.best_loss = Some(loss);
        self
    }
}
