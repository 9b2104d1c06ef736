use streamrec_artifact::Node;
use streamrec_kernels::{
    add, cross,
    linear::{self, Activation, LinearBackward},
};

use super::{
    Backward, Forward, Layer, LayerContext, ModelError, ParamId, PassError,
    group_matrix::{GatheredMatrix, SummedMatrix},
};
use crate::{config::Partition, model::planned_buffer::PlannedBuffer};

/// A cross layer of DCN-v2, `y = x0 * (x W^T + b) + x`, all `[rows, dim]`:
/// <https://arxiv.org/abs/2008.13535>.
///
/// The ranks of a tensor-parallel group each compute their own columns of the projection.
pub(super) struct Cross {
    /// Weight `[dim, dim]` and bias `[dim]`, or own rows of them.
    parameters: Vec<ParamId>,
    dim: usize,
    /// `x W^T + b`, `[batch, dim]`
    projection: PlannedBuffer,
    group: Option<Group>,
}

/// What the ranks of a group exchange.
struct Group {
    projection: GatheredMatrix,
    d_x: SummedMatrix,
}

impl Cross {
    pub(super) fn new(
        node: &Node,
        parameters: Vec<ParamId>,
        dim: usize,
        of: &LayerContext<'_>,
    ) -> Result<Self, ModelError> {
        let group = match of.shared.partition(&node.name) {
            Partition::Column => Some(Group {
                projection: GatheredMatrix::new(of.shared.comm(), of.batch, dim)?,
                d_x: SummedMatrix::new(of.shared.comm(), of.batch, dim)?,
            }),
            _ => None,
        };
        let dtype = of.parameters.compute_dtype();
        Ok(Self {
            parameters,
            dim,
            projection: PlannedBuffer::new(of.context, dtype, of.batch * dim),
            group,
        })
    }
}

impl Layer for Cross {
    fn parameters(&self) -> &[ParamId] {
        &self.parameters
    }

    fn workspace(&self) -> usize {
        self.dim
    }

    fn forward(&mut self, pass: Forward<'_>) -> Result<(), PassError> {
        let (x0, x) = (pass.inputs.get(0), pass.inputs.get(1));
        let mut projection = self.projection.view_mut(x.shape()[0], self.dim);
        let [weight, bias] = [0, 1].map(|index| pass.parameters.weight(self.parameters[index]));
        let (context, bias, activation) = (pass.context, Some(bias), Activation::None);
        match &mut self.group {
            None => linear::forward(context, x, weight, bias, activation, projection.reborrow())?,
            Some(Group {
                projection: own, ..
            }) => {
                let part = own.own(x.shape()[0])?;
                linear::forward(context, x, weight, bias, activation, part)?;
                own.gather(context, projection.reborrow(), false)?;
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
        let (weights, gradients) = pass.parameters.weights_and_gradients();
        let [dw, db] = gradients.get_two_mut(self.parameters[0], self.parameters[1])?;
        let mut d_projection = pass.workspace;
        let projection = self.projection.view(rows, self.dim);
        let group = &mut self.group;
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
            let mut own = LinearBackward {
                x,
                w: weights.get(self.parameters[0]),
                y: projection,
                activation: Activation::None,
                dy: d_projection,
                dw,
                db: Some(db),
                accumulate_weights: pass.accumulate,
                dx: None,
                accumulate_dx: true,
                x_activation: Activation::None,
            };
            let Some(Group {
                projection,
                d_x: sum,
            }) = group
            else {
                own.dx = Some(d_x.view);
                return Ok(linear::backward(context, own)?);
            };
            own.y = own.y.columns(projection.own_columns());
            own.dy = own.dy.columns(projection.own_columns());
            linear::backward_input(context, &mut own, sum.summand(rows)?)?;
            // The sum travels while the gradients of the weights are computed.
            let event = sum.start()?;
            linear::backward(context, own)?;
            Ok(add::accumulate(
                context,
                sum.finish(event, rows)?,
                d_x.view,
            )?)
        })
    }
}
