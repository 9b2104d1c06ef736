//! Weighted binary cross-entropy of logits, with its gradient.

use super::launch::{Address, Kernel, Launch, Matrix, THREADS, blocks_for, count, of_dtype};
use crate::{
    error::Result,
    ops::operand::{expect, expect_float},
};

const OPERATION: &str = "cuda::bce::forward_backward";
const BCE: [&str; 3] = ["bce<float>", "bce<bfloat16>", "bce<float16>"];
pub(super) const KERNELS: &[&str] = &[BCE[0], BCE[1], BCE[2], "sum_partial"];

/// The operands of [`forward_backward`].
#[derive(Debug, Clone, Copy)]
pub struct Bce {
    /// `[batch, heads]`, of any type.
    pub logits: Matrix,
    /// `[batch, heads]`, float32.
    pub labels: Matrix,
    /// `[batch]` of `f32`.
    pub weights: Address,
    /// `[heads]` of `f32`.
    pub head_weights: Address,
    /// The weight sum of the global batch. `[1]` of `f64`
    pub weight_sum: Address,
    /// The [`Step`](super::Step), for the loss scale.
    pub step: Address,
    /// Receives the scaled gradient, `[batch, heads]`, of the type of the logits.
    pub d_logits: Matrix,
    /// Receives the probabilities, `[batch, heads]`, float32.
    pub probabilities: Matrix,
    /// Working memory, `[partial_len(batch)]` of `f64`.
    pub partial: Address,
    /// Receives this batch's share of the loss. `[1]` of `f64`
    pub loss: Address,
}

/// Partial sums of the loss of a batch.
pub fn partial_len(batch: usize) -> usize {
    batch.div_ceil(THREADS as usize).max(1)
}

/// Loss, gradient and probabilities, as [`bce::forward_backward`](crate::bce::forward_backward)'s.
///
/// # Errors
/// When the shapes do not fit.
pub fn forward_backward(operands: &Bce) -> Result<[Launch; 2]> {
    let shape @ [batch, heads] = operands.logits.shape;
    expect_float(OPERATION, "logits", &operands.logits, shape)?;
    expect(OPERATION, "labels", &operands.labels, shape)?;
    expect_float(OPERATION, "d_logits", &operands.d_logits, shape)?;
    expect(OPERATION, "probabilities", &operands.probabilities, shape)?;
    super::launch::expect_dtype(
        OPERATION,
        "d_logits",
        &operands.d_logits,
        operands.logits.dtype,
    )?;
    let rows = count(OPERATION, "a batch has fewer than 2^31 samples", batch)?;
    let columns = count(OPERATION, "there are fewer than 2^31 heads", heads)?;
    let blocks = blocks_for(batch, THREADS as usize, u32::MAX);
    let kernel = of_dtype("bce", BCE, operands.logits.dtype);
    let pass = Launch::new(kernel, blocks, THREADS)
        .with_matrix(&operands.logits)
        .with_matrix(&operands.labels)
        .with(operands.weights)
        .with(operands.head_weights)
        .with(operands.weight_sum)
        .with(operands.step)
        .with_matrix(&operands.d_logits)
        .with_matrix(&operands.probabilities)
        .with(operands.partial)
        .with(rows)
        .with(columns);
    let sum = sum_partial(operands.partial, blocks, operands.loss);
    Ok([pass, sum])
}

/// Adds up the partial sums of several batches, each of which [`forward_backward`] put behind those before, all of them
/// `[len]`; the second of its launches is this for one batch. `loss: [1]` of `f64`.
///
/// # Errors
/// When there are too many.
pub fn sum(partial: Address, len: usize, loss: Address) -> Result<Launch> {
    let len = count(OPERATION, "there are fewer than 2^31 partial sums", len)?;
    Ok(sum_partial(partial, len, loss))
}

fn sum_partial(partial: Address, len: u32, loss: Address) -> Launch {
    Launch::new(Kernel::new("bce", "sum_partial"), 1, THREADS)
        .with(partial)
        .with(len)
        .with(loss)
}
