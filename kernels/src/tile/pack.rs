//! Factors in the order in which units read them.

use half::bf16;

use super::block::{DEPTH, SIDE, TILE, TILE_LEN};
use crate::{
    simd::{multiversion, transpose},
    tensor::{DType, TensorRef},
};

/// Tiles that `depth` numbers fill.
pub(super) fn tiles(depth: usize) -> usize {
    depth.div_ceil(DEPTH)
}

/// Blocks that so many rows, or columns, fill.
pub(super) fn blocks(count: usize) -> usize {
    count.div_ceil(SIDE)
}

/// Packs `right: [depth, columns]` of bf16 into `[blocks, tiles, 2, TILE, TILE]` pairs of depth.
pub(super) fn right(right: TensorRef<'_>, to: &mut [u32]) {
    let [depth, columns] = right.shape();
    let tiles = tiles(depth);
    to.fill(0);
    for pair in 0..depth.div_ceil(2) {
        let low = right.row_of::<bf16>(2 * pair);
        let high = (2 * pair + 1 < depth).then(|| right.row_of::<bf16>(2 * pair + 1));
        let (tile, line) = (pair / TILE, pair % TILE);
        for column in (0..columns).step_by(TILE) {
            let (block, side) = (column / SIDE, column % SIDE / TILE);
            let width = TILE.min(columns - column);
            let start = ((block * tiles + tile) * 2 + side) * TILE_LEN + line * TILE;
            let low = &low[column..][..width];
            let high = high.map(|high| &high[column..][..width]);
            interleave(low, high, &mut to[start..][..width]);
        }
    }
}

/// Packs the transpose of `rows: [columns, depth]` likewise: a pair of depth lies together already,
/// so tiles are transposed in 32 bits. `floats` is working memory, [`transposed_floats`] long.
pub(super) fn right_transposed(rows: TensorRef<'_>, floats: &mut [f32], to: &mut [u32]) {
    let [columns, depth] = rows.shape();
    let tiles = tiles(depth);
    let (padded, turned) = floats.split_at_mut(TILE * tiles * TILE);
    to.fill(0);
    for column in (0..columns).step_by(TILE) {
        let width = TILE.min(columns - column);
        for row in 0..width {
            let pairs = &mut padded[row * tiles * TILE..][..tiles * TILE];
            pad_row(rows.row_of(column + row), pairs);
        }
        transpose(
            &padded[..width * tiles * TILE],
            width,
            tiles * TILE,
            turned,
            TILE,
        );
        let (block, side) = (column / SIDE, column % SIDE / TILE);
        for (tile, lines) in turned.chunks_exact(TILE_LEN).take(tiles).enumerate() {
            let start = ((block * tiles + tile) * 2 + side) * TILE_LEN;
            to[start..][..TILE_LEN].copy_from_slice(bytemuck::cast_slice(lines));
        }
    }
}

/// Working memory of [`right_transposed`], in floats.
pub(super) fn transposed_floats(depth: usize) -> usize {
    2 * TILE * tiles(depth) * TILE
}

/// A row of bf16 as pairs, padded with zeros.
fn pad_row(row: &[bf16], pairs: &mut [f32]) {
    let halves: &mut [bf16] = bytemuck::cast_slice_mut(pairs);
    halves[..row.len()].copy_from_slice(row);
    halves[row.len()..].fill(bf16::ZERO);
}

/// Copies `left: [rows, depth]` into whole blocks, `[blocks * SIDE, tiles * DEPTH]`, rounding what is
/// float32.
pub(super) fn left(left: TensorRef<'_>, to: &mut [bf16]) {
    let [rows, depth] = left.shape();
    let stride = tiles(depth) * DEPTH;
    for (row, to) in to.chunks_exact_mut(stride.max(1)).enumerate() {
        let used = if row < rows { depth } else { 0 };
        let (own, rest) = to.split_at_mut(used);
        if row < rows {
            copy_row(left, row, own);
        }
        rest.fill(bf16::ZERO);
    }
}

fn copy_row(from: TensorRef<'_>, row: usize, to: &mut [bf16]) {
    match from.dtype() {
        DType::Bf16 => to.copy_from_slice(from.row_of(row)),
        _ => round_row(from.row(row), to),
    }
}

multiversion! {
    fn round_row(from: &[f32], to: &mut [bf16]) {
        for (from, to) in from.iter().zip(to) {
            *to = crate::simd::Float::narrow(*from);
        }
    }
}

multiversion! {
    fn interleave(low: &[bf16], high: Option<&[bf16]>, to: &mut [u32]) {
        match high {
            Some(high) => {
                for ((low, high), to) in low.iter().zip(high).zip(to) {
                    *to = u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
                }
            }
            None => {
                for (low, to) in low.iter().zip(to) {
                    *to = u32::from(low.to_bits());
                }
            }
        }
    }
}
