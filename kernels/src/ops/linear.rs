//! A fully connected layer: `y = activation(x . w^T + bias)`.

use super::{
    matrix_product::{Factor, multiply},
    operand::{expect, expect_vector},
};
use crate::{
    device::{Context, Device},
    error::Result,
    simd::{LANES, multiversion, transpose},
    tensor::{TensorMut, TensorRef},
};

/// Samples of one panel: bias, activation and column sums run while a panel is still in cache.
const PANEL_ROWS: usize = 256;
/// Batches of at least this size pay for transposing the weights first.
const TRANSPOSE_ROWS: usize = 256;
/// The gradient of the weights is summed over this many pieces of the batch at most. Their
/// number depends on the batch alone, so that threads do not change the result.
const PIECES: usize = 8;
/// The fewest samples of a piece.
const PIECE_ROWS: usize = 128;

/// What is applied to a layer's sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// The identity.
    #[default]
    None,
    /// `max(0, x)`; NaN stays NaN.
    Relu,
}

/// `y = activation(x . w^T + bias)` with `x: [batch, inputs]`, `w: [outputs, inputs]`,
/// `bias: [outputs]`, `y: [batch, outputs]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn forward(
    context: &Context,
    x: TensorRef<'_>,
    w: TensorRef<'_>,
    bias: Option<TensorRef<'_>>,
    activation: Activation,
    y: TensorMut<'_>,
) -> Result<()> {
    const OPERATION: &str = "linear::forward";
    let [batch, _] = y.shape();
    let [outputs, inputs] = w.shape();
    expect(OPERATION, "x", &x, [batch, inputs])?;
    expect(OPERATION, "w", &w, [outputs, inputs])?;
    expect(OPERATION, "y", &y, [batch, outputs])?;
    if let Some(bias) = &bias {
        expect_vector(OPERATION, "bias", bias, outputs)?;
    }
    match context.device() {
        Device::Cpu => {
            let bias = bias.map(|bias| bias.row(0));
            let mut scratch = context.scratch(transposed_len(batch, w));
            let right = transpose_weights(&mut scratch, w);
            context.for_each_panel(batch, PANEL_ROWS, |rows| {
                // SAFETY: panels are disjoint ranges of rows, one call each.
                let mut y = unsafe { y.alias_rows(rows.clone()) };
                multiply(y.reborrow(), false, Factor::new(x.rows(rows)), right);
                add_bias_and_activate(y, bias, activation);
            });
        }
    }
    Ok(())
}

/// `y = activation(sums + bias)`, all `[batch, outputs]`: what [`forward`] does after its product,
/// for sums that several ranks added up.
///
/// # Errors
/// When the shapes do not fit.
pub fn finish(
    context: &Context,
    sums: TensorRef<'_>,
    bias: Option<TensorRef<'_>>,
    activation: Activation,
    y: TensorMut<'_>,
) -> Result<()> {
    const OPERATION: &str = "linear::finish";
    let [batch, outputs] = y.shape();
    expect(OPERATION, "sums", &sums, [batch, outputs])?;
    expect(OPERATION, "y", &y, [batch, outputs])?;
    if let Some(bias) = &bias {
        expect_vector(OPERATION, "bias", bias, outputs)?;
    }
    match context.device() {
        Device::Cpu => {
            let bias = bias.map(|bias| bias.row(0));
            context.for_each_panel(batch, PANEL_ROWS, |rows| {
                // SAFETY: panels are disjoint ranges of rows, one call each.
                let mut y = unsafe { y.alias_rows(rows.clone()) };
                let sums = sums.rows(rows);
                for row in 0..sums.shape()[0] {
                    y.row_mut(row).copy_from_slice(sums.row(row));
                }
                add_bias_and_activate(y, bias, activation);
            });
        }
    }
    Ok(())
}

/// Floats that [`transpose_weights`] needs: none where the product reads `w` as it lies.
fn transposed_len(batch: usize, w: TensorRef<'_>) -> usize {
    let [outputs, inputs] = w.shape();
    let pays = batch >= TRANSPOSE_ROWS && outputs >= LANES && w.f32().is_some();
    if pays {
        inputs * outputs.next_multiple_of(LANES)
    } else {
        0
    }
}

/// `w^T` as the right factor. The product of each panel packs `w^T` by columns, which is a copy
/// when they are contiguous and a transposition when not: this transposes once for all panels.
fn transpose_weights<'a>(scratch: &'a mut [f32], w: TensorRef<'a>) -> Factor<'a> {
    let [outputs, inputs] = w.shape();
    match w.f32() {
        Some(elements) if !scratch.is_empty() => {
            let stride = outputs.next_multiple_of(LANES);
            transpose(elements, outputs, inputs, scratch, stride);
            let transposed = TensorRef::from_f32(scratch, &[inputs, stride]);
            Factor::new(transposed.columns(0..outputs))
        }
        _ => Factor::transposed(w),
    }
}

/// `max(0, x)`, but NaN stays NaN: a model that diverged must not look like one that did not.
#[inline(always)]
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// The gradient of [`relu`] at the value `y`; NaN lets the gradient pass.
#[inline(always)]
fn relu_gradient(y: f32, dy: f32) -> f32 {
    if y <= 0.0 { 0.0 } else { dy }
}

multiversion! {
    fn add_bias_and_activate(
        y: TensorMut<'_>,
        bias: Option<&[f32]>,
        activation: Activation,
    ) {
        let mut y = y;
        let rectified = activation == Activation::Relu;
        for row in 0..y.shape()[0] {
            let y = y.row_mut(row);
            match (bias, rectified) {
                (Some(bias), true) => {
                    y.iter_mut().zip(bias).for_each(|(y, b)| *y = relu(*y + b));
                }
                (Some(bias), false) => y.iter_mut().zip(bias).for_each(|(y, b)| *y += b),
                (None, true) => y.iter_mut().for_each(|y| *y = relu(*y)),
                (None, false) => {}
            }
        }
    }
}

/// The operands of [`backward`].
pub struct LinearBackward<'a> {
    /// The layer's input, `[batch, inputs]`.
    pub x: TensorRef<'a>,
    /// The weights, `[outputs, inputs]`.
    pub w: TensorRef<'a>,
    /// The layer's output, `[batch, outputs]`; read only with an activation.
    pub y: TensorRef<'a>,
    /// The activation of the forward call.
    pub activation: Activation,
    /// The gradient of `y`, `[batch, outputs]`; overwritten with that of the sums before the
    /// activation.
    pub dy: TensorMut<'a>,
    /// Receives the gradient of `w`, `[outputs, inputs]`.
    pub dw: TensorMut<'a>,
    /// Receives the gradient of the bias, `[outputs]`.
    pub db: Option<TensorMut<'a>>,
    /// Add to `dw` and `db` instead of overwriting them.
    pub accumulate_weights: bool,
    /// Receives the gradient of `x`, `[batch, inputs]`.
    pub dx: Option<TensorMut<'a>>,
    /// Add to `dx` instead of overwriting it.
    pub accumulate_dx: bool,
}

/// The gradients of [`forward`]: with `dz` the gradient before the activation,
/// `dw = dz^T . x`, `db = column sums of dz`, `dx = dz . w`.
///
/// # Errors
/// When the shapes do not fit.
pub fn backward(context: &Context, operands: LinearBackward<'_>) -> Result<()> {
    check_backward(&operands)?;
    match context.device() {
        Device::Cpu => backward_cpu(context, operands),
    }
    Ok(())
}

fn check_backward(operands: &LinearBackward<'_>) -> Result<()> {
    const OPERATION: &str = "linear::backward";
    let [batch, outputs] = operands.dy.shape();
    let inputs = operands.w.shape()[1];
    expect(OPERATION, "dy", &operands.dy, [batch, outputs])?;
    expect(OPERATION, "x", &operands.x, [batch, inputs])?;
    expect(OPERATION, "w", &operands.w, [outputs, inputs])?;
    expect(OPERATION, "dw", &operands.dw, [outputs, inputs])?;
    if operands.activation != Activation::None {
        expect(OPERATION, "y", &operands.y, [batch, outputs])?;
    }
    if let Some(db) = &operands.db {
        expect_vector(OPERATION, "db", db, outputs)?;
    }
    if let Some(dx) = &operands.dx {
        expect(OPERATION, "dx", dx, [batch, inputs])?;
    }
    Ok(())
}

fn backward_cpu(context: &Context, operands: LinearBackward<'_>) {
    let LinearBackward {
        x,
        w,
        y,
        activation,
        dy,
        dw,
        db,
        accumulate_weights,
        dx,
        accumulate_dx,
    } = operands;
    let [batch, outputs] = dy.shape();
    let panels = batch.div_ceil(PANEL_ROWS);
    let mut partial_sums = context.scratch(if db.is_some() { panels * outputs } else { 0 });
    let mut sums = TensorMut::from_f32(
        &mut partial_sums,
        &[panels * usize::from(db.is_some()), outputs],
    );
    let sums_of = |panel: usize| {
        // SAFETY: each panel writes its own row.
        db.is_some()
            .then(|| unsafe { sums.alias_rows(panel..panel + 1) })
    };
    context.for_each_panel(batch, PANEL_ROWS, |rows| {
        // SAFETY: panels are disjoint ranges of rows, one call each.
        let mut dz = unsafe { dy.alias_rows(rows.clone()) };
        let mask = (activation == Activation::Relu).then(|| y.rows(rows.clone()));
        mask_and_sum(dz.reborrow(), mask, sums_of(rows.start / PANEL_ROWS));
        if let Some(dx) = &dx {
            // SAFETY: as above.
            let dx = unsafe { dx.alias_rows(rows) };
            multiply(dx, accumulate_dx, Factor::new(dz.as_ref()), Factor::new(w));
        }
    });
    if let Some(mut db) = db {
        let db = db.row_mut(0);
        if !accumulate_weights {
            db.fill(0.0);
        }
        // In the order of the batch: the sum does not depend on which thread did which panel.
        for panel in 0..panels {
            db.iter_mut()
                .zip(sums.reborrow().row(panel))
                .for_each(|(db, sum)| *db += sum);
        }
    }
    weight_gradient(context, dy.as_ref(), x, dw, accumulate_weights);
}

/// `dw (+)= dz^T . x`: a product for each piece of the batch, then their sum in order.
fn weight_gradient(
    context: &Context,
    dz: TensorRef<'_>,
    x: TensorRef<'_>,
    dw: TensorMut<'_>,
    accumulate: bool,
) {
    let ([batch, outputs], inputs) = (dz.shape(), x.shape()[1]);
    let pieces = batch.div_ceil(PIECE_ROWS).clamp(1, PIECES);
    if pieces == 1 {
        return multiply(dw, accumulate, Factor::transposed(dz), Factor::new(x));
    }
    let piece_rows = batch.div_ceil(pieces);
    let mut scratch = context.scratch(pieces * outputs * inputs);
    let partial = TensorMut::from_f32(&mut scratch, &[pieces * outputs, inputs]);
    // More threads than pieces share a piece's outputs. That changes no sum, except that `gemm`
    // blocks products of at most 64 x 64 differently: those stay whole.
    let sharers = if inputs > 64 {
        context.threads().div_ceil(pieces)
    } else {
        1
    };
    let split = outputs.div_ceil(sharers).next_multiple_of(LANES).max(1);
    // A last part of a single output would be a vector product, which sums in another order: the
    // part before takes it.
    let splits = outputs.saturating_sub(1).div_ceil(split).max(1);
    context.for_each_panel(pieces * splits, 1, |task| {
        let (piece, part) = (task.start / splits, task.start % splits);
        let samples = batch.min(piece * piece_rows)..batch.min((piece + 1) * piece_rows);
        let end = if part + 1 == splits {
            outputs
        } else {
            (part + 1) * split
        };
        let columns = part * split..end;
        let rows = piece * outputs + columns.start..piece * outputs + columns.end;
        // SAFETY: each task writes its own outputs of its own piece.
        let partial = unsafe { partial.alias_rows(rows) };
        let left = Factor::transposed(dz.rows(samples.clone()).columns(columns));
        multiply(partial, false, left, Factor::new(x.rows(samples)));
    });
    let partial = partial.as_ref();
    context.for_each_panel(outputs, 32, |rows| {
        // SAFETY: panels are disjoint ranges of rows, one call each.
        let dw = unsafe { dw.alias_rows(rows.clone()) };
        add_pieces(dw, accumulate, partial, rows.start, outputs);
    });
}

multiversion! {
    /// Sums row `first + i` of each piece into row `i` of `dw`.
    fn add_pieces(
        dw: TensorMut<'_>,
        accumulate: bool,
        partial: TensorRef<'_>,
        first: usize,
        outputs: usize,
    ) {
        let mut dw = dw;
        for row in 0..dw.shape()[0] {
            let dw = dw.row_mut(row);
            for piece in 0..partial.shape()[0] / outputs {
                let partial = partial.row(piece * outputs + first + row);
                if piece == 0 && !accumulate {
                    dw.copy_from_slice(partial);
                } else {
                    dw.iter_mut().zip(partial).for_each(|(dw, partial)| *dw += partial);
                }
            }
        }
    }
}

multiversion! {
    /// Zeroes `dz` where `y` is not positive, and sums its columns, in one pass.
    fn mask_and_sum(
        dz: TensorMut<'_>,
        y: Option<TensorRef<'_>>,
        sums: Option<TensorMut<'_>>,
    ) {
        let (mut dz, mut sums) = (dz, sums);
        if let Some(sums) = &mut sums {
            sums.row_mut(0).fill(0.0);
        }
        if y.is_none() && sums.is_none() {
            return;
        }
        for row in 0..dz.shape()[0] {
            let dz = dz.row_mut(row);
            let sums = sums.as_mut().map(|sums| sums.row_mut(0));
            match (y, sums) {
                (Some(y), Some(sums)) => {
                    for ((dz, &y), sum) in dz.iter_mut().zip(y.row(row)).zip(sums) {
                        *dz = relu_gradient(y, *dz);
                        *sum += *dz;
                    }
                }
                (Some(y), None) => {
                    dz.iter_mut()
                        .zip(y.row(row))
                        .for_each(|(dz, &y)| *dz = relu_gradient(y, *dz));
                }
                (None, Some(sums)) => sums.iter_mut().zip(dz).for_each(|(sum, dz)| *sum += *dz),
                (None, None) => {}
            }
        }
    }
}
