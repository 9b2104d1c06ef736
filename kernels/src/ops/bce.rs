//! Weighted binary cross-entropy of logits, with its gradient.
//!
//! For a logit `z`, a label `t` and a sample weight `w`,
//! `loss = w * (max(z, 0) - z * t + ln(1 + exp(-|z|))) / W` and
//! `d_logit = w * (sigmoid(z) - t) / W`, where `W` is the weight sum of the **global** batch, so
//! that gradients and losses of all ranks simply add up. Labels may be probabilities. The gradient
//! may be scaled, so that half precision can hold it.

use super::operand::{expect, expect_len, expect_vector};
use crate::{
    device::{Context, Device},
    error::Result,
    tensor::{TensorMut, TensorRef},
};

/// Samples of one partial sum of the loss.
const PANEL_ROWS: usize = 512;

/// Writes the gradient and the probabilities, and returns this batch's share of the loss.
///
/// `logits, labels, d_logits, probabilities: [batch, heads]`, `weights: [batch]`,
/// `head_weights: [heads]`. A head's loss and gradient are multiplied by its weight, the gradient
/// alone by `gradient_scale`. A batch without weight (`weight_sum == 0`) has no loss and no gradient.
///
/// # Errors
/// When the shapes do not fit.
#[allow(clippy::too_many_arguments)] // The operands of one formula.
pub fn forward_backward(
    context: &Context,
    logits: TensorRef<'_>,
    labels: TensorRef<'_>,
    weights: TensorRef<'_>,
    weight_sum: f64,
    head_weights: &[f32],
    gradient_scale: f64,
    d_logits: TensorMut<'_>,
    probabilities: TensorMut<'_>,
) -> Result<f64> {
    const OPERATION: &str = "bce::forward_backward";
    let [batch, heads] = logits.shape();
    expect(OPERATION, "logits", &logits, [batch, heads])?;
    expect(OPERATION, "labels", &labels, [batch, heads])?;
    expect_vector(OPERATION, "weights", &weights, batch)?;
    expect_len(OPERATION, "head_weights", head_weights.len(), heads)?;
    expect(OPERATION, "d_logits", &d_logits, [batch, heads])?;
    expect(OPERATION, "probabilities", &probabilities, [batch, heads])?;
    let weights = weights.row(0);
    let scale = if weight_sum > 0.0 {
        1.0 / weight_sum
    } else {
        0.0
    };
    match context.device() {
        Device::Cpu => {
            // Twice the floats: each partial sum is an f64.
            let mut partial = context.scratch(2 * batch.div_ceil(PANEL_ROWS));
            let partial: &mut [f64] = bytemuck::cast_slice_mut(&mut partial);
            let sums = crate::device::DisjointMut::new(partial);
            context.for_each_panel(batch, PANEL_ROWS, |rows| {
                // SAFETY: panels are disjoint ranges of rows, one call each.
                let mut d_logits = unsafe { d_logits.alias_rows(rows.clone()) };
                // SAFETY: as above.
                let mut probabilities = unsafe { probabilities.alias_rows(rows.clone()) };
                let panel = rows.start / PANEL_ROWS;
                let mut loss = 0.0;
                for (index, row) in rows.enumerate() {
                    let weight = f64::from(weights[row]) * scale;
                    let weights = (weight, gradient_scale);
                    let operands = (logits.row(row), labels.row(row), head_weights);
                    let out = (d_logits.row_mut(index), probabilities.row_mut(index));
                    loss += sample(operands, weights, out);
                }
                // SAFETY: each panel writes its own sum.
                unsafe { sums.slice(panel..panel + 1)[0] = loss };
            });
            Ok(partial.iter().sum())
        }
    }
}

/// One sample: returns its loss.
fn sample(
    (logits, labels, head_weights): (&[f32], &[f32], &[f32]),
    (weight, gradient_scale): (f64, f64),
    (d_logits, probabilities): (&mut [f32], &mut [f32]),
) -> f64 {
    let mut loss = 0.0;
    for head in 0..logits.len() {
        let (logit, label) = (f64::from(logits[head]), f64::from(labels[head]));
        let weight = weight * f64::from(head_weights[head]);
        // exp never overflows: its argument is not positive.
        let exp = (-logit.abs()).exp();
        let probability = if logit >= 0.0 {
            1.0 / (1.0 + exp)
        } else {
            exp / (1.0 + exp)
        };
        probabilities[head] = probability as f32;
        d_logits[head] = (weight * (probability - label) * gradient_scale) as f32;
        loss += weight * (logit.max(0.0) - logit * label + exp.ln_1p());
    }
    loss
}
