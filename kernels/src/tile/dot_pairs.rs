//! Dot products of pairs of bf16 in AVX-512 (`VDPBF16PS`).
//!
//! At its first use its results are compared with the emulated unit's, and it is put aside where they
//! differ.

use std::arch::x86_64::{
    __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps,
    _mm512_storeu_ps,
};

use super::block::{Block, LeftBlock, SIDE, TILE, TILE_LEN};

/// Rows computed together: with two vectors of columns 16 sums, which hide the latency.
const ROWS: usize = 8;

/// # Safety
/// The CPU has AVX-512 BF16; `right` holds two tiles for each of `left`.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn block(left: LeftBlock<'_>, right: &[u32], sums: &mut Block) {
    let sums = sums.floats_mut().as_mut_ptr();
    for first in (0..SIDE).step_by(ROWS) {
        let rows: [*const i32; ROWS] = std::array::from_fn(|row| {
            let start = left.start().cast::<u8>();
            start.wrapping_add((first + row) * left.row_bytes()).cast()
        });
        let mut own = [[_mm512_setzero_ps(); 2]; ROWS];
        for tile in 0..left.tiles() {
            for pair in 0..TILE {
                let vectors: [__m512bh; 2] = std::array::from_fn(|side| {
                    let line = (2 * tile + side) * TILE_LEN + pair * TILE;
                    let line = right.as_ptr().wrapping_add(line);
                    // SAFETY: the tile is inside `right` by contract.
                    pairs(unsafe { _mm512_loadu_si512(line.cast()) })
                });
                for row in 0..ROWS {
                    let pair = rows[row].wrapping_add(tile * TILE + pair);
                    // SAFETY: the row holds the pair, as promised at the making of `left`.
                    let pair = pairs(_mm512_set1_epi32(unsafe { pair.read_unaligned() }));
                    for side in 0..2 {
                        own[row][side] = _mm512_dpbf16_ps(own[row][side], pair, vectors[side]);
                    }
                }
            }
        }
        for (row, own) in own.iter().enumerate() {
            for (side, own) in own.iter().enumerate() {
                let to = sums.wrapping_add((first + row) * SIDE + side * TILE);
                // SAFETY: a block holds 32 rows of two vectors.
                unsafe { _mm512_storeu_ps(to, *own) };
            }
        }
    }
}

/// The same bits as pairs of bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(bits: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of plain numbers.
    unsafe { std::mem::transmute(bits) }
}
