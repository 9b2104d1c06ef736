//! The parameters of a model: weights, gradients, and where each lies.

mod gradients;
mod initial_values;
mod layout;
mod store;

pub use gradients::Gradients;
pub use layout::{BucketSettings, ParamId, ParameterLayout, Placed};
pub use store::{
    NamedTensor, NamedTensorMut, ParameterBuilder, ParameterStore, Table, TableId, Weights,
};

#[cfg(test)]
mod tests;
