//! The CUDA kernels, held against the operations of this crate: on a CPU under emulation, or on a GPU (see `device`).

mod add;
mod bce;
mod benchmark;
mod cast;
mod collective;
mod cross;
mod dense_optimizer;
mod device;
mod dot_interaction;
mod embedding_bag;
mod emulation;
mod executor;
mod factorization_machine;
mod groups;
mod large_shapes;
mod linear;
mod nccl;
mod nowhere;
mod nvrtc;
mod on_device;
mod own_product;
mod product;
mod python_packages;
mod radix_sort;
#[path = "../random/mod.rs"]
mod random;
mod random_shapes;
mod row_lists;
mod sparse_optimizer;
mod step;
mod values;
