//! Networks against a float64 oracle, and claims about passes.

pub(crate) mod fixture;
mod gradients;
mod oracle;
mod passes;
pub(crate) mod tensor_parallel;

pub(crate) use gradients::check_gradients;
