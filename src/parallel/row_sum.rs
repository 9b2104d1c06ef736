use std::mem;

use streamrec_kernels::{
    Context,
    embedding_bag::{RowGradients, RowGradientsRef, merge},
};

use crate::{config::Reduction, model::ModelError};

/// The gradient of a table, summed over micro-batches: one after the other, or in the tree of
/// [`MicroShards`](super::MicroShards).
#[derive(Debug, Default)]
pub(super) struct RowSum {
    dim: usize,
    reduction: Reduction,
    /// The sum of all, after the last; while they are added one after the other, that so far.
    pub(super) sum: RowGradients,
    /// What is added next.
    next: RowGradients,
    merged: RowGradients,
    /// Sums of 1, 2, 4 leaves of the tree that wait for as many more.
    waiting: Vec<RowGradients>,
}

impl RowSum {
    /// Nothing yet, of rows of `dim` columns.
    pub(super) fn new(dim: usize, reduction: Reduction) -> Self {
        Self {
            dim,
            reduction,
            ..Self::default()
        }
    }

    /// Lets `write` write the gradient of a micro-batch, the `index`-th from 0, and adds it; `last`
    /// tells that no other follows.
    pub(super) fn add(
        &mut self,
        context: &Context,
        index: usize,
        last: bool,
        write: impl FnOnce(&mut RowGradients) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        if self.reduction == Reduction::Fast && index == 0 {
            return write(&mut self.sum);
        }
        write(&mut self.next)?;
        if self.reduction == Reduction::Fast {
            let parts = [self.sum.view(), self.next.view()];
            add(context, &parts, self.dim, &mut self.merged)?;
            mem::swap(&mut self.sum, &mut self.merged);
            return Ok(());
        }
        let complete = index.trailing_ones() as usize;
        for waiting in &self.waiting[..complete] {
            let parts = [waiting.view(), self.next.view()];
            add(context, &parts, self.dim, &mut self.merged)?;
            mem::swap(&mut self.next, &mut self.merged);
        }
        if last {
            mem::swap(&mut self.sum, &mut self.next);
            return Ok(());
        }
        if self.waiting.len() <= complete {
            self.waiting.push(RowGradients::default());
        }
        mem::swap(&mut self.waiting[complete], &mut self.next);
        Ok(())
    }

    /// Replaces the sum by that of the ranks' parts: in their order, or by halves.
    pub(super) fn merge(
        &mut self,
        context: &Context,
        parts: &[RowGradientsRef<'_>],
    ) -> Result<(), ModelError> {
        if self.reduction == Reduction::Fast || parts.len() <= 2 {
            return add(context, parts, self.dim, &mut self.sum);
        }
        self.sum = by_halves(context, parts, self.dim)?;
        Ok(())
    }
}

fn by_halves(
    context: &Context,
    parts: &[RowGradientsRef<'_>],
    dim: usize,
) -> Result<RowGradients, ModelError> {
    let mut sum = RowGradients::default();
    if parts.len() <= 2 {
        add(context, parts, dim, &mut sum)?;
        return Ok(sum);
    }
    let (left, right) = parts.split_at(parts.len() / 2);
    let (left, right) = (
        by_halves(context, left, dim)?,
        by_halves(context, right, dim)?,
    );
    add(context, &[left.view(), right.view()], dim, &mut sum)?;
    Ok(sum)
}

fn add(
    context: &Context,
    parts: &[RowGradientsRef<'_>],
    dim: usize,
    sum: &mut RowGradients,
) -> Result<(), ModelError> {
    merge(context, parts, dim, sum).map_err(ModelError::kernel("the sum of a table's gradients"))
}
