//! Products of float32 matrices on AVX-512, with what follows a product done while its tile is in
//! registers.
//!
//! The right factor is packed once a call into panels of at most 48 columns, `[depth, width]` each,
//! so that a tile reads it in order; the left one is read where it lies. A tile is 8 rows by 3
//! vectors: 24 sums, 3 vectors of the right factor and a broadcast fit the 32 registers, and 24
//! independent sums hide the latency of a fused multiply-add. Each sum is taken in the order of
//! `depth`, so it depends neither on the rows beside it nor on threads.

use std::arch::x86_64::{
    __m512, __mmask16, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_max_ps, _mm512_set1_ps, _mm512_setzero_ps,
};

use super::{Epilogue, LANES, transpose};
use crate::tensor::{TensorMut, TensorRef};

/// Rows of a tile.
const ROWS: usize = 8;
/// The most vectors of a tile's row.
const VECTORS: usize = 3;

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
    pub(crate) fn pack(floats: &mut [f32], right: TensorRef<'_>) {
        let [depth, columns] = right.shape();
        let panels = Panels::new(columns);
        for panel in 0..panels.count {
            let (column, width, vectors) = panels.get(panel);
            let stride = vectors * LANES;
            let to = &mut floats[depth * column..][..depth * stride];
            for (row, to) in to.chunks_exact_mut(stride).enumerate() {
                to[..width].copy_from_slice(&right.row(row)[column..][..width]);
                to[width..].fill(0.0);
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
    out: TensorMut<'_>,
    epilogue: Epilogue<'_>,
) {
    let [rows, depth] = left.shape();
    assert_eq!(
        (depth, [rows, right.panels.columns]),
        (right.depth, out.shape())
    );
    let operand = Left {
        start: left.as_ptr(),
        row_stride: left.row_stride(),
    };
    // SAFETY: the operand is the view's, of `rows` x `depth` floats; AVX-512 by contract.
    unsafe { panels(operand, rows, right, out, epilogue) }
}

/// A left factor: element (row, depth) is at `row * row_stride + depth`.
#[derive(Clone, Copy)]
struct Left {
    start: *const f32,
    row_stride: usize,
}

/// # Safety
/// `left` spans `rows` x `right.depth` floats; the CPU has AVX-512.
unsafe fn panels(
    left: Left,
    rows: usize,
    right: Packed<'_>,
    mut out: TensorMut<'_>,
    epilogue: Epilogue<'_>,
) {
    let stride = out.row_stride();
    if let Some(bias) = epilogue.bias {
        assert_eq!(bias.len(), right.panels.columns);
    }
    for panel in 0..right.panels.count {
        let (column, width, vectors) = right.panels.get(panel);
        let tail = width - (vectors - 1) * LANES;
        let task = Task {
            left,
            right: right.floats[right.depth * column..][..right.depth * vectors * LANES].as_ptr(),
            depth: right.depth,
            out: out.as_mut_ptr().wrapping_add(column),
            out_stride: stride,
            last: (u32::MAX >> (32 - tail)) as __mmask16,
            bias: epilogue.bias.map(|bias| bias[column..].as_ptr()),
            epilogue,
        };
        for row in (0..rows).step_by(ROWS) {
            let task = task.at(row);
            // SAFETY: the tile covers rows `row..row + ROWS` that exist and `width` columns of the
            // panel, all inside the operands, whose extents have been asserted.
            unsafe { task.run(ROWS.min(rows - row), vectors) };
        }
    }
}

/// A tile's operands.
#[derive(Clone, Copy)]
struct Task<'a> {
    left: Left,
    right: *const f32,
    depth: usize,
    out: *mut f32,
    out_stride: usize,
    /// The columns that exist of the last vector.
    last: __mmask16,
    bias: Option<*const f32>,
    epilogue: Epilogue<'a>,
}

impl Task<'_> {
    fn at(mut self, row: usize) -> Self {
        self.left.start = self.left.start.wrapping_add(row * self.left.row_stride);
        self.out = self.out.wrapping_add(row * self.out_stride);
        self
    }

    /// # Safety
    /// `rows` rows and `vectors` vectors, the last one cut to its mask, lie inside the operands; the
    /// CPU has AVX-512.
    unsafe fn run(&self, rows: usize, vectors: usize) {
        macro_rules! tiles {
            ($($rows:literal)*) => {
                match (rows, vectors) {
                    $(
                        // SAFETY: as the caller promises.
                        ($rows, 1) => unsafe { tile::<$rows, 1>(self) },
                        // SAFETY: as the caller promises.
                        ($rows, 2) => unsafe { tile::<$rows, 2>(self) },
                        // SAFETY: as the caller promises.
                        ($rows, 3) => unsafe { tile::<$rows, 3>(self) },
                    )*
                    _ => unreachable!("a tile has 1 to 8 rows of 1 to 3 vectors"),
                }
            };
        }
        tiles!(1 2 3 4 5 6 7 8);
    }
}

/// # Safety
/// See [`Task::run`].
#[target_feature(enable = "avx512f")]
unsafe fn tile<const R: usize, const V: usize>(task: &Task<'_>) {
    let Left { start, row_stride } = task.left;
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    let rows: [*const f32; R] = std::array::from_fn(|row| start.wrapping_add(row * row_stride));
    let mut right = task.right;
    for depth in 0..task.depth {
        // SAFETY: the panel holds `depth` rows of `V` vectors.
        let vectors: [__m512; V] =
            std::array::from_fn(|v| unsafe { _mm512_loadu_ps(right.wrapping_add(v * LANES)) });
        for row in 0..R {
            let element = rows[row].wrapping_add(depth);
            // SAFETY: the left factor has the element (row, depth).
            let element = _mm512_set1_ps(unsafe { *element });
            for v in 0..V {
                sums[row][v] = _mm512_fmadd_ps(element, vectors[v], sums[row][v]);
            }
        }
        right = right.wrapping_add(V * LANES);
    }
    for v in 0..V {
        let mask = if v + 1 == V { task.last } else { !0 };
        let bias = match task.bias {
            // SAFETY: the bias has as many elements as the panel has columns; the mask keeps to them.
            Some(bias) => unsafe { _mm512_maskz_loadu_ps(mask, bias.wrapping_add(v * LANES)) },
            None => _mm512_setzero_ps(),
        };
        for (row, sums) in sums.iter().enumerate() {
            let out = task.out.wrapping_add(row * task.out_stride + v * LANES);
            let mut sum = _mm512_add_ps(sums[v], bias);
            if task.epilogue.accumulate {
                // SAFETY: the mask keeps to columns of the row.
                sum = _mm512_add_ps(unsafe { _mm512_maskz_loadu_ps(mask, out) }, sum);
            }
            if task.epilogue.relu {
                // The second operand is the result where one is NaN.
                sum = _mm512_max_ps(_mm512_setzero_ps(), sum);
            }
            // SAFETY: the mask keeps to columns of the row.
            unsafe { _mm512_mask_storeu_ps(out, mask, sum) };
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
            Packed::pack(&mut floats, right);
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
        Packed::pack(&mut floats, TensorRef::from_f32(&right, &[1, 1]));
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
