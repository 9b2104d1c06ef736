//! What the ranks of a tensor-parallel group exchange inside the layers that they share.

use std::ops::Range;

use streamrec_kernels::DType;
use streamrec_kernels::cuda::{
    Begun, Collective, DeviceError, Executor, Group, Matrix, add,
    collective::{Element, Reduce},
};

use super::{
    memory::{DeviceBuffer, columns, element},
    pass::{InputGradient, Pass},
};
use crate::model::{TensorParallel, layers::PassError};

/// This rank's place in its group, and memory of what travels, which layers use in turn. Sums are float32, as on the
/// CPU; columns have the type of what they are columns of.
#[derive(Debug)]
pub(super) struct DeviceGroup {
    rank: usize,
    ranks: usize,
    /// `[batch, width]` of float32.
    sums: DeviceBuffer,
    /// `[batch, width / ranks]`, with room for float32.
    part: DeviceBuffer,
    /// `[ranks, batch, width / ranks]`, likewise.
    parts: DeviceBuffer,
}

impl DeviceGroup {
    /// For matrices of up to `width` columns; nothing where this rank is alone.
    pub(super) fn new<E: Executor>(
        executor: &mut E,
        shared: &TensorParallel,
        [batch, width]: [usize; 2],
    ) -> Result<Option<Self>, DeviceError> {
        let (rank, ranks) = (shared.comm().rank(), shared.comm().size());
        if ranks == 1 {
            return Ok(None);
        }
        let mut buffer = |len| DeviceBuffer::new(executor, DType::F32, len);
        Ok(Some(Self {
            rank,
            ranks,
            sums: buffer(batch * width)?,
            part: buffer(batch * width.div_ceil(ranks))?,
            parts: buffer(batch * width.next_multiple_of(ranks))?,
        }))
    }

    /// The columns of a matrix of `width` that this rank computes.
    pub(super) fn own_columns(&self, width: usize) -> Range<usize> {
        let own = width / self.ranks;
        self.rank * own..(self.rank + 1) * own
    }

    /// This rank's summand of a matrix, to write to; then the sum.
    pub(super) fn summand(&self, rows: usize, width: usize) -> Matrix {
        self.sums.view(rows, width)
    }

    /// Begins to add up the summands of all ranks, in their place.
    pub(super) fn sum<E: Executor>(
        &self,
        pass: &mut Pass<'_, E>,
        summand: &Matrix,
    ) -> Result<Begun, PassError> {
        let sum = Collective::AllReduce {
            at: summand.address,
            len: summand.shape[0] * summand.shape[1],
            element: Element::F32,
            reduce: Reduce::Sum,
        };
        let (group, what) = (Group::TensorParallel, "the sum of a shared layer");
        Ok(pass.executor.begin(group, what, &[sum])?)
    }

    /// This rank's columns of a matrix `[rows, width]`, to write to.
    pub(super) fn part(&self, rows: usize, width: usize, dtype: DType) -> Matrix {
        self.part.of_type(dtype).view(rows, width / self.ranks)
    }

    /// Begins to give every rank the columns of all.
    pub(super) fn gather<E: Executor>(
        &self,
        pass: &mut Pass<'_, E>,
        part: &Matrix,
    ) -> Result<Begun, PassError> {
        let gather = Collective::AllGather {
            from: part.address,
            to: self.parts.address,
            len: part.shape[0] * part.shape[1],
            element: element(part.dtype),
        };
        let (group, what) = (Group::TensorParallel, "the columns of a shared layer");
        Ok(pass.executor.begin(group, what, &[gather])?)
    }

    /// Puts the columns of all ranks, once they are there, into the whole matrix.
    pub(super) fn place<E: Executor>(
        &self,
        pass: &mut Pass<'_, E>,
        part: &Matrix,
        whole: &InputGradient,
    ) -> Result<(), PassError> {
        let [rows, width] = part.shape;
        let parts = self.parts.of_type(part.dtype);
        for rank in 0..self.ranks {
            let from = parts.view_at(rank * rows * width, rows, width);
            let into = columns(&whole.view, &(rank * width..(rank + 1) * width));
            pass.launch(add::copy(&from, &into, whole.accumulate))?;
        }
        Ok(())
    }

    /// Gathers and waits, on the device.
    pub(super) fn gather_now<E: Executor>(
        &self,
        pass: &mut Pass<'_, E>,
        part: &Matrix,
        whole: Matrix,
    ) -> Result<(), PassError> {
        let begun = self.gather(pass, part)?;
        pass.executor.finish(begun)?;
        let whole = InputGradient {
            view: whole,
            accumulate: false,
        };
        self.place(pass, part, &whole)
    }
}
