//! Every operation, one module each: its mathematics, its shape checks, its implementation for
//! the CPU. Forward and backward stand side by side.

pub mod add;
pub mod bce;
pub mod cast;
pub mod cross;
pub mod dense_optimizer;
pub mod dot_interaction;
pub mod embedding_bag;
pub mod factorization_machine;
pub mod linear;
mod matrix_product;
pub mod norm;
pub(crate) mod operand;
pub mod sparse_optimizer;
pub mod sum_features;
mod wide;
