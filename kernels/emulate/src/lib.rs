//! A CUDA device on a CPU, for tests: launches run in the emulation of the same `.cu` files, products as
//! cuBLASLt's manual tells, recorded steps as lists of both.
//!
//! ```text
//! Emulator   memory with guard pages; one launch after the other, in an order that a seed chooses
//!   library  emulate.hpp and a .cu file, compiled by the host's C++ compiler, kept by a hash
//!   collective  what the devices of several ranks do together, over any transport between their hosts
//!   product  dense products with their epilogues, summed in double precision
//! ```
//!
//! No program that ships depends on this crate.

mod buffer;
mod collective;
mod emulator;
mod executor;
mod library;
mod product;
mod thread_peers;
pub mod values;

pub use collective::{Arriving, Peers};
pub use emulator::{Calls, Emulator, SEEDS, Spoils};
pub use executor::{Call, Feed, Reply, Work};
pub use library::add_source;
pub use thread_peers::ThreadPeers;
