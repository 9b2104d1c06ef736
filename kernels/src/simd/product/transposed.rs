//! Products whose left factor is read transposed: gradients of weights, sums over the samples of a
//! batch.
//!
//! The samples go by in blocks. A block's rows of the left factor are packed into a second cache. Its
//! rows of the right one are read where they lie, strip by strip of their columns, where they start
//! cache lines; else a strip is packed as well, since each of its vectors would be read from two
//! lines. While tiles add a strip to the result, what comes next is asked for from memory.

use super::{Ahead, Avx512, Epilogue, LANES, Left, Panels, Right, Tile, unit::TileUnit};
use crate::tensor::{TensorMut, TensorRef};

const ROWS: usize = Avx512::ROWS;
const VECTORS: usize = Avx512::VECTORS;
/// Samples of a block.
const DEPTH: usize = 128;
/// Columns of a strip: packed, with the next strip and with some 256 packed rows, it fits a second cache
/// of 1 MiB.
const STRIP: usize = 8 * VECTORS * LANES;
/// Floats from one tile of the packed left factor to the next: not a multiple of 4 KiB, whose lines
/// would share a set of the first cache.
const TILE_STRIDE: usize = DEPTH * ROWS + LANES;

/// Floats of the scratch memory of [`multiply_transposed`].
pub(crate) fn transposed_scratch_len(rows: usize, columns: usize) -> usize {
    rows.div_ceil(ROWS) * TILE_STRIDE + DEPTH * columns.min(STRIP).next_multiple_of(LANES)
}

/// `out (+)= left^T . right` with `left: [samples, rows]`, `right: [samples, columns]`,
/// `out: [rows, columns]`. Each sum is taken in the order of the samples, in blocks that depend on the
/// number of samples alone. `scratch` is of [`transposed_scratch_len`].
///
/// # Panics
/// When the shapes do not chain.
///
/// # Safety
/// The CPU has AVX-512.
pub(crate) unsafe fn multiply_transposed(
    left: TensorRef<'_>,
    right: TensorRef<'_>,
    mut out: TensorMut<'_>,
    accumulate: bool,
    scratch: &mut [f32],
) {
    let ([samples, rows], columns) = (left.shape(), right.shape()[1]);
    assert_eq!(
        ([samples, columns], [rows, columns]),
        (right.shape(), out.shape())
    );
    let (packed_left, packed_right) = scratch.split_at_mut(rows.div_ceil(ROWS) * TILE_STRIDE);
    let in_place = starts_lines(right);
    let strip = |strip: usize| columns.min(strip * STRIP)..columns.min((strip + 1) * STRIP);
    // No samples still set sums to zero.
    let (blocks, strips) = (samples.div_ceil(DEPTH).max(1), columns.div_ceil(STRIP));
    let samples = |block: usize| samples.min(block * DEPTH)..samples.min((block + 1) * DEPTH);
    for block in 0..blocks {
        let (now, next) = (samples(block), samples(block + 1));
        let left_next = left.rows(next.clone());
        // SAFETY: AVX-512 by contract.
        unsafe { pack_left(packed_left, left.rows(now.clone())) };
        for index in 0..strips {
            let of_strip = |index, samples| right.columns(strip(index)).rows(samples);
            let right = of_strip(index, now.clone());
            let right = if in_place {
                RightStrip::InPlace(right)
            } else {
                // SAFETY: AVX-512 by contract.
                unsafe { pack_right(packed_right, right) };
                RightStrip::Packed(packed_right)
            };
            let work = Block {
                left: packed_left,
                right,
                depth: now.len(),
                accumulate: accumulate || block > 0,
                next: if index + 1 < strips {
                    [of_strip(index + 1, now.clone()); 2]
                } else {
                    [left_next, of_strip(0, next.clone())]
                },
            };
            // SAFETY: AVX-512 by contract, and the factors have just been packed.
            unsafe { work.add_to(out.reborrow().columns(strip(index))) };
        }
    }
}

/// Whether every row starts a cache line, and its last vector is whole.
fn starts_lines(view: TensorRef<'_>) -> bool {
    let whole = |floats: usize| floats.is_multiple_of(LANES);
    view.as_ptr()
        .addr()
        .is_multiple_of(LANES * size_of::<f32>())
        && whole(view.row_stride())
        && whole(view.shape()[1])
}

/// A strip of the right factor.
enum RightStrip<'a> {
    /// `[samples, columns]`, whose rows start cache lines.
    InPlace(TensorRef<'a>),
    /// Panels, `[samples, vectors * LANES]` each.
    Packed(&'a [f32]),
}

impl RightStrip<'_> {
    /// The panel that starts at `column`, of `vectors`.
    fn panel(&self, depth: usize, column: usize, vectors: usize) -> Right {
        match self {
            Self::InPlace(view) => Right::InPlace {
                start: view.as_ptr().wrapping_add(column),
                row_stride: view.row_stride(),
            },
            Self::Packed(floats) => {
                Right::Packed(floats[depth * column..][..depth * vectors * LANES].as_ptr())
            }
        }
    }
}

/// A strip of a block of samples.
struct Block<'a> {
    left: &'a [f32],
    right: RightStrip<'a>,
    depth: usize,
    accumulate: bool,
    /// What is packed next, as it lies in memory, with the same samples.
    next: [TensorRef<'a>; 2],
}

impl Block<'_> {
    /// # Safety
    /// The CPU has AVX-512; the factors have been packed for the rows and columns of `out`.
    unsafe fn add_to(&self, mut out: TensorMut<'_>) {
        let [rows, columns] = out.shape();
        let panels = Panels::new::<Avx512>(columns);
        let tiles = panels.count * rows.div_ceil(ROWS);
        let mut done = 0;
        for panel in 0..panels.count {
            let (column, width, vectors) = panels.get(panel);
            let mut tile = Tile {
                left: Left::Packed {
                    start: self.left.as_ptr(),
                    tile_len: TILE_STRIDE,
                },
                right: self.right.panel(self.depth, column, vectors),
                depth: self.depth,
                out: out.as_mut_ptr().wrapping_add(column),
                out_stride: out.row_stride(),
                width,
                epilogue: Epilogue {
                    accumulate: self.accumulate,
                    ..Epilogue::default()
                },
                ahead: None,
            };
            for row in (0..rows).step_by(ROWS) {
                tile.ahead = self.ahead(done, tiles);
                done += 1;
                // SAFETY: rows from `row` on and the panel's columns exist in `out`; the packed
                // factors have them, as the caller promises.
                unsafe { Avx512::run(&tile.at::<Avx512>(row), ROWS.min(rows - row)) };
            }
        }
    }

    /// The sample of what is next that tile `tile` of `tiles` asks for: each is asked for once, unless
    /// there are more samples than tiles.
    fn ahead(&self, tile: usize, tiles: usize) -> Option<Ahead> {
        let samples = self.next[0].shape()[0];
        let sample = samples * tile / tiles;
        let first = tile == 0 || samples * (tile - 1) / tiles < sample;
        (first && sample < samples).then(|| Ahead::rows(self.next.map(|next| next.row(sample))))
    }
}

/// Turns `left: [samples, rows]` into tiles of [`ROWS`] rows, `[samples, ROWS]` each.
#[target_feature(enable = "avx512f")]
fn pack_left(to: &mut [f32], left: TensorRef<'_>) {
    let [samples, rows] = left.shape();
    let whole = rows - rows % ROWS;
    for sample in 0..samples {
        let (from, rest) = left.row(sample).split_at(whole);
        for (tile, from) in from.chunks_exact(ROWS).enumerate() {
            to[tile * TILE_STRIDE + sample * ROWS..][..ROWS].copy_from_slice(from);
        }
        if !rest.is_empty() {
            // What a last tile holds of rows that are not there is not read.
            let to = &mut to[whole / ROWS * TILE_STRIDE + sample * ROWS..];
            to[..rest.len()].copy_from_slice(rest);
        }
    }
}

/// Cuts `right: [samples, columns]` into panels.
#[target_feature(enable = "avx512f")]
fn pack_right(to: &mut [f32], right: TensorRef<'_>) {
    let [samples, columns] = right.shape();
    let panels = Panels::new::<Avx512>(columns);
    // Sample by sample: rows are read from memory in order.
    for sample in 0..samples {
        let from = right.row(sample);
        for panel in 0..panels.count {
            let (column, width, vectors) = panels.get(panel);
            let to = &mut to[samples * column..][sample * vectors * LANES..][..vectors * LANES];
            // SAFETY: AVX-512 by contract.
            unsafe { Avx512::copy_vectors(to, &from[column..][..width]) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        device::Context,
        simd::Level,
        tensor::{DType, Tensor},
    };

    #[test]
    fn sums_over_samples_equal_those_in_float64_and_depend_on_no_other_row() {
        if Level::detect() != Level::Avx512 {
            return;
        }
        let context = Context::cpu(1, false).unwrap();
        for [samples, rows, columns] in [
            [0, 3, 5],
            [1, 1, 1],
            [DEPTH, 8, 48],
            [2 * DEPTH + 5, 21, STRIP + 17],
            [300, 9, 2 * STRIP],
        ] {
            let number = |i: usize| ((i * 7919) % 257) as f32 / 128.0 - 1.0;
            let left: Vec<f32> = (0..samples * rows).map(number).collect();
            let mut right = Tensor::zeros(&context, DType::F32, &[samples, columns]);
            let floats = right.f32_mut().iter_mut().enumerate();
            floats.for_each(|(i, float)| *float = number(i + 100));
            let right = right.view();
            assert_eq!(starts_lines(right), columns.is_multiple_of(LANES));
            let left = TensorRef::from_f32(&left, &[samples, rows]);
            let product = |left: TensorRef<'_>, accumulate: bool| {
                let rows = left.shape()[1];
                let mut out = vec![0.5; rows * columns];
                let mut scratch = vec![f32::NAN; transposed_scratch_len(rows, columns)];
                let into = TensorMut::from_f32(&mut out, &[rows, columns]);
                // SAFETY: AVX-512 has been detected.
                unsafe { multiply_transposed(left, right, into, accumulate, &mut scratch) };
                out
            };
            let (whole, added) = (product(left, false), product(left, true));
            for row in 0..rows {
                for column in 0..columns {
                    let term =
                        |s: usize| f64::from(left.row(s)[row]) * f64::from(right.row(s)[column]);
                    let exact: f64 = (0..samples).map(term).sum();
                    let at = row * columns + column;
                    assert!((f64::from(whole[at]) - exact).abs() < 1e-4);
                    assert!((f64::from(added[at]) - exact - 0.5).abs() < 1e-4);
                }
            }
            let one = product(left.columns(rows - 1..rows), false);
            assert_eq!(one, whole[(rows - 1) * columns..]);
        }
    }
}
