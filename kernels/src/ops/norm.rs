//! Norms of flat slices, for gradient clipping.

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
