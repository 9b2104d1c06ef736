use streamrec_kernels::dot_interaction;

use super::{Backward, Forward, Layer, PassError};

/// The first of `features` vectors, then all pairwise dot products:
/// `[rows, features * dim]` to `[rows, dim + features (features - 1) / 2]`.
pub(super) struct DotInteraction {
    pub(super) features: usize,
    pub(super) dim: usize,
}

impl Layer for DotInteraction {
    fn forward(&mut self, pass: Forward<'_>) -> Result<(), PassError> {
        let (x, Self { features, dim }) = (pass.inputs.get(0), self);
        Ok(dot_interaction::forward(
            pass.context,
            x,
            *features,
            *dim,
            pass.output,
        )?)
    }

    fn backward(&mut self, mut pass: Backward<'_>) -> Result<(), PassError> {
        let (x, dy) = (pass.inputs.get(0), pass.d_output.as_ref());
        let Some(dx) = pass.d_inputs.get(0) else {
            return Ok(());
        };
        let Self { features, dim } = *self;
        let (dx, accumulate) = (dx.view, dx.accumulate);
        Ok(dot_interaction::backward(
            pass.context,
            x,
            features,
            dim,
            dy,
            dx,
            accumulate,
        )?)
    }
}
