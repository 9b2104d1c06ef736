use std::mem;

use streamrec_kernels::{
    Context,
    embedding_bag::{RowGradients, RowGradientsRef, merge},
};

use crate::model::ModelError;

/// The gradient of a table, summed over micro-batches.
#[derive(Debug, Default)]
pub(super) struct RowSum {
    dim: usize,
    /// The sum so far.
    pub(super) sum: RowGradients,
    /// What is added next.
    next: RowGradients,
    merged: RowGradients,
}

impl RowSum {
    /// Nothing yet, of rows of `dim` columns.
    pub(super) fn new(dim: usize) -> Self {
        Self {
            dim,
            ..Self::default()
        }
    }

    /// Lets `write` write the gradient of a micro-batch, the `index`-th from 0, and adds it.
    pub(super) fn add(
        &mut self,
        context: &Context,
        index: usize,
        write: impl FnOnce(&mut RowGradients) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        if index == 0 {
            return write(&mut self.sum);
        }
        write(&mut self.next)?;
        let parts = [self.sum.view(), self.next.view()];
        merge(context, &parts, self.dim, &mut self.merged)
            .map_err(ModelError::kernel("the sum of micro-batches"))?;
        mem::swap(&mut self.sum, &mut self.merged);
        Ok(())
    }

    /// Replaces the sum by that of several parts, in their order.
    pub(super) fn merge(
        &mut self,
        context: &Context,
        parts: &[RowGradientsRef<'_>],
    ) -> Result<(), ModelError> {
        merge(context, parts, self.dim, &mut self.sum).map_err(ModelError::kernel(
            "the sum of a table's gradients over the ranks",
        ))
    }
}
