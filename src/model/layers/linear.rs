use streamrec_kernels::linear::{self, Activation, LinearBackward};

use super::{Backward, Forward, Layer, Masks, ParamId, PassError};

/// `y = activation(x W^T + b)`, `x: [rows, inputs]`, `y: [rows, outputs]`.
pub(super) struct Linear {
    /// Weight `[outputs, inputs]`, then perhaps bias `[outputs]`.
    parameters: Vec<ParamId>,
    activation: Activation,
    /// The activation whose gradient this layer computes: that of its own sums, and that of its input.
    of_sums: Activation,
    of_input: Activation,
}

impl Linear {
    /// The layer of the node at `index`.
    pub(super) fn new(
        parameters: Vec<ParamId>,
        activation: Activation,
        index: usize,
        masks: &Masks,
    ) -> Self {
        let none = Activation::None;
        Self {
            parameters,
            activation,
            of_sums: if masks.is_masked(index) {
                none
            } else {
                activation
            },
            of_input: if masks.masks_input(index) {
                Activation::Relu
            } else {
                none
            },
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
            activation: self.of_sums,
            dy: pass.d_output,
            dw,
            db,
            accumulate_weights: pass.accumulate,
            dx: d_input.map(|gradient| gradient.view),
            accumulate_dx,
            x_activation: self.of_input,
        };
        Ok(linear::backward(pass.context, operands)?)
    }
}
