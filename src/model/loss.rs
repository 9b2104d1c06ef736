//! The loss: weighted binary cross-entropy of logits.

use streamrec_kernels::{Context, DType, TensorRef, bce};

use super::{ModelError, planned_buffer::PlannedBuffer};

/// Computes the loss and its gradient, and keeps both with the probabilities.
///
/// The gradient of a logit is `w * (sigmoid(logit) - label) / W * head_weight`, where `W` is the
/// weight sum of the **global** batch: sums over ranks and micro-batches need no division. It may be
/// scaled.
pub struct Loss {
    head_weights: Vec<f32>,
    /// The factor on gradients, and on nothing else.
    scale: f64,
    /// `[batch * heads]`
    d_logits: PlannedBuffer,
    /// `[batch * heads]`
    probabilities: PlannedBuffer,
    rows: usize,
}

impl Loss {
    /// For batches of up to `batch` samples, with a weight for each label's loss.
    pub fn new(context: &Context, batch: usize, head_weights: Vec<f32>) -> Self {
        let floats = || PlannedBuffer::new(context, DType::F32, batch * head_weights.len());
        let (d_logits, probabilities) = (floats(), floats());
        Self {
            head_weights,
            scale: 1.0,
            d_logits,
            probabilities,
            rows: 0,
        }
    }

    /// Multiplies all gradients by a factor, so that half precision can hold them.
    pub fn set_gradient_scale(&mut self, scale: f64) {
        self.scale = scale;
    }

    /// This batch's share of the global loss. `logits: [rows, heads]`, `labels: [rows * heads]`,
    /// `weights: [rows]`; `weight_sum` is that of the global batch.
    ///
    /// # Errors
    /// When shapes do not fit, or the batch is larger than planned.
    pub fn compute(
        &mut self,
        context: &Context,
        logits: TensorRef<'_>,
        labels: &[f32],
        weights: &[f32],
        weight_sum: f64,
    ) -> Result<f64, ModelError> {
        let ([rows, heads], own) = (logits.shape(), self.head_weights.len());
        let refuse = |what, expected: usize, got: usize| {
            let (expected, got) = (expected.to_string(), got.to_string());
            Err(ModelError::Batch {
                what,
                expected,
                got,
            })
        };
        if heads != own {
            return refuse("the number of logits a sample", own, heads);
        }
        if rows * heads > self.d_logits.len() {
            return refuse(
                "the number of samples",
                self.d_logits.len() / heads.max(1),
                rows,
            );
        }
        if labels.len() != rows * heads {
            return refuse("the number of labels", rows * heads, labels.len());
        }
        if weights.len() != rows {
            return refuse("the number of sample weights", rows, weights.len());
        }
        self.rows = rows;
        bce::forward_backward(
            context,
            logits,
            TensorRef::from_f32(labels, &[rows, heads]),
            TensorRef::from_f32(weights, &[rows]),
            weight_sum,
            &self.head_weights,
            self.scale,
            self.d_logits.view_mut(rows, heads),
            self.probabilities.view_mut(rows, heads),
        )
        .map_err(ModelError::kernel("the loss"))
    }

    /// The gradient of the logits, `[rows, heads]`.
    pub fn d_logits(&self) -> TensorRef<'_> {
        self.d_logits.view(self.rows, self.head_weights.len())
    }

    /// The probability of each label, `[rows, heads]`.
    pub fn probabilities(&self) -> &[f32] {
        let view = self.probabilities.view(self.rows, self.head_weights.len());
        view.f32().unwrap_or_default()
    }
}

/// `1 / (1 + exp(-logit))`, in double precision as in the loss, without overflow.
pub(super) fn sigmoid(logit: f32) -> f32 {
    let logit = f64::from(logit);
    let exp = (-logit.abs()).exp();
    let probability = if logit >= 0.0 {
        1.0 / (1.0 + exp)
    } else {
        exp / (1.0 + exp)
    };
    probability as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_has_no_loss_and_no_gradient() {
        let context = Context::cpu(1, false).unwrap();
        let mut loss = Loss::new(&context, 3, vec![1.0]);
        let logits = [0.5, -1.0, 7.0];
        let view = TensorRef::from_f32(&logits, &[3, 1]);
        let value = loss
            .compute(&context, view, &[1.0, 0.0, 0.0], &[2.0, 1.0, 0.0], 3.0)
            .unwrap();
        let bce = |logit: f64, label: f64| -> f64 {
            let p = 1.0 / (1.0 + (-logit).exp());
            -(label * p.ln() + (1.0 - label) * (1.0 - p).ln())
        };
        assert!((value - (2.0 * bce(0.5, 1.0) + bce(-1.0, 0.0)) / 3.0).abs() < 1e-12);
        assert_eq!(loss.d_logits().row(2), [0.0]);
        let scores: Vec<f32> = logits.iter().map(|&logit| sigmoid(logit)).collect();
        assert_eq!(loss.probabilities(), scores);
    }

    #[test]
    fn a_larger_batch_is_refused() {
        let context = Context::cpu(1, false).unwrap();
        let mut loss = Loss::new(&context, 1, vec![1.0]);
        let view = TensorRef::from_f32(&[0.0; 2], &[2, 1]);
        assert!(
            loss.compute(&context, view, &[1.0; 2], &[1.0; 2], 2.0)
                .is_err()
        );
    }
}
