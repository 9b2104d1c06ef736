//! What differs between the vector units that multiply float32 matrices.

use std::arch::x86_64::*;

use super::{
    super::{Avx2, Avx512, LANES, Simd},
    tile::{self, Tiles},
    transposed,
};
use crate::tensor::TensorRef;

/// A vector unit that computes tiles. Its functions are called only where the unit has been found, and each is compiled
/// for it.
pub(super) trait TileUnit: Simd {
    /// Rows of a tile.
    const ROWS: usize;
    /// The most vectors of a tile's row.
    const VECTORS: usize;
    /// Samples of a block of sums over samples: with fewer, tiles begin and end more often; with more, a block's panel
    /// leaves the first cache.
    const DEPTH: usize;

    /// The first `lanes` floats at `from`, then zeros.
    ///
    /// # Safety
    /// They are there, 1 to [`LANES`]; the CPU has the unit.
    unsafe fn load_first(from: *const f32, lanes: usize) -> Self::Vector;

    /// Writes the first `lanes` floats of a vector.
    ///
    /// # Safety
    /// As for [`load_first`](Self::load_first).
    unsafe fn store_first(x: Self::Vector, to: *mut f32, lanes: usize);

    /// `max(0, x)`; NaN stays NaN.
    fn rectify(x: Self::Vector) -> Self::Vector;

    /// `x` where `value` is positive or NaN, else zero.
    fn pass(x: Self::Vector, value: Self::Vector) -> Self::Vector;

    /// Computes `rows` rows of tiles from row `first` on, 1 to [`ROWS`](Self::ROWS).
    ///
    /// # Safety
    /// See [`tile::run`].
    unsafe fn run(tiles: &Tiles<'_>, first: usize, rows: usize);

    /// A function of its own for each way that factors lie: several of them in one cost the sums their registers.
    ///
    /// # Safety
    /// See [`tile::multiply`].
    unsafe fn compute<const R: usize, const V: usize>(
        tiles: &Tiles<'_>,
        first: usize,
        left: impl Fn(usize, usize) -> *const f32,
        right: impl Fn(usize) -> *const f32,
    );

    /// See [`copy_vectors`].
    ///
    /// # Safety
    /// The CPU has the unit.
    unsafe fn copy_vectors(to: &mut [f32], from: &[f32]);

    /// See [`transposed::pack_left`].
    ///
    /// # Safety
    /// The CPU has the unit.
    unsafe fn pack_left(to: &mut [f32], left: TensorRef<'_>);

    /// See [`transposed::pack_right`].
    ///
    /// # Safety
    /// The CPU has the unit.
    unsafe fn pack_right(to: &mut [f32], right: TensorRef<'_>);
}

/// Copies `from` to whole vectors, the last of which is filled up with zeros.
///
/// # Panics
/// When `to` is shorter.
///
/// # Safety
/// The CPU has the unit.
#[inline(always)]
unsafe fn copy_vectors<U: TileUnit>(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.chunks_exact_mut(LANES).zip(from.chunks(LANES)) {
        // SAFETY: a chunk has its elements, and `to` is a whole vector.
        unsafe {
            U::store_first(
                U::load_first(from.as_ptr(), from.len()),
                to.as_mut_ptr(),
                LANES,
            )
        };
    }
}

/// Implements the functions of a unit that are the same for all, compiled with its features.
macro_rules! compiled_for {
    ($unit:ident, $features:literal, rows: $($rows:literal)*, vectors: $vectors:tt) => {
        #[inline(always)]
        unsafe fn run(tiles: &Tiles<'_>, first: usize, rows: usize) {
            compiled_for!(@tiles $unit, tiles, first, rows, [$($rows)*], $vectors);
        }

        #[inline(always)]
        unsafe fn compute<const R: usize, const V: usize>(
            tiles: &Tiles<'_>,
            first: usize,
            left: impl Fn(usize, usize) -> *const f32,
            right: impl Fn(usize) -> *const f32,
        ) {
            #[inline(never)]
            #[target_feature(enable = $features)]
            unsafe fn compiled<const R: usize, const V: usize>(
                tiles: &Tiles<'_>,
                first: usize,
                left: impl Fn(usize, usize) -> *const f32,
                right: impl Fn(usize) -> *const f32,
            ) {
                // SAFETY: as the caller promises.
                unsafe { tile::multiply::<$unit, R, V>(tiles, first, left, right) };
            }
            // SAFETY: as the caller promises.
            unsafe { compiled::<R, V>(tiles, first, left, right) };
        }

        unsafe fn copy_vectors(to: &mut [f32], from: &[f32]) {
            #[target_feature(enable = $features)]
            fn compiled(to: &mut [f32], from: &[f32]) {
                // SAFETY: the CPU has the unit by contract.
                unsafe { copy_vectors::<$unit>(to, from) }
            }
            // SAFETY: the CPU has the unit by contract.
            unsafe { compiled(to, from) };
        }

        unsafe fn pack_left(to: &mut [f32], left: TensorRef<'_>) {
            #[target_feature(enable = $features)]
            fn compiled(to: &mut [f32], left: TensorRef<'_>) {
                transposed::pack_left::<$unit>(to, left);
            }
            // SAFETY: the CPU has the unit by contract.
            unsafe { compiled(to, left) };
        }

        unsafe fn pack_right(to: &mut [f32], right: TensorRef<'_>) {
            #[target_feature(enable = $features)]
            fn compiled(to: &mut [f32], right: TensorRef<'_>) {
                // SAFETY: the CPU has the unit by contract.
                unsafe { transposed::pack_right::<$unit>(to, right) }
            }
            // SAFETY: the CPU has the unit by contract.
            unsafe { compiled(to, right) };
        }
    };
    (@tiles $unit:ident, $tiles:ident, $first:ident, $count:ident, $rows:tt, [$($vectors:literal)*]) => {
        match $tiles.width.div_ceil(LANES) {
            $($vectors => compiled_for!(@rows $unit, $tiles, $first, $count, $rows, $vectors),)*
            _ => unreachable!("a tile has no more vectors"),
        }
    };
    (@rows $unit:ident, $tiles:ident, $first:ident, $count:ident, [$($rows:literal)*], $vectors:literal) => {
        match $count {
            // SAFETY: as the caller promises.
            $($rows => unsafe { tile::run::<$unit, $rows, $vectors>($tiles, $first) },)*
            _ => unreachable!("a tile has no more rows"),
        }
    };
}

/// 24 sums, 3 vectors of the right factor and a broadcast fit the 32 registers, and 24 independent sums hide the latency
/// of a fused multiply-add.
impl TileUnit for Avx512 {
    const ROWS: usize = 8;
    const VECTORS: usize = 3;
    const DEPTH: usize = 128;

    #[inline(always)]
    unsafe fn load_first(from: *const f32, lanes: usize) -> __m512 {
        // SAFETY: the mask keeps to the elements, and the CPU has AVX-512 by contract.
        unsafe { _mm512_maskz_loadu_ps(first(lanes), from) }
    }

    #[inline(always)]
    unsafe fn store_first(x: __m512, to: *mut f32, lanes: usize) {
        // SAFETY: as above.
        unsafe { _mm512_mask_storeu_ps(to, first(lanes), x) };
    }

    #[inline(always)]
    fn rectify(x: __m512) -> __m512 {
        // The second operand is the result where one is NaN.
        // SAFETY: this type is named only where AVX-512 has been found.
        unsafe { _mm512_max_ps(_mm512_setzero_ps(), x) }
    }

    #[inline(always)]
    fn pass(x: __m512, value: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let open = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(value, _mm512_setzero_ps());
            _mm512_maskz_mov_ps(open, x)
        }
    }

    compiled_for!(Avx512, "avx512f", rows: 1 2 3 4 5 6 7 8, vectors: [1 2 3]);
}

/// The mask of the first `lanes` lanes, at least 1.
#[inline(always)]
fn first(lanes: usize) -> __mmask16 {
    !0 >> (LANES - lanes)
}

/// A vector is two registers: 12 sums, 2 of the right factor and a broadcast fit the 16 registers, and 12 independent
/// sums hide the latency of a fused multiply-add.
impl TileUnit for Avx2 {
    const ROWS: usize = 6;
    const VECTORS: usize = 1;
    const DEPTH: usize = 256;

    #[inline(always)]
    unsafe fn load_first(from: *const f32, lanes: usize) -> [__m256; 2] {
        // SAFETY: whole halves and masks keep to the elements; the CPU has AVX2 by contract.
        unsafe {
            match lanes {
                LANES => [
                    _mm256_loadu_ps(from),
                    _mm256_loadu_ps(from.wrapping_add(HALF)),
                ],
                _ => {
                    let [low, high] = halves(lanes);
                    let high = _mm256_maskload_ps(from.wrapping_add(HALF), high);
                    [_mm256_maskload_ps(from, low), high]
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn store_first(x: [__m256; 2], to: *mut f32, lanes: usize) {
        // SAFETY: as above.
        unsafe {
            match lanes {
                LANES => {
                    _mm256_storeu_ps(to, x[0]);
                    _mm256_storeu_ps(to.wrapping_add(HALF), x[1]);
                }
                _ => {
                    let [low, high] = halves(lanes);
                    _mm256_maskstore_ps(to, low, x[0]);
                    _mm256_maskstore_ps(to.wrapping_add(HALF), high, x[1]);
                }
            }
        }
    }

    #[inline(always)]
    fn rectify(x: [__m256; 2]) -> [__m256; 2] {
        // The second operand is the result where one is NaN.
        // SAFETY: this type is named only where AVX2 has been found.
        unsafe {
            let zeros = _mm256_setzero_ps();
            [_mm256_max_ps(zeros, x[0]), _mm256_max_ps(zeros, x[1])]
        }
    }

    #[inline(always)]
    fn pass(x: [__m256; 2], value: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe {
            let zeros = _mm256_setzero_ps();
            let low = _mm256_cmp_ps::<_CMP_NLE_UQ>(value[0], zeros);
            let high = _mm256_cmp_ps::<_CMP_NLE_UQ>(value[1], zeros);
            [_mm256_and_ps(x[0], low), _mm256_and_ps(x[1], high)]
        }
    }

    compiled_for!(Avx2, "avx2,fma", rows: 1 2 3 4 5 6, vectors: [1]);
}

/// Floats of a register of AVX2.
const HALF: usize = LANES / 2;

/// The masks of the first `lanes` lanes in both registers of a vector.
///
/// # Safety
/// `lanes` is at most [`LANES`]; the CPU has AVX2.
#[inline(always)]
unsafe fn halves(lanes: usize) -> [__m256i; 2] {
    static ON_THEN_OFF: [i32; 2 * LANES] = {
        let mut mask = [0; 2 * LANES];
        let mut lane = 0;
        while lane < LANES {
            mask[lane] = -1;
            lane += 1;
        }
        mask
    };
    let mask = ON_THEN_OFF[LANES - lanes..].as_ptr();
    // SAFETY: from there on at least 16 numbers follow; the CPU has AVX2 by contract.
    unsafe {
        [
            _mm256_loadu_si256(mask.cast()),
            _mm256_loadu_si256(mask.wrapping_add(HALF).cast()),
        ]
    }
}
