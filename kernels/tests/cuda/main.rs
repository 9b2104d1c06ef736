//! The CUDA kernels, run on a CPU under emulation and held against the operations of this crate.

mod bce;
mod cast;
mod embedding_bag;
mod emulation;
mod emulator;
mod groups;
mod nvrtc;
mod sparse_optimizer;
mod values;
