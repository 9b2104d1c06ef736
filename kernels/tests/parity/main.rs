//! Every operation against independent oracles: a plain float64 implementation, finite differences
//! of it, and candle's autograd.

mod add;
mod bce;
mod cross;
mod dense_optimizer;
mod dot_interaction;
mod embedding_bag;
mod factorization_machine;
mod half_precision;
mod half_tables;
mod linear;
mod norm;
mod oracle;
mod packed_weights;
#[path = "../random/mod.rs"]
mod random;
mod sparse_optimizer;
mod sum_features;
mod units;
