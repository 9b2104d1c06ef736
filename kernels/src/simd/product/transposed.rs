//! Products whose left factor is read transposed: gradients of weights, sums over the samples of a
//! batch.
//!
//! The samples go by in blocks. A block's rows of the left factor are packed into a second cache. Its
//! rows of the right one are read where they lie, strip by strip of their columns, where that is as fast;
//! else a strip is packed as well. While tiles add a strip to the result, what comes next is asked for
//! from memory. Where it is cheaper to pack the right factor instead, the transpose of the result is
//! computed: the same products in the same order.

use super::{Ahead, Epilogue, LANES, Left, Panels, Right, Tiles, unit::TileUnit};
use crate::tensor::{TensorMut, TensorRef};

/// Columns of a strip: packed, with the next strip and with some 256 packed rows, it fits a second cache
/// of 1 MiB.
const STRIP: usize = 24 * LANES;

/// Floats from one tile of the packed left factor to the next: not a multiple of 4 KiB, whose lines
/// would share a set of the first cache.
const fn tile_stride<U: TileUnit>() -> usize {
    U::DEPTH * U::ROWS + LANES
}

/// Floats of the scratch memory of [`multiply`].
pub(super) fn scratch_len<U: TileUnit>(left: TensorRef<'_>, right: TensorRef<'_>) -> usize {
    let packed = |rows: usize, columns: usize| {
        let strip = columns.min(STRIP).next_multiple_of(LANES);
        rows.div_ceil(U::ROWS) * tile_stride::<U>() + U::DEPTH * strip
    };
    let (rows, columns) = (left.shape()[1], right.shape()[1]);
    match is_turned::<U>(left, right) {
        true => rows * columns + packed(columns, rows),
        false => packed(rows, columns),
    }
}

/// `out (+)= left^T . right` with `left: [samples, rows]`, `right: [samples, columns]`,
/// `out: [rows, columns]`. Each sum is taken in the order of the samples, in blocks that depend on the
/// number of samples and the unit alone. `scratch` is of [`scratch_len`].
///
/// # Panics
/// When the shapes do not chain.
///
/// # Safety
/// The CPU has the unit.
pub(super) unsafe fn multiply<U: TileUnit>(
    left: TensorRef<'_>,
    right: TensorRef<'_>,
    mut out: TensorMut<'_>,
    accumulate: bool,
    scratch: &mut [f32],
) {
    if !is_turned::<U>(left, right) {
        // SAFETY: the CPU has the unit by contract.
        return unsafe { add_blocks::<U>(left, right, out, accumulate, scratch) };
    }
    let [rows, columns] = out.shape();
    let (turned, scratch) = scratch.split_at_mut(rows * columns);
    let mut turned = TensorMut::from_f32(turned, &[columns, rows]);
    if accumulate {
        turn(out.as_ref(), turned.reborrow());
    }
    // SAFETY: the CPU has the unit by contract.
    unsafe { add_blocks::<U>(right, left, turned.reborrow(), accumulate, scratch) };
    turn(turned.as_ref(), out.reborrow());
}

/// Whether fewer columns are packed where the factors change places.
fn is_turned<U: TileUnit>(left: TensorRef<'_>, right: TensorRef<'_>) -> bool {
    let packed = |left: TensorRef<'_>, right: TensorRef<'_>| {
        let (rows, columns) = (left.shape()[1], right.shape()[1]);
        match lies_well::<U>(right, rows) {
            true => rows,
            false => rows + columns,
        }
    };
    packed(right, left) < packed(left, right)
}

/// Writes the transpose.
fn turn(from: TensorRef<'_>, mut to: TensorMut<'_>) {
    let [rows, columns] = from.shape();
    for first in (0..rows).step_by(LANES) {
        let last = rows.min(first + LANES);
        for column in 0..columns {
            let to = &mut to.row_mut(column)[first..last];
            for (to, row) in to.iter_mut().zip(first..last) {
                *to = from.row(row)[column];
            }
        }
    }
}

/// [`multiply`], of factors in their places.
///
/// # Safety
/// The CPU has the unit.
unsafe fn add_blocks<U: TileUnit>(
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
    let packed_len = rows.div_ceil(U::ROWS) * tile_stride::<U>();
    let (packed_left, packed_right) = scratch.split_at_mut(packed_len);
    let in_place = lies_well::<U>(right, rows);
    let strip = |strip: usize| columns.min(strip * STRIP)..columns.min((strip + 1) * STRIP);
    // No samples still set sums to zero.
    let (blocks, strips) = (samples.div_ceil(U::DEPTH).max(1), columns.div_ceil(STRIP));
    let samples = |block: usize| samples.min(block * U::DEPTH)..samples.min((block + 1) * U::DEPTH);
    for block in 0..blocks {
        let (now, next) = (samples(block), samples(block + 1));
        let left_next = left.rows(next.clone());
        // SAFETY: the CPU has the unit by contract.
        unsafe { U::pack_left(packed_left, left.rows(now.clone())) };
        for index in 0..strips {
            let of_strip = |index, samples| right.columns(strip(index)).rows(samples);
            let right = of_strip(index, now.clone());
            let right = if in_place {
                RightStrip::InPlace(right)
            } else {
                // SAFETY: the CPU has the unit by contract.
                unsafe { U::pack_right(packed_right, right) };
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
            // SAFETY: the CPU has the unit by contract, and the factors have just been packed.
            unsafe { work.add_to::<U>(out.reborrow().columns(strip(index))) };
        }
    }
}

/// Whether a right factor is best read where it lies, beside a left one of so many rows.
fn lies_well<U: TileUnit>(right: TensorRef<'_>, rows: usize) -> bool {
    let lines = right.row_stride() / LANES;
    let few_sets = U::VECTORS == 1 && lines.is_multiple_of(SETS_APART);
    starts_lines(right) && !(few_sets && rows > FEW_ROWS)
}

/// A stride of so many lines, or a multiple, leaves a panel of one vector a sixteenth of a first cache's sets, so that it
/// comes from a second cache for every tile.
const SETS_APART: usize = 16;
/// Rows up to which that costs less than to pack.
const FEW_ROWS: usize = 96;

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
    /// The CPU has the unit; the factors have been packed for the rows and columns of `out`.
    unsafe fn add_to<U: TileUnit>(&self, mut out: TensorMut<'_>) {
        let [rows, columns] = out.shape();
        let panels = Panels::new::<U>(columns);
        let count = panels.count * rows.div_ceil(U::ROWS);
        let mut done = 0;
        for panel in 0..panels.count {
            let (column, width, vectors) = panels.get(panel);
            let mut tiles = Tiles {
                left: Left::Packed {
                    start: self.left.as_ptr(),
                    tile_len: tile_stride::<U>(),
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
                gate: None,
                cross: None,
                ahead: None,
            };
            for row in (0..rows).step_by(U::ROWS) {
                tiles.ahead = self.ahead(done, count);
                done += 1;
                // SAFETY: rows from `row` on and the panel's columns exist in `out`; the packed
                // factors have them, as the caller promises.
                unsafe { U::run(&tiles, row, U::ROWS.min(rows - row)) };
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

/// Turns `left: [samples, rows]` into tiles of the unit's rows, `[samples, ROWS]` each.
#[inline(always)]
pub(super) fn pack_left<U: TileUnit>(to: &mut [f32], left: TensorRef<'_>) {
    let [samples, rows] = left.shape();
    let whole = rows - rows % U::ROWS;
    for sample in 0..samples {
        let (from, rest) = left.row(sample).split_at(whole);
        for (tile, from) in from.chunks_exact(U::ROWS).enumerate() {
            to[tile * tile_stride::<U>() + sample * U::ROWS..][..U::ROWS].copy_from_slice(from);
        }
        if !rest.is_empty() {
            // What a last tile holds of rows that are not there is not read.
            let to = &mut to[whole / U::ROWS * tile_stride::<U>() + sample * U::ROWS..];
            to[..rest.len()].copy_from_slice(rest);
        }
    }
}

/// Cuts `right: [samples, columns]` into panels.
///
/// # Safety
/// The CPU has the unit.
#[inline(always)]
pub(super) unsafe fn pack_right<U: TileUnit>(to: &mut [f32], right: TensorRef<'_>) {
    let [samples, columns] = right.shape();
    let panels = Panels::new::<U>(columns);
    // Sample by sample: rows are read from memory in order.
    for sample in 0..samples {
        let from = right.row(sample);
        for panel in 0..panels.count {
            let (column, width, vectors) = panels.get(panel);
            let to = &mut to[samples * column..][sample * vectors * LANES..][..vectors * LANES];
            // SAFETY: the CPU has the unit by contract.
            unsafe { U::copy_vectors(to, &from[column..][..width]) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Unit, tests::units},
        *,
    };
    use crate::{
        device::Context,
        tensor::{DType, Tensor},
    };

    #[test]
    fn sums_over_samples_equal_those_in_float64_and_depend_on_no_other_row() {
        for unit in units() {
            for [samples, rows, columns] in [
                [0, 3, 5],
                [1, 1, 1],
                [128, 8, 48],
                [517, 21, STRIP + 17],
                [300, 9, 2 * STRIP],
                // Their right factor lies in few sets.
                [300, FEW_ROWS, 256],
                [300, FEW_ROWS + 1, 256],
                // Turned: the left factor lies well, the right one does not.
                [517, 64, 13],
                [300, 2 * STRIP, 9],
            ] {
                check_shape(unit, [samples, rows, columns]);
            }
        }
    }

    #[test]
    fn the_longer_factor_stays_where_it_lies() {
        let context = Context::cpu(1, false).unwrap();
        let tensor = |columns| Tensor::zeros(&context, DType::F32, &[4, columns]);
        let (long, short, odd) = (tensor(1728), tensor(128), tensor(13));
        assert!(is_turned::<crate::simd::Avx2>(long.view(), short.view()));
        assert!(!is_turned::<crate::simd::Avx2>(short.view(), long.view()));
        assert!(is_turned::<crate::simd::Avx2>(long.view(), odd.view()));
        assert!(!is_turned::<crate::simd::Avx2>(odd.view(), odd.view()));
    }

    fn check_shape(unit: Unit, [samples, rows, columns]: [usize; 3]) {
        let context = Context::cpu(1, false).unwrap();
        let tensor = |columns: usize, seed: usize| {
            let mut tensor = Tensor::zeros(&context, DType::F32, &[samples, columns]);
            let floats = tensor.f32_mut().iter_mut().enumerate();
            floats.for_each(|(i, float)| *float = ((i + seed) * 7919 % 257) as f32 / 128.0 - 1.0);
            tensor
        };
        let (left, right) = (tensor(rows, 0), tensor(columns, 100));
        let (left, right) = (left.view(), right.view());
        assert_eq!(starts_lines(right), columns.is_multiple_of(LANES));
        let product = |left: TensorRef<'_>, accumulate: bool| {
            let rows = left.shape()[1];
            let mut out = vec![0.5; rows * columns];
            let mut scratch = vec![f32::NAN; unit.transposed_scratch_len(left, right)];
            let into = TensorMut::from_f32(&mut out, &[rows, columns]);
            unit.multiply_transposed(left, right, into, accumulate, &mut scratch);
            out
        };
        let (whole, added) = (product(left, false), product(left, true));
        for row in 0..rows {
            for column in 0..columns {
                let term = |s: usize| f64::from(left.row(s)[row]) * f64::from(right.row(s)[column]);
                let exact: f64 = (0..samples).map(term).sum();
                let at = row * columns + column;
                let error = |got: f32, exact: f64| (f64::from(got) - exact).abs();
                assert!(error(whole[at], exact) < 1e-4, "{unit:?}");
                assert!(error(added[at], exact + 0.5) < 1e-4, "{unit:?}");
            }
        }
        let one = product(left.columns(rows - 1..rows), false);
        assert_eq!(one, whole[(rows - 1) * columns..], "{unit:?}");
    }
}
