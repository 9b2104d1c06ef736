//! A program's allocator that counts what all of its threads take from the heap. For tests.

mod counting;

pub use counting::{Allocations, Counting, count};
