//! Vectors of 16 floats for each vector unit.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m512, _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_mul_ps, _mm256_set1_ps,
    _mm256_storeu_ps, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mul_ps,
    _mm512_set1_ps, _mm512_storeu_ps,
};

/// Floats in one vector on every CPU: one AVX-512 register, two of AVX2.
pub(crate) const LANES: usize = 16;

/// One vector's floats in memory.
pub(crate) type Lanes = [f32; LANES];

/// The first vector's floats of a slice.
///
/// # Panics
/// When the slice is shorter.
#[inline(always)]
pub(crate) fn lanes(x: &[f32]) -> &Lanes {
    // `first_chunk` is `None` only for a shorter slice, where indexing panics as documented.
    x.first_chunk()
        .unwrap_or_else(|| panic!("{} floats are no vector", x.len()))
}

/// As [`lanes`], to write to.
///
/// # Panics
/// When the slice is shorter.
#[inline(always)]
pub(crate) fn lanes_mut(x: &mut [f32]) -> &mut Lanes {
    let len = x.len();
    x.first_chunk_mut()
        .unwrap_or_else(|| panic!("{len} floats are no vector"))
}

/// A vector unit. Its types are named only by `multiversion!`, which has found the unit first.
pub(crate) trait Simd: Copy {
    /// [`LANES`] floats in registers.
    type Vector: Copy;

    fn splat(x: f32) -> Self::Vector;
    fn load(x: &Lanes) -> Self::Vector;
    fn store(x: Self::Vector, to: &mut Lanes);
    fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
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
