//! The inner loop: a tile of the result stays in registers while the depth passes by.

use std::arch::x86_64::{
    __m512, __mmask16, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_max_ps, _mm512_set1_ps, _mm512_setzero_ps,
};

use super::super::{Epilogue, LANES, prefetch_far, prefetch_row};

/// Rows of a tile.
pub(super) const ROWS: usize = 8;
/// The most vectors of a tile's row: 24 sums, 3 vectors of the right factor and a broadcast fit the
/// 32 registers, and 24 independent sums hide the latency of a fused multiply-add.
pub(super) const VECTORS: usize = 3;
/// Steps of the depth without a jump: what is left to the front end of a core is 4 instructions a
/// cycle, of which multiply-adds take 2.
const UNROLL: usize = 4;
/// How many steps ahead the right factor is asked for: its panel comes from a second cache.
const AHEAD: usize = 8;

/// A left factor.
#[derive(Clone, Copy)]
pub(super) enum Left {
    /// Element (row, depth) is at `row * row_stride + depth`.
    InPlace {
        start: *const f32,
        row_stride: usize,
    },
    /// Tiles of [`ROWS`] rows one after another, `tile_len` floats each: element (row, depth) of a
    /// tile is at `depth * ROWS + row`.
    Packed { start: *const f32, tile_len: usize },
}

/// A panel of a right factor, `[depth, vectors * LANES]`.
#[derive(Clone, Copy)]
pub(super) enum Right {
    InPlace {
        start: *const f32,
        row_stride: usize,
    },
    /// Row after row.
    Packed(*const f32),
}

/// Rows that later tiles need, in memory: they are brought to a second cache line by line while a tile
/// is computed. A core has some ten requests under way at most and waits with more, so they are
/// spread.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    rows: [*const f32; 2],
    last: [usize; 2],
}

impl Ahead {
    /// Two rows, neither of them empty.
    pub(super) fn rows(rows: [&[f32]; 2]) -> Self {
        Self {
            rows: rows.map(<[f32]>::as_ptr),
            last: rows.map(|row| row.len() - 1),
        }
    }

    /// Asks for the line of element `at` of each row, or again for its last one.
    #[inline(always)]
    fn ask(&self, at: usize) {
        for (row, last) in self.rows.iter().zip(self.last) {
            prefetch_far(row.wrapping_add(at.min(last)));
        }
    }
}

/// A tile of `out (+)= left . right`, and what follows.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub(super) left: Left,
    pub(super) right: Right,
    pub(super) depth: usize,
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
    /// Columns, at least 1, at most `VECTORS * LANES`.
    pub(super) width: usize,
    /// Its bias has `width` elements.
    pub(super) epilogue: Epilogue<'a>,
    pub(super) ahead: Option<Ahead>,
}

impl Tile<'_> {
    /// This tile moved down by `row` rows, a multiple of [`ROWS`].
    pub(super) fn at(mut self, row: usize) -> Self {
        match &mut self.left {
            Left::InPlace { start, row_stride } => *start = start.wrapping_add(row * *row_stride),
            Left::Packed { start, tile_len } => *start = start.wrapping_add(row / ROWS * *tile_len),
        }
        self.out = self.out.wrapping_add(row * self.out_stride);
        self
    }

    /// Computes `rows` rows, 1 to [`ROWS`].
    ///
    /// # Safety
    /// That many rows of the left factor and of `out`, `width` columns of `out`, and `depth` rows of
    /// the panel are there; the CPU has AVX-512.
    pub(super) unsafe fn run(&self, rows: usize) {
        macro_rules! tiles {
            ($($rows:literal)*) => {
                match (rows, self.width.div_ceil(LANES)) {
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
/// See [`Tile::run`].
#[target_feature(enable = "avx512f")]
unsafe fn tile<const R: usize, const V: usize>(tile: &Tile<'_>) {
    let packed_left = |start: *const f32| move |row, depth| start.wrapping_add(depth * ROWS + row);
    let packed_right = |start: *const f32| move |depth| start.wrapping_add(depth * V * LANES);
    match (tile.left, tile.right) {
        (Left::InPlace { start, row_stride }, Right::Packed(right)) => {
            let rows: [*const f32; R] =
                std::array::from_fn(|row| start.wrapping_add(row * row_stride));
            let left = |row: usize, depth| rows[row].wrapping_add(depth);
            // SAFETY: as the caller promises.
            unsafe { multiply::<R, V>(tile, left, packed_right(right)) }
        }
        // SAFETY: as the caller promises.
        (Left::Packed { start, .. }, Right::Packed(right)) => unsafe {
            multiply::<R, V>(tile, packed_left(start), packed_right(right));
        },
        (
            Left::Packed { start, .. },
            Right::InPlace {
                start: right,
                row_stride,
            },
        ) => {
            let right = |depth| right.wrapping_add(depth * row_stride);
            // SAFETY: as the caller promises.
            unsafe { multiply::<R, V>(tile, packed_left(start), right) }
        }
        (Left::InPlace { .. }, Right::InPlace { .. }) => {
            unreachable!("one of the factors is packed")
        }
    }
}

/// A function of its own for each way that factors lie: several of them in one cost the sums their
/// registers.
///
/// # Safety
/// `left` gives the address of an element of the left factor for each row and depth of the tile, and
/// `right` that of `V` vectors of the right one for each depth; see [`Tile::run`].
#[inline(never)]
#[target_feature(enable = "avx512f")]
unsafe fn multiply<const R: usize, const V: usize>(
    tile: &Tile<'_>,
    left: impl Fn(usize, usize) -> *const f32,
    right: impl Fn(usize) -> *const f32,
) {
    let last: __mmask16 = !0 >> (V * LANES - tile.width);
    let mask = |v| if v + 1 == V { last } else { !0 };
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    if tile.epilogue.accumulate {
        // Asked for now, added at the end.
        for row in 0..R {
            prefetch_row(tile.out.wrapping_add(row * tile.out_stride), V * LANES);
        }
    }
    // SAFETY: as the caller promises.
    unsafe { add_products(&mut sums, tile, left, right) };
    for v in 0..V {
        let bias = match tile.epilogue.bias {
            // SAFETY: the bias has `width` elements, to which the mask keeps.
            Some(bias) => unsafe {
                _mm512_maskz_loadu_ps(mask(v), bias.as_ptr().wrapping_add(v * LANES))
            },
            None => _mm512_setzero_ps(),
        };
        for (row, sums) in sums.iter().enumerate() {
            let mut sum = _mm512_add_ps(sums[v], bias);
            let out = tile.out.wrapping_add(row * tile.out_stride + v * LANES);
            if tile.epilogue.accumulate {
                // SAFETY: the mask keeps to columns of the row.
                sum = _mm512_add_ps(unsafe { _mm512_maskz_loadu_ps(mask(v), out) }, sum);
            }
            if tile.epilogue.relu {
                // The second operand is the result where one is NaN.
                sum = _mm512_max_ps(_mm512_setzero_ps(), sum);
            }
            // SAFETY: the mask keeps to columns of the row.
            unsafe { _mm512_mask_storeu_ps(out, mask(v), sum) };
        }
    }
}

/// # Safety
/// `left` gives the address of an element of the left factor for each row and depth of the tile, and
/// `right` that of `V` vectors of the right one for each depth; the CPU has AVX-512.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add_products<const R: usize, const V: usize>(
    sums: &mut [[__m512; V]; R],
    tile: &Tile<'_>,
    left: impl Fn(usize, usize) -> *const f32,
    right: impl Fn(usize) -> *const f32,
) {
    let mut step = |depth: usize| {
        let ahead = right(depth + AHEAD);
        let right = right(depth);
        // SAFETY: the right factor has the vectors.
        let right: [__m512; V] =
            std::array::from_fn(|v| unsafe { _mm512_loadu_ps(right.wrapping_add(v * LANES)) });
        prefetch_row(ahead, V * LANES);
        // With iterators in place of indices the sums leave the registers.
        #[allow(clippy::needless_range_loop)]
        for row in 0..R {
            // SAFETY: the left factor has the element.
            let element = _mm512_set1_ps(unsafe { *left(row, depth) });
            for v in 0..V {
                sums[row][v] = _mm512_fmadd_ps(element, right[v], sums[row][v]);
            }
        }
    };
    let unrolled = tile.depth - tile.depth % UNROLL;
    for depth in (0..unrolled).step_by(UNROLL) {
        if let Some(ahead) = tile.ahead {
            ahead.ask(depth * (LANES / UNROLL));
        }
        for next in 0..UNROLL {
            step(depth + next);
        }
    }
    (unrolled..tile.depth).for_each(step);
}
