//! Norms and factors of flat slices, for gradient clipping and loss scaling.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{
    device::{Context, Device, DisjointMut},
    simd::multiversion,
};

/// Partial sums of one call: their number bounds the parallelism and fixes the order.
const PARTIAL_SUMS: usize = 256;

/// The sum of squares in double precision. Its order depends on the length alone.
pub fn sum_of_squares(context: &Context, x: &[f32]) -> f64 {
    match context.device() {
        Device::Cpu => {
            let panel = x.len().div_ceil(PARTIAL_SUMS).max(4096);
            let mut partial = [0.0; PARTIAL_SUMS];
            let sums = DisjointMut::new(&mut partial);
            context.for_each_panel(x.len(), panel, |range| {
                let index = range.start / panel;
                // SAFETY: each panel writes its own sum.
                unsafe { sums.slice(index..index + 1)[0] = squares(&x[range]) };
            });
            partial.iter().sum()
        }
    }
}

multiversion! {
    fn squares(x: &[f32]) -> f64 {
        let mut lanes = [0.0f64; 16];
        let chunks = x.chunks_exact(16);
        let tail: f64 = chunks.remainder().iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(x) * f64::from(x);
            }
        }
        lanes.iter().sum::<f64>() + tail
    }
}

/// `x *= factor`.
pub fn scale(context: &Context, x: &mut [f32], factor: f32) {
    match context.device() {
        Device::Cpu => {
            let len = x.len();
            let x = DisjointMut::new(x);
            context.for_each_panel(len, 16384, |range| {
                // SAFETY: panels are disjoint ranges, one call each.
                multiply(unsafe { x.slice(range) }, factor);
            });
        }
    }
}

multiversion! {
    fn multiply(x: &mut [f32], factor: f32) {
        x.iter_mut().for_each(|x| *x *= factor);
    }
}

/// `x *= factor`; returns whether every element was finite before.
pub fn scale_if_finite(context: &Context, x: &mut [f32], factor: f32) -> bool {
    match context.device() {
        Device::Cpu => {
            let (len, finite) = (x.len(), AtomicBool::new(true));
            let x = DisjointMut::new(x);
            context.for_each_panel(len, 16384, |range| {
                // SAFETY: panels are disjoint ranges, one call each.
                if !multiply_and_test(unsafe { x.slice(range) }, factor) {
                    finite.store(false, Ordering::Relaxed);
                }
            });
            finite.into_inner()
        }
    }
}

multiversion! {
    fn multiply_and_test(x: &mut [f32], factor: f32) -> bool {
        const EXPONENT: u32 = 0x7f80_0000;
        let mut finite = true;
        for x in x {
            finite &= x.to_bits() & EXPONENT != EXPONENT;
            *x *= factor;
        }
        finite
    }
}
