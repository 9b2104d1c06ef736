use std::{
    ops::Range,
    sync::atomic::{AtomicI64, Ordering},
};

use half::{bf16, f16};

use super::{SparseRule, SparseState, SparseStep, WholeRows, rounding::Stored};
use crate::{
    device::{Context, Device, DisjointMut},
    error::{Error, Result},
    ops::{
        dense_optimizer::BiasCorrection,
        embedding_bag::{BagSource, Groups, RowGradients, RowGradientsRef, Segments},
        operand::{expect_float, expect_len},
    },
    simd::{LANES, Simd, convert, multiversion, prefetch_row, sum_lanes},
    tensor::{DType, TensorMut, TensorRef},
};

const OPERATION: &str = "sparse_optimizer::update";

/// Rows of one parallel task.
const PANEL_ROWS: usize = 128;
/// Rows between the row being updated and the row being fetched from memory.
const PREFETCH_AHEAD: usize = 4;

/// The gradient of a table.
#[derive(Debug, Clone, Copy)]
pub enum SparseGradient<'a> {
    /// Summed rows.
    Rows(&'a RowGradients),
    /// Summed rows of a table that is some columns of a larger one.
    Columns {
        /// The rows, as far as the columns are here.
        rows: &'a RowGradients,
        /// What the update must know of the other columns, for each of the rows.
        whole: &'a WholeRows,
    },
    /// The gradient of the pooled vectors, to be summed row by row as
    /// [`segment_sum`](crate::embedding_bag::segment_sum) does.
    Bags {
        /// The table's lookups.
        groups: &'a Groups,
        /// The features the groups were built for, in the same order.
        sources: &'a [BagSource],
        /// The gradient of the forward call's output, `[batch, columns]`.
        dout: TensorRef<'a>,
    },
}

/// Applies `rule` to each touched row of `table: [rows, dim]`, of any floats: of a row in half precision the update is
/// computed in float32 and rounded as [`Rounding`](super::Rounding) tells.
///
/// # Errors
/// When shapes do not fit, ids do not ascend or are outside the table, the groups were built for
/// more rows, or the state is another rule's. A row whose gradient is not finite is left as it was,
/// and makes an error once all others have been updated.
pub fn update(
    context: &Context,
    rule: &SparseRule,
    step: SparseStep,
    table: TensorMut<'_>,
    state: &mut SparseState,
    gradient: SparseGradient<'_>,
) -> Result<()> {
    let [rows, dim] = table.shape();
    expect_float(OPERATION, "table", &table, [rows, dim])?;
    let whole = match gradient {
        SparseGradient::Columns { whole, .. } => Some(whole),
        _ => None,
    };
    let gradient = Gradient::new(gradient, rows, dim)?;
    // Of a row in half precision the weights are widened beside the gradient.
    let scratch_len = if table.dtype().is_half() {
        2 * dim
    } else {
        dim
    };
    let task = Task {
        rule,
        step,
        correction: match *rule {
            SparseRule::LazyAdam { beta1, beta2, .. } => {
                BiasCorrection::new(beta1, beta2, step.number)
            }
            _ => BiasCorrection::new(0.0, 0.0, 1),
        },
        dim,
        table: TableRows::new(table),
        state: state_rows(rule, state, rows, dim)?,
        gradient,
        whole,
        not_finite: AtomicI64::new(i64::MAX),
    };
    match context.device() {
        Device::Cpu => context.for_each_panel(task.gradient.ids().len(), PANEL_ROWS, |range| {
            let mut scratch = context.scratch(scratch_len);
            update_panel(&task, range, &mut scratch);
        }),
    }
    match task.not_finite.into_inner() {
        i64::MAX => Ok(()),
        row => Err(Error::NotFinite {
            operation: OPERATION,
            row: row as usize,
        }),
    }
}

/// Checked gradients of rows that ascend strictly and lie inside the table.
enum Gradient<'a> {
    Rows(RowGradientsRef<'a>),
    Bags(Segments<'a>),
}

impl<'a> Gradient<'a> {
    fn new(gradient: SparseGradient<'a>, rows: usize, dim: usize) -> Result<Self> {
        match gradient {
            SparseGradient::Columns {
                rows: gradients,
                whole,
            } => {
                let (got, expected) = (whole.squares.len(), gradients.ids.len());
                expect_len(OPERATION, "whole rows", got, expected)?;
                Self::new(SparseGradient::Rows(gradients), rows, dim)
            }
            SparseGradient::Rows(gradients) => {
                gradients.view().check(OPERATION, dim, rows)?;
                Ok(Self::Rows(gradients.view()))
            }
            SparseGradient::Bags {
                groups,
                sources,
                dout,
            } => {
                if groups.rows() > rows {
                    return Err(Error::Shape {
                        operation: OPERATION,
                        operand: "table",
                        expected: vec![groups.rows(), dim],
                        got: vec![rows, dim],
                    });
                }
                Ok(Self::Bags(Segments::new(
                    OPERATION, groups, dim, sources, dout,
                )?))
            }
        }
    }

    #[inline(always)]
    fn ids(&self) -> &'a [i64] {
        match self {
            Self::Rows(gradients) => gradients.ids,
            Self::Bags(segments) => segments.groups().ids(),
        }
    }

    #[inline(always)]
    fn write_row<S: Simd>(&self, index: usize, out: &mut [f32]) {
        match self {
            Self::Rows(gradients) => {
                out.copy_from_slice(&gradients.rows[index * out.len()..][..out.len()]);
            }
            Self::Bags(segments) => segments.sum_row::<S>(index, out),
        }
    }
}

/// The rows of a table, in the type in which it is stored.
enum TableRows<'a> {
    F32(DisjointRows<'a, f32>),
    Bf16(DisjointRows<'a, bf16>),
    F16(DisjointRows<'a, f16>),
}

impl<'a> TableRows<'a> {
    /// Of a table of floats.
    fn new(mut table: TensorMut<'a>) -> Self {
        let start = table.as_mut_ptr();
        // SAFETY: in each arm `table` holds elements of that type.
        unsafe {
            match table.dtype() {
                DType::Bf16 => Self::Bf16(DisjointRows::of(&table, start.cast())),
                DType::F16 => Self::F16(DisjointRows::of(&table, start.cast())),
                _ => Self::F32(DisjointRows::of(&table, start)),
            }
        }
    }
}

/// Rows that different threads change at the same time.
struct DisjointRows<'a, E> {
    elements: DisjointMut<'a, E>,
    stride: usize,
    columns: usize,
}

impl<'a, E> DisjointRows<'a, E> {
    /// # Safety
    /// `start` is where `table` begins, and it holds `E`; for `'a` the rows are changed through the result only.
    unsafe fn of(table: &TensorMut<'a>, start: *mut E) -> Self {
        let ([rows, columns], stride) = (table.shape(), table.row_stride());
        let len = rows.saturating_sub(1) * stride + if rows > 0 { columns } else { 0 };
        // SAFETY: the table borrows every element of its rows exclusively, and rows are cut out of
        // the slice at multiples of the stride, so elements between rows are never touched.
        let elements = unsafe { DisjointMut::from_raw(start, len) };
        Self {
            elements,
            stride,
            columns,
        }
    }

    /// # Safety
    /// No other reference to the row is alive.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // Disjointness is the caller's to prove.
    unsafe fn row(&self, id: i64) -> &mut [E] {
        let start = id as usize * self.stride;
        // SAFETY: by contract this row is not referenced elsewhere, and rows do not overlap.
        unsafe { self.elements.slice(start..start + self.columns) }
    }

    #[inline(always)]
    fn prefetch(&self, id: i64) {
        prefetch_row(
            self.elements
                .as_ptr()
                .wrapping_add(id as usize * self.stride),
            self.columns,
        );
    }
}

/// The rows of the state's tensors, of which a rule has up to two, after checking that they are the rule's own.
fn state_rows<'a>(
    rule: &SparseRule,
    state: &'a mut SparseState,
    rows: usize,
    dim: usize,
) -> Result<[DisjointRows<'a, f32>; 2]> {
    let columns: &[usize] = match rule {
        SparseRule::Sgd { .. } => &[],
        SparseRule::RowWiseAdagrad { .. } => &[1],
        SparseRule::Adagrad { .. } => &[dim],
        SparseRule::LazyAdam { .. } => &[dim, dim],
    };
    let tensors = state.tensors.iter();
    let got = tensors.flat_map(|(_, tensor)| tensor.shape()).copied();
    let expected = columns.iter().flat_map(|&columns| [rows, columns]);
    if !got.clone().eq(expected.clone()) {
        return Err(Error::Shape {
            operation: OPERATION,
            operand: "state",
            expected: expected.collect(),
            got: got.collect(),
        });
    }
    let mut tensors = state.tensors.iter_mut().zip(columns);
    Ok([(); 2].map(|()| match tensors.next() {
        Some(((_, tensor), &columns)) => DisjointRows {
            elements: DisjointMut::new(tensor.f32_mut()),
            stride: columns,
            columns,
        },
        None => DisjointRows {
            elements: DisjointMut::new(&mut []),
            stride: 0,
            columns: 0,
        },
    }))
}

struct Task<'a> {
    rule: &'a SparseRule,
    step: SparseStep,
    correction: BiasCorrection,
    dim: usize,
    table: TableRows<'a>,
    /// Empty where the rule has fewer.
    state: [DisjointRows<'a, f32>; 2],
    gradient: Gradient<'a>,
    /// Of rows of which the table holds some columns.
    whole: Option<&'a WholeRows>,
    /// The first row whose gradient is not finite; `i64::MAX` while there is none.
    not_finite: AtomicI64,
}

multiversion! {
    fn update_panel(task: &Task<'_>, range: Range<usize>, scratch: &mut [f32]) {
        match &task.table {
            TableRows::F32(table) => update_rows::<S, f32>(task, table, range, scratch),
            TableRows::Bf16(table) => update_rows::<S, bf16>(task, table, range, scratch),
            TableRows::F16(table) => update_rows::<S, f16>(task, table, range, scratch),
        }
    }
}

#[inline(always)]
fn update_rows<S: Simd, E: Stored>(
    task: &Task<'_>,
    table: &DisjointRows<'_, E>,
    range: Range<usize>,
    scratch: &mut [f32],
) {
    let ids = task.gradient.ids();
    let (g, wide) = scratch.split_at_mut(task.dim);
    for index in range {
        if let Some(&next) = ids.get(index + PREFETCH_AHEAD) {
            table.prefetch(next);
            task.state.iter().for_each(|state| state.prefetch(next));
        }
        task.gradient.write_row::<S>(index, g);
        let squares = match task.whole {
            Some(whole) => whole.squares[index],
            None => squares_in_f64(g),
        };
        if !squares.is_finite() {
            task.not_finite.fetch_min(ids[index], Ordering::Relaxed);
            continue;
        }
        // SAFETY: ids ascend strictly and each index is processed once, so no other thread
        // and no other iteration refers to this row.
        let row = unsafe { table.row(ids[index]) };
        let mean_square = task.whole.map(|whole| whole.mean_squares[index]);
        match E::as_float32(row) {
            Some(w) => {
                clip_and_decay(task.rule, squares, w, g);
                update_row(task, ids[index], mean_square, w, g);
            }
            None => {
                convert::<S, E, f32>(row, wide);
                clip_and_decay(task.rule, squares, wide, g);
                update_row(task, ids[index], mean_square, wide, g);
                task.step.rounding.store(ids[index] as u64, wide, row);
            }
        }
    }
}

#[inline(always)]
pub(super) fn clip_and_decay(rule: &SparseRule, squares: f64, w: &[f32], g: &mut [f32]) {
    if let Some(max_norm) = rule.max_row_norm() {
        let norm = squares.sqrt();
        if norm > f64::from(max_norm) {
            let factor = (f64::from(max_norm) / norm) as f32;
            g.iter_mut().for_each(|g| *g *= factor);
        }
    }
    let weight_decay = rule.weight_decay();
    if weight_decay != 0.0 {
        g.iter_mut()
            .zip(w)
            .for_each(|(g, w)| *g += weight_decay * w);
    }
}

/// The squared norm, which no finite row overflows.
#[inline(always)]
pub(super) fn squares_in_f64(g: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let chunks = g.chunks_exact(LANES);
    let square = |&g: &f32| f64::from(g) * f64::from(g);
    let tail: f64 = chunks.remainder().iter().map(square).sum();
    for chunk in chunks {
        lanes
            .iter_mut()
            .zip(chunk)
            .for_each(|(lane, g)| *lane += square(g));
    }
    lanes.iter().sum::<f64>() + tail
}

#[inline(always)]
pub(super) fn sum_of_squares(g: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let chunks = g.chunks_exact(LANES);
    let tail: f32 = chunks.remainder().iter().map(|g| g * g).sum();
    for chunk in chunks {
        lanes
            .iter_mut()
            .zip(chunk)
            .for_each(|(lane, g)| *lane += g * g);
    }
    sum_lanes(lanes) + tail
}

#[inline(always)]
fn update_row(task: &Task<'_>, id: i64, mean_square: Option<f32>, w: &mut [f32], g: &[f32]) {
    let learning_rate = task.step.learning_rate;
    // SAFETY: as for the row of the table, in `update_panel`; each state tensor is one of its own.
    let state = |index: usize| unsafe { task.state[index].row(id) };
    match *task.rule {
        SparseRule::Sgd { .. } => {
            w.iter_mut()
                .zip(g)
                .for_each(|(w, g)| *w -= learning_rate * g);
        }
        SparseRule::RowWiseAdagrad { eps, .. } => {
            let s = &mut state(0)[0];
            *s += match mean_square {
                Some(mean) => mean,
                None => sum_of_squares(g) / task.dim as f32,
            };
            let rate = learning_rate / (s.sqrt() + eps);
            w.iter_mut().zip(g).for_each(|(w, g)| *w -= rate * g);
        }
        SparseRule::Adagrad { eps, .. } => {
            for ((w, g), s) in w.iter_mut().zip(g).zip(state(0)) {
                *s += g * g;
                *w -= learning_rate * g / (s.sqrt() + eps);
            }
        }
        SparseRule::LazyAdam {
            beta1, beta2, eps, ..
        } => {
            let BiasCorrection { first, second } = task.correction;
            for (((w, g), m), v) in w.iter_mut().zip(g).zip(state(0)).zip(state(1)) {
                *m = beta1 * *m + (1.0 - beta1) * g;
                *v = beta2 * *v + (1.0 - beta2) * g * g;
                *w -= learning_rate * (*m * first) / ((*v * second).sqrt() + eps);
            }
        }
    }
}
