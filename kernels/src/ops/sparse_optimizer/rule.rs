/// How a touched row changes. Below, `g` is the row's summed gradient, clipped to `max_row_norm`
/// and then increased by `weight_decay * w` (an L2 penalty on touched rows).
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum SparseRule {
    /// `w -= learning_rate * g`.
    Sgd {
        /// Strength of the L2 penalty.
        weight_decay: f32,
        /// The largest L2 norm of a row's gradient; larger ones are scaled down to it.
        max_row_norm: Option<f32>,
    },
    /// One accumulator a row: `s += mean_d(g_d^2)`, then
    /// `w -= learning_rate / (sqrt(s) + eps) * g` with the new `s`
    /// (FBGEMM's `EXACT_ROWWISE_ADAGRAD`, <https://github.com/pytorch/FBGEMM>).
    RowWiseAdagrad {
        /// Added to the root, so that it never is zero.
        eps: f32,
        /// The value `s` starts from.
        initial_accumulator: f32,
        /// Strength of the L2 penalty.
        weight_decay: f32,
        /// The largest L2 norm of a row's gradient; larger ones are scaled down to it.
        max_row_norm: Option<f32>,
    },
    /// One accumulator an element: `s += g^2`, then `w -= learning_rate * g / (sqrt(s) + eps)`
    /// (<https://jmlr.org/papers/v12/duchi11a.html>).
    Adagrad {
        /// Added to the root, so that it never is zero.
        eps: f32,
        /// The value `s` starts from.
        initial_accumulator: f32,
        /// Strength of the L2 penalty.
        weight_decay: f32,
        /// The largest L2 norm of a row's gradient; larger ones are scaled down to it.
        max_row_norm: Option<f32>,
    },
    /// Adam whose moments change only for touched rows (PyTorch's `SparseAdam`):
    /// `m = beta1 * m + (1 - beta1) * g`, `v = beta2 * v + (1 - beta2) * g^2`,
    /// `w -= learning_rate * m' / (sqrt(v') + eps)` with `m' = m / (1 - beta1^step)`,
    /// `v' = v / (1 - beta2^step)`, where `step` counts the global steps from 1.
    LazyAdam {
        /// The decay of the first moment.
        beta1: f32,
        /// The decay of the second moment.
        beta2: f32,
        /// Added to the root, so that it never is zero.
        eps: f32,
        /// Strength of the L2 penalty.
        weight_decay: f32,
        /// The largest L2 norm of a row's gradient; larger ones are scaled down to it.
        max_row_norm: Option<f32>,
    },
}

impl SparseRule {
    /// Whether all columns of a row take part in the update of each: through its norm, or the mean of
    /// its squares.
    pub fn couples_columns(&self) -> bool {
        matches!(self, Self::RowWiseAdagrad { .. }) || self.max_row_norm().is_some()
    }

    pub(crate) fn max_row_norm(&self) -> Option<f32> {
        match *self {
            Self::Sgd { max_row_norm, .. }
            | Self::RowWiseAdagrad { max_row_norm, .. }
            | Self::Adagrad { max_row_norm, .. }
            | Self::LazyAdam { max_row_norm, .. } => max_row_norm,
        }
    }

    /// The strength of the decay.
    pub fn weight_decay(&self) -> f32 {
        match *self {
            Self::Sgd { weight_decay, .. }
            | Self::RowWiseAdagrad { weight_decay, .. }
            | Self::Adagrad { weight_decay, .. }
            | Self::LazyAdam { weight_decay, .. } => weight_decay,
        }
    }
}
