//! Run-time choice among builds of one function for different vector units.
//!
//! The crate is compiled for the baseline CPU. [`multiversion!`] compiles a function three times,
//! for the baseline, AVX2 with FMA, and AVX-512, and picks one when it is called. Inside, the type
//! [`S`](Simd) offers vectors of [`LANES`] floats where loops left to the compiler do not do.

mod epilogue;
mod float;
#[cfg(target_arch = "x86_64")]
pub(crate) mod product;
mod stream;
mod transpose;
mod vector;

use std::sync::OnceLock;

use crate::error::{Error, Result};

pub(crate) use epilogue::Epilogue;
pub(crate) use float::{Float, convert, narrow, round, widen};
pub(crate) use stream::{finish_stream, past_caches};
pub(crate) use transpose::transpose;
#[cfg(target_arch = "x86_64")]
pub(crate) use vector::{Avx2, Avx512};
pub(crate) use vector::{Baseline, LANES, Lanes, Simd, lanes, lanes_mut};

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
    /// The widest unit this CPU has, or a narrower one that `STREAMREC_VECTOR_UNIT` asks for.
    #[inline]
    pub(crate) fn detect() -> Self {
        static LEVEL: OnceLock<Level> = OnceLock::new();
        // A context has refused other names.
        *LEVEL.get_or_init(|| Self::within(&limit().unwrap_or_default()))
    }

    /// The widest unit this CPU has that is not wider than the named one.
    fn within(limit: &str) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if limit == "avx512"
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("f16c")
            {
                return Self::Avx512;
            }
            if matches!(limit, "avx512" | "avx2")
                && is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
            {
                return Self::Avx2;
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = limit;
        Self::Baseline
    }
}

/// The vector unit that the environment limits hot loops to.
///
/// # Errors
/// When it names none.
pub(crate) fn limit() -> Result<String> {
    match std::env::var_os("STREAMREC_VECTOR_UNIT") {
        None => Ok("avx512".into()),
        Some(name) => match name.to_str() {
            Some(unit @ ("avx512" | "avx2" | "baseline")) => Ok(unit.into()),
            _ => Err(Error::VectorUnit(name.to_string_lossy().into_owned())),
        },
    }
}

/// Declares a function that is compiled per [`Level`] and chosen at run time. Inside the body, the
/// type `S` is the [`Simd`] of the level.
macro_rules! multiversion {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)?
        $body:block
    ) => {
        $(#[$attribute])*
        $visibility fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn body<S: $crate::simd::Simd>($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")]
            fn avx512($($argument: $type),*) $(-> $result)? {
                body::<$crate::simd::Avx512>($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($argument: $type),*) $(-> $result)? {
                body::<$crate::simd::Avx2>($($argument),*)
            }

            match $crate::simd::Level::detect() {
                // SAFETY: `detect` has just found every feature the function is built for.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx512 => unsafe { avx512($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx2 => unsafe { avx2($($argument),*) },
                $crate::simd::Level::Baseline => {
                    body::<$crate::simd::Baseline>($($argument),*)
                }
            }
        }
    };
}

pub(crate) use multiversion;

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

/// Bytes of a cache line.
pub(crate) const LINE_BYTES: usize = 64;

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

/// Asks for the cache line at `pointer`, which may be any address, into the second cache.
#[inline(always)]
pub(crate) fn prefetch_far(pointer: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as for `prefetch`.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(pointer.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = pointer;
}

/// Asks for all cache lines of `len` numbers from `pointer` on.
#[inline(always)]
pub(crate) fn prefetch_row<E>(pointer: *const E, len: usize) {
    for line in (0..len).step_by(LINE_BYTES / size_of::<E>()) {
        prefetch(pointer.wrapping_add(line).cast());
    }
}
