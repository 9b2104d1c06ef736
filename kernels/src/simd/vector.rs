//! Vectors of 16 floats for each vector unit.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::{bf16, f16};

use super::Float;

/// Floats in one vector on every CPU: one AVX-512 register, two of AVX2.
pub(crate) const LANES: usize = 16;

/// One vector's floats in memory.
pub(crate) type Lanes = [f32; LANES];

/// The first vector's numbers of a slice.
///
/// # Panics
/// When the slice is shorter.
#[inline(always)]
pub(crate) fn lanes<E>(x: &[E]) -> &[E; LANES] {
    // `first_chunk` is `None` only for a shorter slice, where indexing panics as documented.
    x.first_chunk()
        .unwrap_or_else(|| panic!("{} numbers are no vector", x.len()))
}

/// As [`lanes`], to write to.
///
/// # Panics
/// When the slice is shorter.
#[inline(always)]
pub(crate) fn lanes_mut<E>(x: &mut [E]) -> &mut [E; LANES] {
    let len = x.len();
    x.first_chunk_mut()
        .unwrap_or_else(|| panic!("{len} numbers are no vector"))
}

/// A vector unit. Its types are named only by `multiversion!`, which has found the unit first.
pub(crate) trait Simd: Copy {
    /// [`LANES`] floats in registers.
    type Vector: Copy;
    /// How many vectors the registers hold: a loop that sums into more of them spends its time on memory.
    const REGISTERS: usize;

    fn splat(x: f32) -> Self::Vector;
    fn load(x: &Lanes) -> Self::Vector;
    fn store(x: Self::Vector, to: &mut Lanes);
    /// [`store`](Self::store), past the caches where `to` allows; see
    /// [`finish_stream`](super::finish_stream).
    #[inline(always)]
    fn stream(x: Self::Vector, to: &mut Lanes) {
        Self::store(x, to);
    }
    fn load_bf16(x: &[bf16; LANES]) -> Self::Vector;
    /// Rounds to nearest, ties to even, as all that narrows does; NaN stays NaN.
    fn store_bf16(x: Self::Vector, to: &mut [bf16; LANES]);
    fn load_f16(x: &[f16; LANES]) -> Self::Vector;
    fn store_f16(x: Self::Vector, to: &mut [f16; LANES]);
    fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `x` where `of` is positive or NaN, else zero: a rectifier, and its gradient at the values `of`.
    fn where_positive(x: Self::Vector, of: Self::Vector) -> Self::Vector;
    fn multiply(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c`, fused where that is one instruction.
    fn multiply_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// [`multiply_add`](Self::multiply_add) of single floats, rounded alike.
    fn multiply_add_scalar(a: f32, b: f32, c: f32) -> f32;
}

/// The baseline CPU: plain arrays.
#[derive(Clone, Copy)]
pub(crate) struct Baseline;

impl Simd for Baseline {
    type Vector = Lanes;
    const REGISTERS: usize = 4;

    #[inline(always)]
    fn splat(x: f32) -> Lanes {
        [x; LANES]
    }

    #[inline(always)]
    fn load(x: &Lanes) -> Lanes {
        *x
    }

    #[inline(always)]
    fn store(x: Lanes, to: &mut Lanes) {
        *to = x;
    }

    #[inline(always)]
    fn load_bf16(x: &[bf16; LANES]) -> Lanes {
        x.map(Float::widen)
    }

    #[inline(always)]
    fn store_bf16(x: Lanes, to: &mut [bf16; LANES]) {
        *to = x.map(Float::narrow);
    }

    #[inline(always)]
    fn load_f16(x: &[f16; LANES]) -> Lanes {
        x.map(Float::widen)
    }

    #[inline(always)]
    fn store_f16(x: Lanes, to: &mut [f16; LANES]) {
        *to = x.map(Float::narrow);
    }

    #[inline(always)]
    fn where_positive(x: Lanes, of: Lanes) -> Lanes {
        std::array::from_fn(|lane| if of[lane] <= 0.0 { 0.0 } else { x[lane] })
    }

    #[inline(always)]
    fn add(a: Lanes, b: Lanes) -> Lanes {
        std::array::from_fn(|lane| a[lane] + b[lane])
    }

    #[inline(always)]
    fn multiply(a: Lanes, b: Lanes) -> Lanes {
        std::array::from_fn(|lane| a[lane] * b[lane])
    }

    #[inline(always)]
    fn multiply_add(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
    }

    #[inline(always)]
    fn multiply_add_scalar(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

/// AVX2 with FMA.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

#[cfg(target_arch = "x86_64")]
impl Simd for Avx2 {
    type Vector = [__m256; 2];
    const REGISTERS: usize = 8;

    #[inline(always)]
    fn splat(x: f32) -> [__m256; 2] {
        // SAFETY: this type is named only where AVX2 and FMA have been found.
        unsafe { [_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    fn load(x: &Lanes) -> [__m256; 2] {
        // SAFETY: this type is named only where AVX2 and FMA have been found; `x` holds 16 floats.
        unsafe {
            [
                _mm256_loadu_ps(x.as_ptr()),
                _mm256_loadu_ps(x.as_ptr().add(8)),
            ]
        }
    }

    #[inline(always)]
    fn store(x: [__m256; 2], to: &mut Lanes) {
        // SAFETY: this type is named only where AVX2 and FMA have been found; `to` holds 16 floats.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), x[1]);
        }
    }

    #[inline(always)]
    fn stream(x: [__m256; 2], to: &mut Lanes) {
        // Half a line would be written to memory by itself.
        if to.as_ptr().addr().is_multiple_of(size_of::<Lanes>()) {
            let to = to.as_mut_ptr();
            // SAFETY: this type is named only where AVX2 has been found; `to` holds 16 floats and starts a cache line.
            unsafe {
                _mm256_stream_ps(to, x[0]);
                _mm256_stream_ps(to.wrapping_add(8), x[1]);
            }
        } else {
            Self::store(x, to);
        }
    }

    #[inline(always)]
    fn load_bf16(x: &[bf16; LANES]) -> [__m256; 2] {
        // SAFETY: this type is named only where AVX2 and FMA have been found; `x` holds two
        // halves of 16 bytes.
        unsafe {
            let half = |index: usize| {
                let bits = _mm_loadu_si128(x.as_ptr().cast::<__m128i>().add(index));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
            };
            [half(0), half(1)]
        }
    }

    #[inline(always)]
    fn store_bf16(x: [__m256; 2], to: &mut [bf16; LANES]) {
        // SAFETY: this type is named only where AVX2 and FMA have been found; `to` holds 32 bytes.
        unsafe {
            let rounded = |x: __m256| {
                let bits = _mm256_castps_si256(x);
                let upper = _mm256_srli_epi32::<16>(bits);
                let odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
                let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
                let sum = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, half));
                let quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
                let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
                _mm256_blendv_epi8(sum, quiet, nan)
            };
            // Packing works within 128 bits each: the quarters come back in the order 0, 2, 1, 3.
            let packed = _mm256_packus_epi32(rounded(x[0]), rounded(x[1]));
            let ordered = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), ordered);
        }
    }

    #[inline(always)]
    fn load_f16(x: &[f16; LANES]) -> [__m256; 2] {
        // SAFETY: this type is named only where AVX2, FMA and F16C have been found; `x` holds two
        // halves of 16 bytes.
        unsafe {
            let half =
                |index| _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast::<__m128i>().add(index)));
            [half(0), half(1)]
        }
    }

    #[inline(always)]
    fn store_f16(x: [__m256; 2], to: &mut [f16; LANES]) {
        // SAFETY: this type is named only where AVX2, FMA and F16C have been found; `to` holds two
        // halves of 16 bytes.
        unsafe {
            let to = to.as_mut_ptr().cast::<__m128i>();
            _mm_storeu_si128(to, _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[0]));
            _mm_storeu_si128(
                to.add(1),
                _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[1]),
            );
        }
    }

    #[inline(always)]
    fn where_positive(x: [__m256; 2], of: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: this type is named only where AVX2 and FMA have been found.
        unsafe {
            let zero = _mm256_setzero_ps();
            [
                _mm256_and_ps(x[0], _mm256_cmp_ps::<_CMP_NLE_UQ>(of[0], zero)),
                _mm256_and_ps(x[1], _mm256_cmp_ps::<_CMP_NLE_UQ>(of[1], zero)),
            ]
        }
    }

    #[inline(always)]
    fn add(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: this type is named only where AVX2 and FMA have been found.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn multiply(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: this type is named only where AVX2 and FMA have been found.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn multiply_add(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: this type is named only where AVX2 and FMA have been found.
        unsafe {
            [
                _mm256_fmadd_ps(a[0], b[0], c[0]),
                _mm256_fmadd_ps(a[1], b[1], c[1]),
            ]
        }
    }

    #[inline(always)]
    fn multiply_add_scalar(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// AVX-512.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

#[cfg(target_arch = "x86_64")]
impl Simd for Avx512 {
    type Vector = __m512;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn splat(x: f32) -> __m512 {
        // SAFETY: this type is named only where AVX-512 has been found.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(x: &Lanes) -> __m512 {
        // SAFETY: this type is named only where AVX-512 has been found; `x` holds 16 floats.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn store(x: __m512, to: &mut Lanes) {
        // SAFETY: this type is named only where AVX-512 has been found; `to` holds 16 floats.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
    }

    #[inline(always)]
    fn stream(x: __m512, to: &mut Lanes) {
        if to.as_ptr().addr().is_multiple_of(size_of::<Lanes>()) {
            // SAFETY: this type is named only where AVX-512 has been found; `to` holds 16 floats and
            // starts a cache line.
            unsafe { _mm512_stream_ps(to.as_mut_ptr(), x) }
        } else {
            Self::store(x, to);
        }
    }

    #[inline(always)]
    fn load_bf16(x: &[bf16; LANES]) -> __m512 {
        // SAFETY: this type is named only where AVX-512 has been found; `x` holds 32 bytes.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }

    #[inline(always)]
    fn store_bf16(x: __m512, to: &mut [bf16; LANES]) {
        // SAFETY: this type is named only where AVX-512 has been found; `to` holds 32 bytes.
        unsafe {
            let bits = _mm512_castps_si512(x);
            let upper = _mm512_srli_epi32::<16>(bits);
            let odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let sum = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
            let rounded = _mm512_mask_or_epi32(sum, nan, upper, _mm512_set1_epi32(0x40));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(rounded));
        }
    }

    #[inline(always)]
    fn load_f16(x: &[f16; LANES]) -> __m512 {
        // SAFETY: this type is named only where AVX-512 has been found; `x` holds 32 bytes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn store_f16(x: __m512, to: &mut [f16; LANES]) {
        // SAFETY: this type is named only where AVX-512 has been found; `to` holds 32 bytes.
        unsafe {
            let halves = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), halves);
        }
    }

    #[inline(always)]
    fn where_positive(x: __m512, of: __m512) -> __m512 {
        // SAFETY: this type is named only where AVX-512 has been found.
        unsafe {
            let kept = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(of, _mm512_setzero_ps());
            _mm512_maskz_mov_ps(kept, x)
        }
    }

    #[inline(always)]
    fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: this type is named only where AVX-512 has been found.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn multiply(a: __m512, b: __m512) -> __m512 {
        // SAFETY: this type is named only where AVX-512 has been found.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: this type is named only where AVX-512 has been found.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn multiply_add_scalar(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}
