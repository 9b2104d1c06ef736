//! CUDA launches: for each operation the kernels of its `.cu` file, with checked shapes, grids and
//! arguments.
//!
//! A [`Launch`] only describes what is to run, as a [`Product`](product::Product) does for dense
//! products, and a [`Collective`] for what several devices do together. An [`Executor`] runs all: a
//! GPU's stream ([`gpu`]), or in tests the emulation of the same sources and launches on a CPU
//! (`emulate/`), whose results are held against the operations of this crate. Formulas are those of the operation of the same name.
//!
//! Nothing here waits for the device, allocates on it, or reads from it: scratch memory is an
//! operand, and each operation tells how much it needs.

pub mod add;
mod ahead;
pub mod bce;
mod cache;
pub mod cast;
pub mod collective;
mod compiler;
pub mod cross;
pub mod dense_optimizer;
pub mod dot_interaction;
mod driver_release;
pub mod embedding_bag;
mod executor;
pub mod factorization_machine;
pub mod gpu;
pub mod groups;
mod launch;
mod library;
pub mod linear;
mod measured;
pub mod product;
pub mod radix_sort;
mod source;
pub mod sparse_optimizer;
pub mod step;
pub mod whole_rows;

pub use ahead::{AHEAD_VARIABLE, AheadFolder, compile_ahead, find_ahead};
pub use cache::cache_folder;
pub use collective::{Begun, Collective, Group};
pub use compiler::{CompileError, Compiled, NotKept, compile, compile_cached};
pub use driver_release::driver_release;
pub use executor::{BEGUN_BEFORE, DeviceError, Executor, Feed, NOT_FINISHED};
pub use launch::{Address, Kernel, Launch, Matrix};
pub use library::{CudaLibrary, FoundLibrary, Gpu, LIBRARIES_VARIABLE, TwoVersions, gpus};
pub use measured::Measured;
pub use source::{HEADERS, SOURCES, Source};
pub use step::Step;
