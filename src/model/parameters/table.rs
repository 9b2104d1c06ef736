//! One embedding table, as far as it is here.

use streamrec_artifact::Parameter;
use streamrec_kernels::{DType, Tensor, TensorMut, TensorRef, sparse_optimizer::Rounding};

use super::Extent;

/// An embedding table of a [`ParameterStore`](super::ParameterStore): its place among the graph's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub(super) usize);

impl TableId {
    /// The place among the tables.
    pub fn index(self) -> usize {
        self.0
    }
}

/// An embedding table.
#[derive(Debug)]
pub struct Table {
    /// Its name (`embedding.<table>`), whole shape and first values.
    pub parameter: Parameter,
    /// The part of it that is here.
    pub extent: Extent,
    /// Whether ranks hold parts of it.
    pub(super) sharded: bool,
    /// How its rows are rounded, but for the step.
    pub(super) rounding: Rounding,
    /// `[rows, dim]`, float32 or in half precision
    pub(super) weights: Tensor,
}

impl Table {
    /// The weights, `[rows, dim]`.
    pub fn view(&self) -> TensorRef<'_> {
        self.weights.view()
    }

    /// The weights to write to, `[rows, dim]`.
    pub fn view_mut(&mut self) -> TensorMut<'_> {
        self.weights.view_mut()
    }

    /// The type in which the weights are stored.
    pub fn dtype(&self) -> DType {
        self.weights.dtype()
    }

    /// How rows are rounded in a step, where the weights are in half precision.
    pub fn rounding(&self, step: u64) -> Rounding {
        Rounding {
            step,
            ..self.rounding
        }
    }

    /// Whether ranks hold parts of it, so that its vectors come from an exchange.
    pub fn is_sharded(&self) -> bool {
        self.sharded
    }

    /// The number of rows that are here.
    pub fn rows(&self) -> usize {
        self.extent.rows.len()
    }

    /// The columns that are here.
    pub fn dim(&self) -> usize {
        self.extent.columns.len()
    }
}
