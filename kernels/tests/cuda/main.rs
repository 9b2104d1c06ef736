//! The CUDA kernels, run on a CPU under emulation and held against the operations of this crate.

mod add;
mod bce;
mod cast;
mod collective;
mod cross;
mod dense_optimizer;
mod dot_interaction;
mod embedding_bag;
mod emulation;
mod executor;
mod factorization_machine;
mod groups;
mod linear;
mod nccl;
mod nvrtc;
mod on_device;
mod own_product;
mod product;
mod python_packages;
#[path = "../random/mod.rs"]
mod random;
mod sparse_optimizer;
mod step;
mod values;
