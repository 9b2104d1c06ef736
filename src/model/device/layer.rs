use streamrec_kernels::cuda::{
    Address, Executor, Matrix, add, dot_interaction,
    embedding_bag::{self, Lookup},
    factorization_machine,
};

use super::{cross::Cross, linear::Linear, memory::columns, pass::Pass};
use crate::model::{ParamId, layers::PassError};

/// A node's computation on a device; the mathematics is that of the layer of the same name.
#[derive(Debug, Clone)]
pub(super) enum DeviceLayer {
    /// The batch's dense features.
    Dense,
    /// Pooled embedding vectors side by side.
    EmbeddingBag {
        lookups: Vec<Lookup>,
        on_device: Address,
    },
    Linear(Linear),
    DotInteraction {
        features: usize,
        dim: usize,
    },
    Cross(Cross),
    FactorizationMachine {
        features: usize,
        dim: usize,
    },
    SumFeatures {
        features: usize,
    },
    Concat,
    Add,
}

impl DeviceLayer {
    /// The dense parameters, in the order of the node's.
    pub(super) fn parameters(&self) -> Vec<ParamId> {
        match self {
            Self::Linear(linear) => linear.parameters.clone(),
            Self::Cross(cross) => cross.parameters(),
            _ => Vec::new(),
        }
    }

    /// Columns of working memory, in the compute type.
    pub(super) fn workspace(&self, width: usize) -> usize {
        match self {
            Self::Linear(_) => width,
            Self::Cross(cross) => cross.workspace(),
            _ => 0,
        }
    }

    /// Computes the value of `node`, which this is the layer of.
    pub(super) fn forward<E: Executor>(
        &self,
        pass: &mut Pass<'_, E>,
        node: usize,
    ) -> Result<(), PassError> {
        match self {
            Self::Dense => Ok(()),
            // Vectors of sharded tables come from other devices.
            Self::EmbeddingBag { lookups, .. } if lookups.is_empty() => Ok(()),
            Self::EmbeddingBag { lookups, on_device } => {
                let operands = embedding_bag::Forward {
                    bags: pass.input.bags,
                    lookups,
                    lookups_on_device: *on_device,
                    table: pass.weights.table_dtype(),
                    out: pass.value(node),
                    first_bad: pass.network.first_bad,
                };
                pass.launch(embedding_bag::forward(&operands))
            }
            Self::Linear(linear) => linear.forward(pass, node),
            Self::DotInteraction { features, dim } => {
                let operands = dot_interaction::Forward {
                    x: pass.input(node, 0),
                    features: *features,
                    dim: *dim,
                    y: pass.value(node),
                };
                pass.launch(dot_interaction::forward(&operands))
            }
            Self::Cross(cross) => cross.forward(pass, node),
            Self::FactorizationMachine { features, dim } => {
                let (x, y) = (pass.input(node, 0), pass.value(node));
                pass.launch(factorization_machine::forward(&x, *features, *dim, &y))
            }
            Self::SumFeatures { features } => {
                let (x, y) = (pass.input(node, 0), pass.value(node));
                pass.launch(add::sum_features(&x, *features, &y, false))
            }
            Self::Concat => forward_concat(pass, node),
            Self::Add => forward_add(pass, node),
        }
    }

    /// Computes the gradients of the inputs and parameters of `node`.
    pub(super) fn backward<E: Executor>(
        &self,
        pass: &mut Pass<'_, E>,
        node: usize,
    ) -> Result<(), PassError> {
        let Some(dy) = pass.gradient(node) else {
            return Ok(());
        };
        match self {
            Self::Dense | Self::EmbeddingBag { .. } => Ok(()),
            Self::Linear(linear) => linear.backward(pass, node, dy),
            Self::Cross(cross) => cross.backward(pass, node, dy),
            Self::Concat => backward_concat(pass, node, &dy),
            Self::Add => backward_add(pass, node, &dy),
            Self::DotInteraction { .. }
            | Self::FactorizationMachine { .. }
            | Self::SumFeatures { .. } => self.backward_of_vectors(pass, node, dy),
        }
    }

    /// Of layers that read feature vectors and have no parameters.
    fn backward_of_vectors<E: Executor>(
        &self,
        pass: &mut Pass<'_, E>,
        node: usize,
        dy: Matrix,
    ) -> Result<(), PassError> {
        let x = pass.input(node, 0);
        let Some(dx) = pass.input_gradient(node, 0)? else {
            return Ok(());
        };
        let (view, accumulate) = (&dx.view, dx.accumulate);
        match *self {
            Self::DotInteraction { features, dim } => {
                pass.launch(dot_interaction::backward(&dot_interaction::Backward {
                    x,
                    features,
                    dim,
                    dy,
                    dx: dx.view,
                    accumulate,
                }))
            }
            Self::FactorizationMachine { features, dim } => {
                let launch =
                    factorization_machine::backward(&x, features, dim, &dy, view, accumulate);
                pass.launch(launch)
            }
            Self::SumFeatures { features } => {
                pass.launch(add::repeat(&dy, features, view, accumulate))
            }
            _ => Ok(()),
        }
    }
}

fn forward_concat<E: Executor>(pass: &mut Pass<'_, E>, node: usize) -> Result<(), PassError> {
    let (network, whole) = (pass.network, pass.value(node));
    let mut start = 0;
    for (index, &in_place) in network.places.in_place[node].iter().enumerate() {
        let x = pass.input(node, index);
        let end = start + x.shape[1];
        if !in_place {
            pass.launch(add::copy(&x, &columns(&whole, &(start..end)), false))?;
        }
        start = end;
    }
    Ok(())
}

fn backward_concat<E: Executor>(
    pass: &mut Pass<'_, E>,
    node: usize,
    dy: &Matrix,
) -> Result<(), PassError> {
    let mut end = dy.shape[1];
    for index in (0..pass.network.nodes[node].inputs.len()).rev() {
        let start = end - pass.input(node, index).shape[1];
        if let Some(dx) = pass.input_gradient(node, index)? {
            let own = columns(dy, &(start..end));
            pass.launch(add::copy(&own, &dx.view, dx.accumulate))?;
        }
        end = start;
    }
    Ok(())
}

fn forward_add<E: Executor>(pass: &mut Pass<'_, E>, node: usize) -> Result<(), PassError> {
    let y = pass.value(node);
    for index in 0..pass.network.nodes[node].inputs.len() {
        let x = pass.input(node, index);
        pass.launch(match x.shape[1] == y.shape[1] {
            true => add::copy(&x, &y, index > 0),
            false => add::broadcast(&x, &y, index > 0),
        })?;
    }
    Ok(())
}

fn backward_add<E: Executor>(
    pass: &mut Pass<'_, E>,
    node: usize,
    dy: &Matrix,
) -> Result<(), PassError> {
    for index in (0..pass.network.nodes[node].inputs.len()).rev() {
        let Some(dx) = pass.input_gradient(node, index)? else {
            continue;
        };
        pass.launch(match dx.view.shape[1] == dy.shape[1] {
            true => add::copy(dy, &dx.view, dx.accumulate),
            false => add::broadcast_backward(dy, &dx.view, dx.accumulate),
        })?;
    }
    Ok(())
}
