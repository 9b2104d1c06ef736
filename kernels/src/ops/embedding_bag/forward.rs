use std::{ops::Range, slice};

use half::{bf16, f16};

use super::{Bags, Lookup, Pooling};
use crate::{
    device::{Context, Device},
    error::{Error, Result},
    ops::operand::expect_float,
    simd::{Float, LANES, Simd, finish_stream, multiversion, past_caches, prefetch_row},
    tensor::{DType, TensorMut, TensorRef},
};

const OPERATION: &str = "embedding_bag::forward";

/// Samples of one parallel task.
const PANEL_ROWS: usize = 128;
/// Ids between the row being read and the row being fetched from memory.
const PREFETCH_AHEAD: usize = 8;

/// Pools the bags of all lookups into `out: [batch, columns]`; each lookup overwrites its columns.
/// Tables may hold any floats. Sums are float32 and rounded once, where `out` is in half precision.
///
/// # Errors
/// When shapes do not fit, offsets are malformed, or an id is outside its table.
pub fn forward(
    context: &Context,
    bags: &Bags<'_>,
    lookups: &[Lookup<'_>],
    out: TensorMut<'_>,
) -> Result<()> {
    check(bags, lookups, &out)?;
    match context.device() {
        Device::Cpu => {
            let stream = past_caches(out.shape()[0] * out.shape()[1]);
            context.for_each_panel(bags.batch, PANEL_ROWS, |rows| {
                // SAFETY: panels are disjoint ranges of rows, one call each.
                let out = unsafe { out.alias_rows(rows.clone()) };
                pool_panel(bags, lookups, rows, out, stream);
                finish_stream();
            });
        }
    }
    Ok(())
}

fn check(bags: &Bags<'_>, lookups: &[Lookup<'_>], out: &TensorMut<'_>) -> Result<()> {
    let columns = out.shape()[1];
    expect_float(OPERATION, "out", out, [bags.batch, columns])?;
    bags.check(OPERATION)?;
    for lookup in lookups {
        let [rows, dim] = lookup.table.shape();
        expect_float(OPERATION, "table", &lookup.table, [rows, dim])?;
        if lookup.column + dim > columns {
            return Err(Error::Shape {
                operation: OPERATION,
                operand: "out",
                expected: vec![bags.batch, lookup.column + dim],
                got: vec![bags.batch, columns],
            });
        }
        bags.check_ids(OPERATION, lookup.feature, rows)?;
    }
    Ok(())
}

/// The rows of a table, for ids already checked.
#[derive(Clone, Copy)]
struct Rows<'a, T> {
    table: TensorRef<'a>,
    start: *const T,
    stride: usize,
    dim: usize,
}

impl<'a, T: Float> Rows<'a, T> {
    #[inline(always)]
    fn new(table: TensorRef<'a>) -> Self {
        Self {
            table,
            start: table.as_ptr().cast(),
            stride: table.row_stride(),
            dim: table.shape()[1],
        }
    }

    /// # Safety
    /// `id` is a row of the table.
    #[inline(always)]
    unsafe fn row(&self, id: i64) -> &'a [T] {
        debug_assert!(self.table.dtype() == T::DTYPE && (id as usize) < self.table.shape()[0]);
        // SAFETY: the row is inside the table, which is borrowed for 'a and holds `T`.
        unsafe { slice::from_raw_parts(self.start.add(id as usize * self.stride), self.dim) }
    }

    #[inline(always)]
    fn prefetch(&self, id: i64) {
        prefetch_row(self.start.wrapping_add(id as usize * self.stride), self.dim);
    }
}

multiversion! {
    fn pool_panel(
        bags: &Bags<'_>,
        lookups: &[Lookup<'_>],
        samples: Range<usize>,
        out: TensorMut<'_>,
        stream: bool,
    ) {
        match out.dtype() {
            DType::Bf16 => pool_lookups::<S, bf16>(bags, lookups, samples, out, stream),
            DType::F16 => pool_lookups::<S, f16>(bags, lookups, samples, out, stream),
            _ => pool_lookups::<S, f32>(bags, lookups, samples, out, stream),
        }
    }
}

#[inline(always)]
fn pool_lookups<S: Simd, F: Float>(
    bags: &Bags<'_>,
    lookups: &[Lookup<'_>],
    samples: Range<usize>,
    mut out: TensorMut<'_>,
    stream: bool,
) {
    for lookup in lookups {
        let (samples, out) = (samples.clone(), out.reborrow());
        match lookup.table.dtype() {
            DType::Bf16 => pool_lookup::<S, bf16, F>(bags, lookup, samples, out, stream),
            DType::F16 => pool_lookup::<S, f16, F>(bags, lookup, samples, out, stream),
            _ => pool_lookup::<S, f32, F>(bags, lookup, samples, out, stream),
        }
    }
}

#[inline(always)]
fn pool_lookup<S: Simd, T: Float, F: Float>(
    bags: &Bags<'_>,
    lookup: &Lookup<'_>,
    samples: Range<usize>,
    mut out: TensorMut<'_>,
    stream: bool,
) {
    let rows = Rows::<T>::new(lookup.table);
    // Rows fetched ahead may belong to the next panel, never to the next feature.
    let last = bags.of_feature(lookup.feature).end;
    for (index, sample) in samples.enumerate() {
        let bag = bags.bag(lookup.feature, sample);
        for position in bag.clone() {
            if position + PREFETCH_AHEAD < last {
                rows.prefetch(bags.ids[position + PREFETCH_AHEAD]);
            }
        }
        let out = &mut out.row_mut_of::<F>(index)[lookup.column..][..rows.dim];
        let weights = bags.weights.map(|weights| &weights[bag.clone()]);
        pool::<S, T, F>(&rows, &bags.ids[bag], weights, lookup.pooling, out, stream);
    }
}

/// Pools one bag whose ids have been checked against the table.
#[inline(always)]
fn pool<S: Simd, T: Float, F: Float>(
    rows: &Rows<'_, T>,
    ids: &[i64],
    weights: Option<&[f32]>,
    pooling: Pooling,
    out: &mut [F],
    stream: bool,
) {
    let scale = match pooling {
        Pooling::Mean if !ids.is_empty() => 1.0 / ids.len() as f32,
        _ => 1.0,
    };
    let dim = rows.dim;
    let mut column = 0;
    while dim - column >= 4 * LANES {
        pool_block::<S, T, F, 4>(rows, ids, weights, scale, column, out, stream);
        column += 4 * LANES;
    }
    while dim - column >= LANES {
        pool_block::<S, T, F, 1>(rows, ids, weights, scale, column, out, stream);
        column += LANES;
    }
    for (column, out) in out.iter_mut().enumerate().skip(column) {
        let mut sum = 0.0;
        for (index, &id) in ids.iter().enumerate() {
            // SAFETY: `check` has compared every id of the feature with the table's rows.
            let value = unsafe { rows.row(id) }[column].widen();
            sum = S::multiply_add_scalar(weight(weights, index), value, sum);
        }
        *out = F::narrow(scale * sum);
    }
}

#[inline(always)]
fn weight(weights: Option<&[f32]>, index: usize) -> f32 {
    weights.map_or(1.0, |weights| weights[index])
}

/// As [`pool`], for `BLOCKS * LANES` columns from `column` on.
#[inline(always)]
fn pool_block<S: Simd, T: Float, F: Float, const BLOCKS: usize>(
    rows: &Rows<'_, T>,
    ids: &[i64],
    weights: Option<&[f32]>,
    scale: f32,
    column: usize,
    out: &mut [F],
    stream: bool,
) {
    let mut sums = [S::splat(0.0); BLOCKS];
    for (index, &id) in ids.iter().enumerate() {
        // SAFETY: `check` has compared every id of the feature with the table's rows.
        let row = &unsafe { rows.row(id) }[column..][..BLOCKS * LANES];
        let weight = S::splat(weight(weights, index));
        for (block, sum) in sums.iter_mut().enumerate() {
            *sum = S::multiply_add(weight, T::load::<S>(&row[block * LANES..]), *sum);
        }
    }
    let scale = S::splat(scale);
    for (block, sum) in sums.iter().enumerate() {
        let (sum, out) = (S::multiply(scale, *sum), &mut out[column + block * LANES..]);
        if stream {
            F::stream::<S>(sum, out);
        } else {
            F::store::<S>(sum, out);
        }
    }
}
