use std::ops::Range;

use half::{bf16, f16};

use super::{BagSource, Groups, RowGradients};
use crate::{
    device::{Context, Device, DisjointMut},
    error::{Error, Result},
    ops::operand::expect_float,
    simd::{Float, LANES, LINE_BYTES, Simd, lanes_mut, multiversion, prefetch},
    tensor::{DType, TensorRef},
};

/// Rows of one parallel task.
pub(crate) const PANEL_ROWS: usize = 128;
/// Lookups between the gradient being read and the gradient being fetched from memory.
const PREFETCH_AHEAD: usize = 8;

/// Checked operands of a sum over each touched row's lookups.
pub(crate) struct Segments<'a> {
    groups: &'a Groups,
    sources: &'a [BagSource],
    dout: TensorRef<'a>,
    dim: usize,
}

impl<'a> Segments<'a> {
    pub(crate) fn new(
        operation: &'static str,
        groups: &'a Groups,
        dim: usize,
        sources: &'a [BagSource],
        dout: TensorRef<'a>,
    ) -> Result<Self> {
        let features = sources.iter().map(|source| source.feature);
        if !features.clone().eq(groups.features().iter().copied()) {
            return Err(Error::Shape {
                operation,
                operand: "features of the sources",
                expected: groups.features().to_vec(),
                got: features.collect(),
            });
        }
        let last = sources
            .iter()
            .map(|source| source.column + dim)
            .max()
            .unwrap_or(0);
        let columns = dout.shape()[1].max(last);
        expect_float(operation, "dout", &dout, [groups.batch(), columns])?;
        Ok(Self {
            groups,
            sources,
            dout,
            dim,
        })
    }

    pub(crate) fn groups(&self) -> &'a Groups {
        self.groups
    }

    /// The gradient of a lookup's pooled vector.
    #[inline(always)]
    fn gradient<F: Float>(&self, lookup: usize) -> (&'a [F], &'a BagSource) {
        let (source, sample) = self.groups.place(lookup);
        let source = &self.sources[source];
        let row = self.dout.row_of(sample);
        (&row[source.column..][..self.dim], source)
    }

    /// The gradient of the `index`-th touched row: `out = sum of scale * gradient` over its
    /// lookups in their order.
    #[inline(always)]
    pub(crate) fn sum_row<S: Simd>(&self, index: usize, out: &mut [f32]) {
        match self.dout.dtype() {
            DType::Bf16 => self.sum_row_of::<S, bf16>(index, out),
            DType::F16 => self.sum_row_of::<S, f16>(index, out),
            _ => self.sum_row_of::<S, f32>(index, out),
        }
    }

    #[inline(always)]
    fn sum_row_of<S: Simd, F: Float>(&self, index: usize, out: &mut [f32]) {
        let lookups = self.groups.segment(index);
        let ahead = lookups.start + PREFETCH_AHEAD..lookups.end + PREFETCH_AHEAD;
        for lookup in ahead.start..ahead.end.min(self.groups.lookups()) {
            let gradient = self.gradient::<F>(lookup).0;
            for line in gradient.chunks(LINE_BYTES / size_of::<F>()) {
                prefetch(line.as_ptr().cast());
            }
        }
        let mut column = 0;
        while self.dim - column >= 4 * LANES {
            self.sum_block::<S, F, 4>(lookups.clone(), column, out);
            column += 4 * LANES;
        }
        while self.dim - column >= LANES {
            self.sum_block::<S, F, 1>(lookups.clone(), column, out);
            column += LANES;
        }
        for column in column..self.dim {
            let mut sum = 0.0;
            for lookup in lookups.clone() {
                let (gradient, source) = self.gradient::<F>(lookup);
                let scale = self.groups.scale(lookup, source);
                sum = S::multiply_add_scalar(scale, gradient[column].widen(), sum);
            }
            out[column] = sum;
        }
    }

    /// As [`sum_row`](Self::sum_row), for `BLOCKS * LANES` columns from `column` on.
    #[inline(always)]
    fn sum_block<S: Simd, F: Float, const BLOCKS: usize>(
        &self,
        lookups: Range<usize>,
        column: usize,
        out: &mut [f32],
    ) {
        let mut sums = [S::splat(0.0); BLOCKS];
        for lookup in lookups {
            let (gradient, source) = self.gradient::<F>(lookup);
            let scale = S::splat(self.groups.scale(lookup, source));
            let gradient = &gradient[column..][..BLOCKS * LANES];
            for (block, sum) in sums.iter_mut().enumerate() {
                *sum = S::multiply_add(scale, F::load::<S>(&gradient[block * LANES..]), *sum);
            }
        }
        for (block, sum) in sums.iter().enumerate() {
            S::store(*sum, lanes_mut(&mut out[column + block * LANES..]));
        }
    }
}

/// Sums the gradients of each touched row: row `groups.ids()[i]` gets `gradients.rows[i]`.
///
/// `sources` names the features the groups were built for, in the same order; `dout` is the
/// gradient of the forward call's output, `[batch, columns]`.
///
/// # Errors
/// When the sources or shapes do not fit the groups.
pub fn segment_sum(
    context: &Context,
    groups: &Groups,
    dim: usize,
    sources: &[BagSource],
    dout: TensorRef<'_>,
    gradients: &mut RowGradients,
) -> Result<()> {
    let segments = Segments::new("embedding_bag::segment_sum", groups, dim, sources, dout)?;
    gradients.ids.clear();
    gradients.ids.extend_from_slice(groups.ids());
    gradients.rows.resize(groups.ids().len() * dim, 0.0);
    let rows = DisjointMut::new(&mut gradients.rows);
    match context.device() {
        Device::Cpu => context.for_each_panel(groups.ids().len(), PANEL_ROWS, |range| {
            // SAFETY: panels are disjoint ranges of rows, one call each.
            let rows = unsafe { rows.slice(range.start * dim..range.end * dim) };
            sum_panel(&segments, range, rows);
        }),
    }
    Ok(())
}

multiversion! {
    fn sum_panel(segments: &Segments<'_>, range: Range<usize>, rows: &mut [f32]) {
        let dim = segments.dim;
        if dim == 0 {
            return;
        }
        for (index, row) in range.zip(rows.chunks_exact_mut(dim)) {
            segments.sum_row::<S>(index, row);
        }
    }
}
