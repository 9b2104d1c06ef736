use streamrec_artifact::Node;
use streamrec_kernels::linear::{self, Activation, LinearBackward};

use super::{
    Backward, Forward, Layer, LayerContext, ModelError, ParamId, PassError,
    group_matrix::{GatheredMatrix, SummedMatrix},
};

/// A linear layer of which each rank of a tensor-parallel group computes its own outputs:
/// `y = activation(x W^T + b)`, `x: [rows, inputs]`, own columns of `y: [rows, outputs / ranks]`.
///
/// Every rank needs all of `x`, so the gradient of `x` is the sum over the ranks.
pub(super) struct ColumnParallel {
    /// Own rows of the weight, `[outputs / ranks, inputs]`, then perhaps of the bias.
    parameters: Vec<ParamId>,
    activation: Activation,
    /// Where a layer that is not row-parallel reads the value.
    gathered: Option<GatheredMatrix>,
    d_input: SummedMatrix,
}

impl ColumnParallel {
    pub(super) fn new(
        node: &Node,
        parameters: Vec<ParamId>,
        activation: Activation,
        of: &LayerContext<'_>,
    ) -> Result<Self, ModelError> {
        let weight = &of.parameters.layout().get(parameters[0]).extent;
        let (comm, batch) = (of.shared.comm(), of.batch);
        let gathered = if of.shared.is_apart(&node.name) {
            None
        } else {
            Some(GatheredMatrix::new(comm, batch, weight.shape[0])?)
        };
        Ok(Self {
            d_input: SummedMatrix::new(comm, batch, weight.width())?,
            parameters,
            activation,
            gathered,
        })
    }
}

impl Layer for ColumnParallel {
    fn parameters(&self) -> &[ParamId] {
        &self.parameters
    }

    fn forward(&mut self, pass: Forward<'_>) -> Result<(), PassError> {
        let (context, x, activation) = (pass.context, pass.inputs.get(0), self.activation);
        let (weight, bias) = pass.parameters.weight_and_bias(&self.parameters);
        let Some(gathered) = &mut self.gathered else {
            let output = pass.output;
            return Ok(linear::forward(
                context, x, weight, bias, activation, output,
            )?);
        };
        let own = gathered.own(x.shape()[0])?;
        linear::forward(context, x, weight, bias, activation, own)?;
        gathered.gather(context, pass.output, false)
    }

    fn backward(&mut self, mut pass: Backward<'_>) -> Result<(), PassError> {
        let (context, x) = (pass.context, pass.inputs.get(0));
        let rows = x.shape()[0];
        let (weights, gradients) = pass.parameters.weights_and_gradients();
        let (dw, db) = gradients.weight_and_bias_mut(&self.parameters)?;
        let (y, dy) = match &self.gathered {
            None => (pass.output, pass.d_output),
            Some(gathered) => (
                pass.output.columns(gathered.own_columns()),
                pass.d_output.columns(gathered.own_columns()),
            ),
        };
        let mut operands = LinearBackward {
            x,
            w: weights.get(self.parameters[0]),
            y,
            activation: self.activation,
            dy,
            dw,
            db,
            accumulate_weights: pass.accumulate,
            dx: None,
            accumulate_dx: false,
            x_activation: Activation::None,
        };
        let Some(gradient) = pass.d_inputs.get(0) else {
            return Ok(linear::backward(context, operands)?);
        };
        let sums = &mut self.d_input;
        linear::backward_input(context, &mut operands, sums.summand(rows)?)?;
        // The sum travels while the gradients of the weights are computed.
        let sum = sums.start()?;
        linear::backward(context, operands)?;
        gradient.receive(context, sums.finish(sum, rows)?)
    }
}
