use streamrec_kernels::cuda::{
    Executor, Matrix,
    cross::{Backward, combine_backward, combine_forward},
};

use super::{
    linear::{Exchange, LinearGradient, LinearProduct},
    memory::{DeviceBuffer, columns},
    pass::{InputGradient, Pass},
};
use crate::model::{ParamId, layers::PassError};

/// A cross layer of DCN-v2, `y = x0 * projection + x`, full or of low rank.
#[derive(Debug, Clone)]
pub(super) struct Cross {
    pub(super) matrix: CrossMatrix,
    pub(super) bias: ParamId,
    pub(super) dim: usize,
    /// Whether a tensor-parallel group shares it: each rank has its own columns of the projection, or in the low-rank
    /// form of what lies between V and W.
    pub(super) shared: bool,
    /// `[batch, dim]`
    pub(super) projection: DeviceBuffer,
}

/// What projects.
#[derive(Debug, Clone, Copy)]
pub(super) enum CrossMatrix {
    /// W `[dim, dim]`.
    Full { w: ParamId },
    /// V `[rank, dim]` and W `[dim, rank]`.
    LowRank {
        v: ParamId,
        w: ParamId,
        rank: usize,
        /// `x V^T`, `[batch, rank]`
        inner: DeviceBuffer,
    },
}

impl Cross {
    /// The parameters, in the order of the node's.
    pub(super) fn parameters(&self) -> Vec<ParamId> {
        match self.matrix {
            CrossMatrix::Full { w } => vec![w, self.bias],
            CrossMatrix::LowRank { v, w, .. } => vec![v, w, self.bias],
        }
    }

    /// Columns of working memory of a backward pass.
    pub(super) fn workspace(&self) -> usize {
        match self.matrix {
            CrossMatrix::Full { .. } => self.dim,
            CrossMatrix::LowRank { rank, .. } => self.dim + rank,
        }
    }

    pub(super) fn forward<E: Executor>(
        &self,
        pass: &mut Pass<'_, E>,
        node: usize,
    ) -> Result<(), PassError> {
        let (x0, x, y) = (pass.input(node, 0), pass.input(node, 1), pass.value(node));
        let projection = self.projection.view(pass.rows, self.dim);
        let bias = Some(self.bias);
        match self.matrix {
            CrossMatrix::Full { w } => {
                let product = LinearProduct::plain(w, bias);
                if self.shared {
                    let group = pass.network.group();
                    let part = group.part(pass.rows, self.dim, projection.dtype);
                    product.forward(pass, &x, &part)?;
                    group.gather_now(pass, &part, projection)?;
                } else {
                    product.forward(pass, &x, &projection)?;
                }
            }
            CrossMatrix::LowRank { v, w, rank, inner } => {
                let inner = inner.view(pass.rows, rank);
                LinearProduct::plain(v, None).forward(pass, &x, &inner)?;
                let product = LinearProduct::plain(w, bias);
                match self.shared {
                    true => product.forward_summed(pass, &inner, &projection)?,
                    false => product.forward(pass, &inner, &projection)?,
                }
            }
        }
        pass.launch(combine_forward(&x0, &projection, &x, &y))
    }

    pub(super) fn backward<E: Executor>(
        &self,
        pass: &mut Pass<'_, E>,
        node: usize,
        dy: Matrix,
    ) -> Result<(), PassError> {
        let (x0, x) = (pass.input(node, 0), pass.input(node, 1));
        let projection = self.projection.view(pass.rows, self.dim);
        let d_projection = pass.workspace(0, self.dim);
        pass.two_input_gradients(node, |pass, d_x0, d_x| {
            pass.launch(combine_backward(&Backward {
                x0,
                projection,
                dy,
                d_projection,
                dx0: d_x0.view,
                accumulate_dx0: d_x0.accumulate,
                dx: d_x.view,
                accumulate_dx: d_x.accumulate,
            }))?;
            // What the combination wrote stands there.
            let d_x = InputGradient {
                accumulate: true,
                ..d_x
            };
            let gradient = |weight, bias, x, dy, dx, exchange| LinearGradient {
                weight,
                bias,
                x,
                y: None,
                dy,
                dx: Some(dx),
                exchange,
                input_mask: None,
            };
            let sum = self.shared.then_some(Exchange::Sum);
            match self.matrix {
                CrossMatrix::Full { w } => {
                    let own = match self.shared {
                        true => pass.network.group().own_columns(self.dim),
                        false => 0..self.dim,
                    };
                    let dy = columns(&d_projection, &own);
                    gradient(w, Some(self.bias), x, dy, d_x, sum).run(pass)
                }
                CrossMatrix::LowRank { v, w, rank, inner } => {
                    let d_inner = InputGradient {
                        view: pass.workspace(self.dim, rank),
                        accumulate: false,
                    };
                    let inner = inner.view(pass.rows, rank);
                    let bias = Some(self.bias);
                    gradient(w, bias, inner, d_projection, d_inner, None).run(pass)?;
                    gradient(v, None, x, d_inner.view, d_x, sum).run(pass)
                }
            }
        })
    }
}
