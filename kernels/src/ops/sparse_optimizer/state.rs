use super::SparseRule;
use crate::{
    device::Context,
    tensor::{DType, Tensor},
};

/// What an optimiser remembers of each row of a table, as named tensors for checkpoints.
#[derive(Debug)]
pub struct SparseState {
    pub(super) tensors: Vec<(&'static str, Tensor)>,
}

impl SparseState {
    /// The state before the first step of a table of `rows` rows of `dim` floats.
    ///
    /// | rule | tensors |
    /// |---|---|
    /// | `Sgd` | none |
    /// | `RowWiseAdagrad` | `sum_of_squares` `[rows, 1]` |
    /// | `Adagrad` | `sum_of_squares` `[rows, dim]` |
    /// | `LazyAdam` | `first_moment`, `second_moment` `[rows, dim]` |
    pub fn new(context: &Context, rule: &SparseRule, rows: usize, dim: usize) -> Self {
        let filled = |columns: usize, value: f32| {
            let mut tensor = Tensor::zeros(context, DType::F32, &[rows, columns]);
            if value != 0.0 {
                tensor.f32_mut().fill(value);
            }
            tensor
        };
        let tensors = match *rule {
            SparseRule::Sgd { .. } => vec![],
            SparseRule::RowWiseAdagrad {
                initial_accumulator,
                ..
            } => {
                vec![("sum_of_squares", filled(1, initial_accumulator))]
            }
            SparseRule::Adagrad {
                initial_accumulator,
                ..
            } => {
                vec![("sum_of_squares", filled(dim, initial_accumulator))]
            }
            SparseRule::LazyAdam { .. } => {
                vec![
                    ("first_moment", filled(dim, 0.0)),
                    ("second_moment", filled(dim, 0.0)),
                ]
            }
        };
        Self { tensors }
    }

    /// The tensors with their names, in a fixed order.
    pub fn tensors(&self) -> impl Iterator<Item = (&'static str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (*name, tensor))
    }

    /// The tensors with their names, to restore a checkpoint into.
    pub fn tensors_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut Tensor)> {
        self.tensors
            .iter_mut()
            .map(|(name, tensor)| (*name, tensor))
    }
}
