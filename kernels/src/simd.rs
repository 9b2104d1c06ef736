//! Run-time choice among builds of one function for different vector units.
//!
//! The crate is compiled for the baseline CPU. Hot loops are written over fixed-width lanes that
//! the compiler turns into vector registers, and [`multiversion!`] compiles each three times:
//! baseline, AVX2 with FMA, and AVX-512.

/// The widest vector unit of this CPU that hot loops are built for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// What this CPU supports. The standard library caches the answer.
    #[inline]
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512bw")
            {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Baseline
    }
}

/// Declares a function that is compiled per [`Level`] and chosen at run time.
///
/// Inside the body the constant `FMA` tells whether fused multiply-add is one instruction; pass it
/// to [`multiply_add`].
macro_rules! multiversion {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)?
        $body:block
    ) => {
        $(#[$attribute])*
        $visibility fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body<const FMA: bool>($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($argument: $type),*) $(-> $result)? {
                body::<true>($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($argument: $type),*) $(-> $result)? {
                body::<true>($($argument),*)
            }

            match $crate::simd::Level::detect() {
                // SAFETY: `detect` has just found every feature the function is built for.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx512 => unsafe { avx512($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx2 => unsafe { avx2($($argument),*) },
                $crate::simd::Level::Baseline => body::<false>($($argument),*),
            }
        }
    };
}

pub(crate) use multiversion;

/// Floats in one AVX-512 register; loops over lanes use this width on every CPU.
pub(crate) const LANES: usize = 16;

/// One register's worth of floats.
pub(crate) type Lanes = [f32; LANES];

/// `a * b + c`, fused where that is one instruction.
#[inline(always)]
pub(crate) fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// The sum of all lanes, pairwise, so that its order is the same on every CPU.
#[inline(always)]
pub(crate) fn sum_lanes(mut lanes: Lanes) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Asks for the cache line at `pointer`, which may be any address.
#[inline(always)]
pub(crate) fn prefetch(pointer: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; it never faults and reads nothing the program can see.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(pointer.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = pointer;
}

/// Asks for all cache lines of `len` floats from `pointer` on.
#[inline(always)]
pub(crate) fn prefetch_row(pointer: *const f32, len: usize) {
    for line in (0..len).step_by(LANES) {
        prefetch(pointer.wrapping_add(line));
    }
}
