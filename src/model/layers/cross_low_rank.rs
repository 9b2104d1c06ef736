use streamrec_artifact::Node;
use streamrec_kernels::{
    add, cross,
    linear::{self, Activation, LinearBackward},
};

use super::{
    Backward, Forward, Layer, LayerContext, ModelError, ParamId, PassError,
    group_matrix::SummedMatrix,
};
use crate::{config::Partition, model::planned_buffer::PlannedBuffer};

/// A cross layer of DCN-v2 with a matrix of low rank, `y = x0 * ((x V^T) W^T + b) + x`; nothing
/// stands between the two products. `x0, x, y: [rows, dim]`.
///
/// The ranks of a tensor-parallel group share the columns between V and W: `rank` is the number of
/// those that are here, and both `(x V^T) W^T` and the gradient of `x` are sums over the ranks.
pub(super) struct CrossLowRank {
    /// V `[rank, dim]`, W `[dim, rank]`, bias `[dim]`.
    parameters: Vec<ParamId>,
    dim: usize,
    rank: usize,
    /// `x V^T`, `[batch, rank]`
    inner: PlannedBuffer,
    /// `(x V^T) W^T + b`, `[batch, dim]`
    projection: PlannedBuffer,
    /// What a group adds up: `(x V^T) W^T`, then the gradient of `x`.
    sums: Option<SummedMatrix>,
}

impl CrossLowRank {
    pub(super) fn new(
        node: &Node,
        parameters: Vec<ParamId>,
        dim: usize,
        of: &LayerContext<'_>,
    ) -> Result<Self, ModelError> {
        let rank = of.parameters.layout().get(parameters[0]).extent.rows.len();
        let sums = match of.shared.partition(&node.name) {
            Partition::Rank => Some(SummedMatrix::new(of.shared.comm(), of.batch, dim)?),
            _ => None,
        };
        let dtype = of.parameters.compute_dtype();
        Ok(Self {
            parameters,
            dim,
            rank,
            inner: PlannedBuffer::new(of.context, dtype, of.batch * rank),
            projection: PlannedBuffer::new(of.context, dtype, of.batch * dim),
            sums,
        })
    }
}

impl Layer for CrossLowRank {
    fn parameters(&self) -> &[ParamId] {
        &self.parameters
    }

    fn workspace(&self) -> usize {
        self.dim + self.rank
    }

    fn forward(&mut self, pass: Forward<'_>) -> Result<(), PassError> {
        let (context, x0, x) = (pass.context, pass.inputs.get(0), pass.inputs.get(1));
        let rows = x.shape()[0];
        let mut inner = self.inner.view_mut(rows, self.rank);
        let mut projection = self.projection.view_mut(rows, self.dim);
        let [v, w, bias] = [0, 1, 2].map(|index| pass.parameters.weight(self.parameters[index]));
        linear::forward(context, x, v, None, Activation::None, inner.reborrow())?;
        let (u, bias) = (inner.as_ref(), Some(bias));
        let none = Activation::None;
        match &mut self.sums {
            None => linear::forward(context, u, w, bias, none, projection.reborrow())?,
            Some(sums) => {
                linear::forward(context, u, w, None, none, sums.summand(rows)?)?;
                let sums = sums.sum(rows)?;
                linear::finish(context, sums, bias, none, projection.reborrow())?;
            }
        }
        Ok(cross::combine_forward(
            context,
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
        let [v, w, bias] = [0, 1, 2].map(|index| self.parameters[index]);
        let (weights, gradients) = pass.parameters.weights_and_gradients();
        let (mut d_projection, mut d_inner) = pass.workspace.split_columns(self.dim);
        let inner = self.inner.view(rows, self.rank);
        let projection = self.projection.view(rows, self.dim);
        let sums = &mut self.sums;
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
            let [dw, db] = gradients.get_two_mut(w, bias)?;
            let outer = LinearBackward {
                x: inner,
                w: weights.get(w),
                y: projection,
                activation: Activation::None,
                dy: d_projection,
                dw,
                db: Some(db),
                accumulate_weights: pass.accumulate,
                dx: Some(d_inner.reborrow()),
                accumulate_dx: false,
                x_activation: Activation::None,
            };
            linear::backward(context, outer)?;
            let mut first = LinearBackward {
                x,
                w: weights.get(v),
                y: inner,
                activation: Activation::None,
                dy: d_inner,
                dw: gradients.get_mut(v)?,
                db: None,
                accumulate_weights: pass.accumulate,
                dx: None,
                accumulate_dx: true,
                x_activation: Activation::None,
            };
            let Some(sums) = sums else {
                first.dx = Some(d_x.view);
                return Ok(linear::backward(context, first)?);
            };
            linear::backward_input(context, &mut first, sums.summand(rows)?)?;
            // The sum travels while the gradients of the weights are computed.
            let sum = sums.start()?;
            linear::backward(context, first)?;
            Ok(add::accumulate(context, sums.finish(sum, rows)?, d_x.view)?)
        })
    }
}
