//! Claims about the crate as others use it: fit, encode, write, read.

mod fitting;
mod fixture;
mod folder;
mod golden;
