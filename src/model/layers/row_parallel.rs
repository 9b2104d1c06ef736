use std::ops::Range;

use streamrec_artifact::Node;
use streamrec_kernels::linear::{self, Activation, LinearBackward};

use super::{
    Backward, Forward, Layer, LayerContext, ModelError, ParamId, PassError,
    group_matrix::{GatheredMatrix, SummedMatrix},
};

/// A linear layer of which each rank of a tensor-parallel group has its own inputs:
/// `y = activation(sum over ranks of x W^T, + b)`, own columns of `x: [rows, inputs / ranks]`,
/// `y: [rows, outputs]` on every rank.
pub(super) struct RowParallel {
    /// Own columns of the weight, `[outputs, inputs / ranks]`, then perhaps all of the bias.
    parameters: Vec<ParamId>,
    activation: Activation,
    /// Own columns of an input that every rank has in whole, and the gradient of all of them;
    /// `None` after a column-parallel layer, which leaves its ranks' columns apart.
    cut: Option<(Range<usize>, GatheredMatrix)>,
    sums: SummedMatrix,
}

impl RowParallel {
    pub(super) fn new(
        node: &Node,
        parameters: Vec<ParamId>,
        activation: Activation,
        of: &LayerContext<'_>,
    ) -> Result<Self, ModelError> {
        let weight = &of.parameters.layout().get(parameters[0]).extent;
        let (comm, batch) = (of.shared.comm(), of.batch);
        let cut = if of.shared.is_apart(&node.inputs[0]) {
            None
        } else {
            let d_input = GatheredMatrix::new(comm, batch, weight.width())?;
            Some((weight.columns.clone(), d_input))
        };
        Ok(Self {
            sums: SummedMatrix::new(comm, batch, weight.shape[0])?,
            parameters,
            activation,
            cut,
        })
    }
}

impl Layer for RowParallel {
    fn parameters(&self) -> &[ParamId] {
        &self.parameters
    }

    fn forward(&mut self, pass: Forward<'_>) -> Result<(), PassError> {
        let (context, mut x) = (pass.context, pass.inputs.get(0));
        if let Some((columns, _)) = &self.cut {
            x = x.columns(columns.clone());
        }
        let rows = x.shape()[0];
        let (weight, bias) = pass.parameters.weight_and_bias(&self.parameters);
        let summand = self.sums.summand(rows)?;
        linear::forward(context, x, weight, None, Activation::None, summand)?;
        let sums = self.sums.sum(rows)?;
        Ok(linear::finish(
            context,
            sums,
            bias,
            self.activation,
            pass.output,
        )?)
    }

    fn backward(&mut self, mut pass: Backward<'_>) -> Result<(), PassError> {
        let (context, mut x) = (pass.context, pass.inputs.get(0));
        let rows = x.shape()[0];
        if let Some((columns, _)) = &self.cut {
            x = x.columns(columns.clone());
        }
        let (weights, gradients) = pass.parameters.weights_and_gradients();
        let (dw, db) = gradients.weight_and_bias_mut(&self.parameters)?;
        let mut operands = LinearBackward {
            x,
            w: weights.get(self.parameters[0]),
            y: pass.output,
            activation: self.activation,
            dy: pass.d_output,
            dw,
            db,
            accumulate_weights: pass.accumulate,
            dx: None,
            accumulate_dx: false,
            x_activation: Activation::None,
        };
        match (&mut self.cut, pass.d_inputs.get(0)) {
            (Some((_, gathered)), Some(gradient)) => {
                linear::backward_input(context, &mut operands, gathered.own(rows)?)?;
                // Columns travel while the gradients of the weights are computed.
                let columns = gathered.start()?;
                linear::backward(context, operands)?;
                gathered.finish(columns, context, gradient.view, gradient.accumulate)
            }
            (_, d_input) => {
                operands.accumulate_dx = d_input.as_ref().is_some_and(|own| own.accumulate);
                operands.dx = d_input.map(|own| own.view);
                Ok(linear::backward(context, operands)?)
            }
        }
    }
}
