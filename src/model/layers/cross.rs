use streamrec_kernels::{
    TensorMut, cross,
    linear::{self, Activation, LinearBackward},
};

use super::{Backward, Forward, Layer, LayerContext, ParamId, PassError};
use crate::model::planned_buffer::PlannedBuffer;

/// A cross layer of DCN-v2, `y = x0 * (x W^T + b) + x`, all `[rows, dim]`:
/// <https://arxiv.org/abs/2008.13535>.
pub(super) struct Cross {
    /// Weight `[dim, dim]`, bias `[dim]`.
    parameters: Vec<ParamId>,
    dim: usize,
    /// `x W^T + b`, `[batch, dim]`
    projection: PlannedBuffer,
}

impl Cross {
    pub(super) fn new(parameters: Vec<ParamId>, dim: usize, of: &LayerContext<'_>) -> Self {
        let projection = PlannedBuffer::new(of.context, of.batch * dim);
        Self {
            parameters,
            dim,
            projection,
        }
    }
}

impl Layer for Cross {
    fn parameters(&self) -> &[ParamId] {
        &self.parameters
    }

    fn workspace(&self, rows: usize) -> usize {
        rows * self.dim
    }

    fn forward(&mut self, pass: Forward<'_>) -> Result<(), PassError> {
        let (x0, x) = (pass.inputs.get(0), pass.inputs.get(1));
        let mut projection = self.projection.view_mut(x.shape()[0], self.dim);
        let [weight, bias] = [0, 1].map(|index| pass.parameters.weight(self.parameters[index]));
        let activation = Activation::None;
        linear::forward(
            pass.context,
            x,
            weight,
            Some(bias),
            activation,
            projection.reborrow(),
        )?;
        Ok(cross::combine_forward(
            pass.context,
            x0,
            projection.as_ref(),
            x,
            pass.output,
        )?)
    }

    fn backward(&mut self, mut pass: Backward<'_>) -> Result<(), PassError> {
        let (x0, x) = (pass.inputs.get(0), pass.inputs.get(1));
        let rows = x.shape()[0];
        let (context, dy) = (pass.context, pass.d_output.as_ref());
        let (weights, gradients) = pass.parameters.weights_and_gradients();
        let [dw, db] = gradients.get_two_mut(self.parameters[0], self.parameters[1])?;
        let shape = [rows, self.dim];
        let mut d_projection = TensorMut::from_f32(&mut pass.workspace[..rows * self.dim], &shape);
        let projection = self.projection.view(rows, self.dim);
        pass.d_inputs.two(context, |d_x0, mut d_x| {
            cross::combine_backward(
                context,
                x0,
                projection,
                dy,
                d_projection.reborrow(),
                d_x0.view,
                d_x0.accumulate,
                d_x.view.reborrow(),
                d_x.accumulate,
            )?;
            let operands = LinearBackward {
                x,
                w: weights.get(self.parameters[0]),
                y: projection,
                activation: Activation::None,
                dy: d_projection,
                dw,
                db: Some(db),
                accumulate_weights: pass.accumulate,
                dx: Some(d_x.view),
                accumulate_dx: true,
            };
            Ok(linear::backward(context, operands)?)
        })
    }
}
