//! Products of float32 matrices on AVX-512, with what follows a product done while its tile is in
//! registers.
//!
//! The right factor is packed once a call into panels of at most 48 columns, `[depth, width]` each,
//! so that a tile reads it in order; the left one is read where it lies. Each sum is taken in the
//! order of `depth`, so it depends neither on the rows beside it nor on threads.

mod tile;
mod transposed;

use std::arch::x86_64::{_mm512_maskz_loadu_ps, _mm512_storeu_ps};

use super::{Epilogue, LANES, transpose};
use crate::tensor::{TensorMut, TensorRef};
use tile::{Ahead, Left, ROWS, Right, Tile, VECTORS};

pub(crate) use transposed::{multiply_transposed, transposed_scratch_len};

/// How columns are cut into panels: as few as possible, of almost equal width.
#[derive(Clone, Copy)]
struct Panels {
    columns: usize,
    vectors: usize,
    count: usize,
}

impl Panels {
    fn new(columns: usize) -> Self {
        let vectors = columns.div_ceil(LANES);
        Self {
            columns,
            vectors,
            count: vectors.div_ceil(VECTORS),
        }
    }

    /// The first vector of a panel.
    fn start(&self, panel: usize) -> usize {
        panel * self.vectors / self.count
    }

    /// First column, columns, and vectors of a panel.
    fn get(&self, panel: usize) -> (usize, usize, usize) {
        let (first, end) = (self.start(panel), self.start(panel + 1));
        let column = first * LANES;
        (
            column,
            (end * LANES).min(self.columns) - column,
            end - first,
        )
    }
}

/// Floats of a packed right factor.
pub(crate) fn packed_len(depth: usize, columns: usize) -> usize {
    depth * columns.next_multiple_of(LANES)
}

/// A packed right factor.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a> {
    floats: &'a [f32],
    depth: usize,
    panels: Panels,
}

impl<'a> Packed<'a> {
    /// Packs `right: [depth, columns]` into `floats`, of [`packed_len`].
    ///
    /// # Safety
    /// The CPU has AVX-512.
    pub(crate) unsafe fn pack(floats: &mut [f32], right: TensorRef<'_>) {
        let [depth, columns] = right.shape();
        let panels = Panels::new(columns);
        for panel in 0..panels.count {
            let (column, width, vectors) = panels.get(panel);
            let stride = vectors * LANES;
            let to = &mut floats[depth * column..][..depth * stride];
            for (row, to) in to.chunks_exact_mut(stride).enumerate() {
                // SAFETY: AVX-512 by contract.
                unsafe { copy_vectors(to, &right.row(row)[column..][..width]) };
            }
        }
    }

    /// Packs the transpose of `elements: [columns, depth]`, of a depth of at least 1.
    pub(crate) fn pack_transposed(floats: &mut [f32], elements: &[f32], depth: usize) {
        let panels = Panels::new(elements.len() / depth);
        for panel in 0..panels.count {
            let (column, width, vectors) = panels.get(panel);
            let stride = vectors * LANES;
            let to = &mut floats[depth * column..][..depth * stride];
            let rows = &elements[column * depth..][..width * depth];
            transpose(rows, width, depth, to, stride);
        }
    }

    /// What was packed into `floats`.
    pub(crate) fn of(floats: &'a [f32], depth: usize, columns: usize) -> Self {
        Self {
            floats,
            depth,
            panels: Panels::new(columns),
        }
    }
}

/// Copies `from` to whole vectors, the last of which is filled up with zeros.
///
/// # Panics
/// When `to` is shorter.
#[inline]
#[target_feature(enable = "avx512f")]
fn copy_vectors(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.chunks_exact_mut(LANES).zip(from.chunks(LANES)) {
        let mask = u16::MAX >> (LANES - from.len());
        // SAFETY: the mask keeps to the elements of the chunk, and `to` is a whole vector.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), _mm512_maskz_loadu_ps(mask, from.as_ptr())) };
    }
}

/// `out = epilogue(left . right)` with `left: [rows, depth]`, `out: [rows, columns]`.
///
/// # Panics
/// When the shapes do not chain.
///
/// # Safety
/// The CPU has AVX-512.
pub(crate) unsafe fn multiply(
    left: TensorRef<'_>,
    right: Packed<'_>,
    mut out: TensorMut<'_>,
    epilogue: Epilogue<'_>,
) {
    let [rows, depth] = left.shape();
    assert_eq!(
        (depth, [rows, right.panels.columns]),
        (right.depth, out.shape())
    );
    if let Some(bias) = epilogue.bias {
        assert_eq!(bias.len(), right.panels.columns);
    }
    let stride = out.row_stride();
    for panel in 0..right.panels.count {
        let (column, width, vectors) = right.panels.get(panel);
        let floats = &right.floats[depth * column..][..depth * vectors * LANES];
        let tile = Tile {
            left: Left::InPlace {
                start: left.as_ptr(),
                row_stride: left.row_stride(),
            },
            right: Right::Packed(floats.as_ptr()),
            depth,
            out: out.as_mut_ptr().wrapping_add(column),
            out_stride: stride,
            width,
            epilogue: Epilogue {
                bias: epilogue.bias.map(|bias| &bias[column..][..width]),
                ..epilogue
            },
            ahead: None,
        };
        for row in (0..rows).step_by(ROWS) {
            // SAFETY: the tile covers rows `row..row + ROWS` that exist and `width` columns of the
            // panel, all inside the operands, whose extents have been asserted.
            unsafe { tile.at(row).run(ROWS.min(rows - row)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Level;

    fn numbers(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    #[test]
    fn products_equal_those_in_float64_whatever_the_shape() {
        if Level::detect() != Level::Avx512 {
            return;
        }
        for [rows, depth, columns] in [
            [1, 1, 1],
            [8, 16, 48],
            [9, 5, 64],
            [23, 130, 49],
            [7, 33, 17],
            [16, 3, 113],
            [4, 0, 20],
        ] {
            let (a, b, bias) = (
                numbers(rows * depth, 1),
                numbers(depth * columns, 2),
                numbers(columns, 3),
            );
            let left = TensorRef::from_f32(&a, &[rows, depth]);
            let right = TensorRef::from_f32(&b, &[depth, columns]);
            let exact = |row: usize, column: usize| -> f64 {
                let term =
                    |k: usize| f64::from(a[row * depth + k]) * f64::from(b[k * columns + column]);
                (0..depth).map(term).sum()
            };
            let check = |out: &[f32], expected: &dyn Fn(usize, usize) -> f64| {
                for row in 0..rows {
                    for column in 0..columns {
                        let got = f64::from(out[row * columns + column]);
                        let expected = expected(row, column);
                        assert!((got - expected).abs() < 1e-4, "{rows} {depth} {columns}");
                    }
                }
            };
            let mut floats = vec![f32::NAN; packed_len(depth, columns)];
            let mut out = vec![0.5; rows * columns];
            let shape = [rows, columns];
            // SAFETY: AVX-512 has been detected.
            unsafe { Packed::pack(&mut floats, right) };
            let packed = Packed::of(&floats, depth, columns);
            let relu = Epilogue {
                bias: Some(&bias),
                relu: true,
                accumulate: false,
            };
            // SAFETY: AVX-512 has been detected.
            unsafe { multiply(left, packed, TensorMut::from_f32(&mut out, &shape), relu) };
            check(&out, &|row, column| {
                (exact(row, column) + f64::from(bias[column])).max(0.0)
            });
            out.fill(0.5);
            let add = Epilogue {
                accumulate: true,
                ..Epilogue::default()
            };
            // SAFETY: as above.
            unsafe { multiply(left, packed, TensorMut::from_f32(&mut out, &shape), add) };
            check(&out, &|row, column| exact(row, column) + 0.5);

            let mut right_turned = vec![0.0; depth * columns];
            for k in 0..depth {
                (0..columns).for_each(|c| right_turned[c * depth + k] = b[k * columns + c]);
            }
            if depth > 0 {
                let mut own = vec![f32::NAN; packed_len(depth, columns)];
                Packed::pack_transposed(&mut own, &right_turned, depth);
                let packed = Packed::of(&own, depth, columns);
                let into = TensorMut::from_f32(&mut out, &shape);
                // SAFETY: as above.
                unsafe { multiply(left, packed, into, Epilogue::default()) };
                check(&out, &exact);
            }
        }
    }

    #[test]
    fn a_rectified_nan_stays_one() {
        if Level::detect() != Level::Avx512 {
            return;
        }
        let (left, right) = ([f32::NAN], [1.0]);
        let (mut floats, mut out) = (vec![0.0; 16], [0.0]);
        // SAFETY: AVX-512 has been detected.
        unsafe { Packed::pack(&mut floats, TensorRef::from_f32(&right, &[1, 1])) };
        let packed = Packed::of(&floats, 1, 1);
        let relu = Epilogue {
            relu: true,
            ..Epilogue::default()
        };
        let into = TensorMut::from_f32(&mut out, &[1, 1]);
        // SAFETY: AVX-512 has been detected.
        unsafe { multiply(TensorRef::from_f32(&left, &[1, 1]), packed, into, relu) };
        assert!(out[0].is_nan());
    }
}
