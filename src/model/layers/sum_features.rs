use streamrec_kernels::sum_features;

use super::{Backward, Forward, Layer, PassError};

/// The sum of `features` vectors: `[rows, features * dim]` to `[rows, dim]`.
pub(super) struct SumFeatures {
    pub(super) features: usize,
    pub(super) dim: usize,
}

impl Layer for SumFeatures {
    fn forward(&mut self, pass: Forward<'_>) -> Result<(), PassError> {
        let (x, Self { features, dim }) = (pass.inputs.get(0), self);
        Ok(sum_features::forward(
            pass.context,
            x,
            *features,
            *dim,
            pass.output,
        )?)
    }

    fn backward(&mut self, mut pass: Backward<'_>) -> Result<(), PassError> {
        let dy = pass.d_output.as_ref();
        let Some(dx) = pass.d_inputs.get(0) else {
            return Ok(());
        };
        let Self { features, dim } = *self;
        Ok(sum_features::backward(
            pass.context,
            features,
            dim,
            dy,
            dx.view,
            dx.accumulate,
        )?)
    }
}
