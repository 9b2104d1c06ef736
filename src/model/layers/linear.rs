use streamrec_kernels::linear::{self, Activation, LinearBackward};

use super::{Backward, Forward, Layer, ParamId, PassError};

/// `y = activation(x W^T + b)`, `x: [rows, inputs]`, `y: [rows, outputs]`.
pub(super) struct Linear {
    /// Weight `[outputs, inputs]`, then perhaps bias `[outputs]`.
    parameters: Vec<ParamId>,
    activation: Activation,
}

impl Linear {
    pub(super) fn new(parameters: Vec<ParamId>, activation: Activation) -> Self {
        Self {
            parameters,
            activation,
        }
    }
}

impl Layer for Linear {
    fn parameters(&self) -> &[ParamId] {
        &self.parameters
    }

    fn forward(&mut self, pass: Forward<'_>) -> Result<(), PassError> {
        let (weight, bias) = pass.parameters.weight_and_bias(&self.parameters);
        let x = pass.inputs.get(0);
        Ok(linear::forward(
            pass.context,
            x,
            weight,
            bias,
            self.activation,
            pass.output,
        )?)
    }

    fn backward(&mut self, mut pass: Backward<'_>) -> Result<(), PassError> {
        let (weights, gradients) = pass.parameters.weights_and_gradients();
        let (dw, db) = gradients.weight_and_bias_mut(&self.parameters)?;
        let d_input = pass.d_inputs.get(0);
        let accumulate_dx = d_input.as_ref().is_some_and(|gradient| gradient.accumulate);
        let operands = LinearBackward {
            x: pass.inputs.get(0),
            w: weights.get(self.parameters[0]),
            y: pass.output,
            activation: self.activation,
            dy: pass.d_output,
            dw,
            db,
            accumulate_weights: pass.accumulate,
            dx: d_input.map(|gradient| gradient.view),
            accumulate_dx,
        };
        Ok(linear::backward(pass.context, operands)?)
    }
}
