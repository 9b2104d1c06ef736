use std::sync::Arc;

use streamrec_kernels::{Context, TensorMut, TensorRef};
use tracing::trace_span;

use super::{InputGradient, ModelError, PassError};
use crate::comm::{CommBuffer, CommError, Communicator, Event, ReduceOp};

/// A matrix that the ranks of a tensor-parallel group add up: `[batch, width]` on each.
pub(super) struct SummedMatrix {
    comm: Arc<dyn Communicator>,
    /// Away while it is in flight; gone after an error.
    buffer: Option<CommBuffer>,
    width: usize,
}

impl SummedMatrix {
    /// Collective in the group.
    pub(super) fn new(
        comm: &Arc<dyn Communicator>,
        batch: usize,
        width: usize,
    ) -> Result<Self, ModelError> {
        Ok(Self {
            buffer: Some(comm.allocate(batch * width)?),
            comm: Arc::clone(comm),
            width,
        })
    }

    /// This rank's summand, to write to.
    pub(super) fn summand(&mut self, rows: usize) -> Result<TensorMut<'_>, ModelError> {
        let width = self.width;
        let buffer = self.buffer.as_mut().ok_or(lost())?;
        Ok(TensorMut::from_f32(
            &mut buffer[..rows * width],
            &[rows, width],
        ))
    }

    /// Adds up the summands of all ranks. Collective in the group.
    pub(super) fn sum(&mut self, rows: usize) -> Result<TensorRef<'_>, ModelError> {
        let buffer = self.buffer.take().ok_or(lost())?;
        let span = trace_span!("wait for a layer's sum");
        let buffer = span.in_scope(|| self.comm.reduce_now(buffer, ReduceOp::Sum))?;
        Ok(self.take_back(buffer, rows))
    }

    /// Begins to add up the summands: compute something else before [`finish`](Self::finish). Collective in the group.
    pub(super) fn start(&mut self) -> Result<Event<CommBuffer>, ModelError> {
        let buffer = self.buffer.take().ok_or(lost())?;
        Ok(self.comm.all_reduce(buffer, ReduceOp::Sum))
    }

    /// The sum that was begun.
    pub(super) fn finish(
        &mut self,
        sum: Event<CommBuffer>,
        rows: usize,
    ) -> Result<TensorRef<'_>, ModelError> {
        let buffer = trace_span!("wait for a layer's sum").in_scope(|| sum.wait())?;
        Ok(self.take_back(buffer, rows))
    }

    fn take_back(&mut self, sum: CommBuffer, rows: usize) -> TensorRef<'_> {
        let sum = self.buffer.insert(sum);
        TensorRef::from_f32(&sum[..rows * self.width], &[rows, self.width])
    }
}

/// A matrix of which each rank of a tensor-parallel group computes its own columns:
/// `[batch, width / ranks]` on each, in the order of ranks.
pub(super) struct GatheredMatrix {
    comm: Arc<dyn Communicator>,
    /// `[ranks, batch, own width]`; gone after an error.
    buffer: Option<CommBuffer>,
    batch: usize,
    own_width: usize,
}

impl GatheredMatrix {
    /// Collective in the group. `width` is that of all ranks together.
    pub(super) fn new(
        comm: &Arc<dyn Communicator>,
        batch: usize,
        width: usize,
    ) -> Result<Self, ModelError> {
        Ok(Self {
            buffer: Some(comm.allocate(batch * width)?),
            own_width: width / comm.size(),
            comm: Arc::clone(comm),
            batch,
        })
    }

    /// The columns of the whole that are this rank's own.
    pub(super) fn own_columns(&self) -> std::ops::Range<usize> {
        let start = self.comm.rank() * self.own_width;
        start..start + self.own_width
    }

    /// This rank's columns, to write to.
    pub(super) fn own(&mut self, rows: usize) -> Result<TensorMut<'_>, ModelError> {
        let (start, width) = (
            self.comm.rank() * self.batch * self.own_width,
            self.own_width,
        );
        let buffer = self.buffer.as_mut().ok_or(lost())?;
        Ok(TensorMut::from_f32(
            &mut buffer[start..start + rows * width],
            &[rows, width],
        ))
    }

    /// Gives every rank the columns of all: writes them into `whole`, or adds them to it. Collective in the
    /// group.
    pub(super) fn gather(
        &mut self,
        context: &Context,
        whole: TensorMut<'_>,
        accumulate: bool,
    ) -> Result<(), PassError> {
        let columns = self.start()?;
        self.finish(columns, context, whole, accumulate)
    }

    /// Begins to gather: compute something else before [`finish`](Self::finish). Collective in the group.
    pub(super) fn start(&mut self) -> Result<Event<CommBuffer>, ModelError> {
        let buffer = self.buffer.take().ok_or(lost())?;
        Ok(self.comm.all_gather(buffer))
    }

    /// Writes the columns that were begun to be gathered into `whole`, or adds them to it.
    pub(super) fn finish(
        &mut self,
        columns: Event<CommBuffer>,
        context: &Context,
        mut whole: TensorMut<'_>,
        accumulate: bool,
    ) -> Result<(), PassError> {
        let buffer = trace_span!("wait for a layer's columns")
            .in_scope(|| columns.wait())
            .map_err(ModelError::Comm)?;
        let buffer = self.buffer.insert(buffer);
        let (rows, width) = (whole.shape()[0], self.own_width);
        for rank in 0..self.comm.size() {
            let start = rank * self.batch * width;
            let part = TensorRef::from_f32(&buffer[start..start + rows * width], &[rows, width]);
            let columns = rank * width..(rank + 1) * width;
            let view = whole.reborrow().columns(columns);
            InputGradient { view, accumulate }.receive(context, part)?;
        }
        Ok(())
    }
}

/// An earlier collective failed and took the buffer with it.
fn lost() -> ModelError {
    ModelError::Comm(CommError::Abandoned)
}
