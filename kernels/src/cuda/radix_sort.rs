//! A stable radix sort of pairs of a 64-bit key and a 32-bit value, 8 bits a pass.

use super::launch::{Address, Kernel, Launch, THREADS, count};
use crate::error::Result;

const OPERATION: &str = "cuda::radix_sort";
pub(super) const KERNELS: &[&str] = &["radix_count", "scan_rows", "radix_scatter"];

/// Pairs of one block.
pub(super) const TILE: usize = 2048;
const DIGIT_BITS: u32 = 8;
const DIGITS: u32 = 1 << DIGIT_BITS;

/// The operands of [`sort`]: two buffers of pairs, and working memory.
#[derive(Debug, Clone, Copy)]
pub struct Pairs {
    /// `[len]` of `u64` each; the unsorted keys are in the first.
    pub keys: [Address; 2],
    /// `[len]` of `u32` each; the values of the unsorted keys are in the first.
    pub values: [Address; 2],
    /// Working memory, `[counts_len(len)]` of `u32`.
    pub counts: Address,
    /// Working memory, `[256]` of `u32`.
    pub totals: Address,
    /// Pairs.
    pub len: usize,
}

/// Counters of a sort of `len` pairs.
pub fn counts_len(len: usize) -> usize {
    DIGITS as usize * len.div_ceil(TILE)
}

/// Sorts by the lowest `bits` bits of the keys. The second value is the index of the buffers that
/// hold the sorted pairs.
///
/// # Errors
/// When there are 2^31 pairs or more.
pub fn sort(pairs: &Pairs, bits: u32) -> Result<(Vec<Launch>, usize)> {
    let len = count(OPERATION, "pairs number below 2^31", pairs.len)?;
    let tiles = pairs.len.div_ceil(TILE) as u32;
    if tiles == 0 {
        return Ok((Vec::new(), 0));
    }
    let passes = bits.div_ceil(DIGIT_BITS);
    let mut launches = Vec::with_capacity(3 * passes as usize);
    for pass in 0..passes {
        let from = pass as usize % 2;
        let kernel = Kernel::new("radix_sort", KERNELS[0]);
        launches.push(
            Launch::new(kernel, tiles, THREADS)
                .with(pairs.keys[from])
                .with(len)
                .with(pass * DIGIT_BITS)
                .with(pairs.counts)
                .with(tiles),
        );
        launches.push(scan_rows(pairs.counts, DIGITS, tiles, pairs.totals));
        let kernel = Kernel::new("radix_sort", KERNELS[2]);
        launches.push(
            Launch::new(kernel, tiles, THREADS)
                .with(pairs.keys[from])
                .with(pairs.values[from])
                .with(len)
                .with(pass * DIGIT_BITS)
                .with(pairs.counts)
                .with(pairs.totals)
                .with(tiles)
                .with(pairs.keys[1 - from])
                .with(pairs.values[1 - from]),
        );
    }
    Ok((launches, passes as usize % 2))
}

/// Replaces each of `rows` rows of counters by the sums of what stands before; `totals: [rows]`.
pub(super) fn scan_rows(counters: Address, rows: u32, columns: u32, totals: Address) -> Launch {
    let threads = columns.next_multiple_of(32).clamp(32, THREADS);
    Launch::new(Kernel::new("radix_sort", KERNELS[1]), rows, threads)
        .with(counters)
        .with(columns)
        .with(totals)
}
