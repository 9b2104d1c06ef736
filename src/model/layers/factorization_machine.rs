use streamrec_kernels::factorization_machine;

use super::{Backward, Forward, Layer, PassError};

/// The sum of all pairwise dot products of `features` vectors:
/// `[rows, features * dim]` to `[rows, 1]`.
pub(super) struct FactorizationMachine {
    pub(super) features: usize,
    pub(super) dim: usize,
}

impl Layer for FactorizationMachine {
    fn forward(&mut self, pass: Forward<'_>) -> Result<(), PassError> {
        let (x, Self { features, dim }) = (pass.inputs.get(0), self);
        Ok(factorization_machine::forward(
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
        Ok(factorization_machine::backward(
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
