//! The parameters of a model: weights, gradients, and where each lies.

mod extent;
mod gradients;
mod initial_values;
mod layout;
mod named_slice;
mod store;
mod table;

pub use extent::Extent;
pub use gradients::Gradients;
pub use layout::{BucketSettings, ParamId, ParameterLayout, Placed};
pub use named_slice::{NamedSlice, NamedSliceMut};
pub use store::{ParameterBuilder, ParameterStore, Weights, dtype};
pub use table::{Table, TableId};

#[cfg(test)]
mod tests;
