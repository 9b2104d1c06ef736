//! Floating-point numbers in memory, and rows of them as float32.

use half::{bf16, f16};

use super::{LANES, Simd, lanes, lanes_mut, multiversion};
use crate::tensor::{DType, Element, TensorMut, TensorRef};

/// A type in which numbers are stored; all arithmetic is done in float32. Narrowing rounds to
/// nearest, ties to even.
pub(crate) trait Float: Element {
    fn widen(self) -> f32;
    fn narrow(x: f32) -> Self;
    /// The first [`LANES`] numbers.
    fn load<S: Simd>(x: &[Self]) -> S::Vector;
    /// Into the first [`LANES`] numbers.
    fn store<S: Simd>(x: S::Vector, to: &mut [Self]);
    /// [`store`](Self::store), past the caches where there is such a store.
    #[inline(always)]
    fn stream<S: Simd>(x: S::Vector, to: &mut [Self]) {
        Self::store::<S>(x, to);
    }
}

impl Float for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(x: f32) -> f32 {
        x
    }

    #[inline(always)]
    fn load<S: Simd>(x: &[f32]) -> S::Vector {
        S::load(lanes(x))
    }

    #[inline(always)]
    fn store<S: Simd>(x: S::Vector, to: &mut [f32]) {
        S::store(x, lanes_mut(to));
    }

    #[inline(always)]
    fn stream<S: Simd>(x: S::Vector, to: &mut [f32]) {
        S::stream(x, lanes_mut(to));
    }
}

impl Float for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn narrow(x: f32) -> bf16 {
        let bits = x.to_bits();
        if x.is_nan() {
            return bf16::from_bits((bits >> 16) as u16 | 0x40);
        }
        let half = 0x7fff + ((bits >> 16) & 1);
        bf16::from_bits((bits.wrapping_add(half) >> 16) as u16)
    }

    #[inline(always)]
    fn load<S: Simd>(x: &[bf16]) -> S::Vector {
        S::load_bf16(lanes(x))
    }

    #[inline(always)]
    fn store<S: Simd>(x: S::Vector, to: &mut [bf16]) {
        S::store_bf16(x, lanes_mut(to));
    }
}

impl Float for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn narrow(x: f32) -> f16 {
        f16::from_f32(x)
    }

    #[inline(always)]
    fn load<S: Simd>(x: &[f16]) -> S::Vector {
        S::load_f16(lanes(x))
    }

    #[inline(always)]
    fn store<S: Simd>(x: S::Vector, to: &mut [f16]) {
        S::store_f16(x, lanes_mut(to));
    }
}

multiversion! {
    /// `to = from`, whatever floats `from` holds.
    ///
    /// # Panics
    /// When the shapes differ.
    pub(crate) fn widen(from: TensorRef<'_>, to: TensorMut<'_>) {
        let mut to = to;
        assert_eq!(from.shape(), to.shape());
        for row in 0..from.shape()[0] {
            let to = to.row_mut(row);
            match from.dtype() {
                DType::Bf16 => convert::<S, bf16, f32>(from.row_of(row), to),
                DType::F16 => convert::<S, f16, f32>(from.row_of(row), to),
                _ => to.copy_from_slice(from.row(row)),
            }
        }
    }
}

multiversion! {
    /// `to = from`, rounded to whatever floats `to` holds.
    ///
    /// # Panics
    /// When the shapes differ.
    pub(crate) fn narrow(from: TensorRef<'_>, to: TensorMut<'_>) {
        let mut to = to;
        assert_eq!(from.shape(), to.shape());
        for row in 0..from.shape()[0] {
            let from = from.row(row);
            match to.dtype() {
                DType::Bf16 => convert::<S, f32, bf16>(from, to.row_mut_of(row)),
                DType::F16 => convert::<S, f32, f16>(from, to.row_mut_of(row)),
                _ => to.row_mut(row).copy_from_slice(from),
            }
        }
    }
}

multiversion! {
    /// `to = from` as it would be after rounding to `dtype`; both hold float32.
    ///
    /// # Panics
    /// When the shapes differ.
    pub(crate) fn round(from: TensorRef<'_>, dtype: DType, to: TensorMut<'_>) {
        let mut to = to;
        assert_eq!(from.shape(), to.shape());
        for row in 0..from.shape()[0] {
            let (from, to) = (from.row(row), to.row_mut(row));
            match dtype {
                DType::Bf16 => round_row::<S, bf16>(from, to),
                DType::F16 => round_row::<S, f16>(from, to),
                _ => to.copy_from_slice(from),
            }
        }
    }
}

/// `to = from`, of the same length.
#[inline(always)]
pub(crate) fn convert<S: Simd, A: Float, B: Float>(from: &[A], to: &mut [B]) {
    let whole = from.len() / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        B::store::<S>(A::load::<S>(&from[start..]), &mut to[start..]);
    }
    for (from, to) in from[whole..].iter().zip(&mut to[whole..]) {
        *to = B::narrow(from.widen());
    }
}

#[inline(always)]
fn round_row<S: Simd, H: Float>(from: &[f32], to: &mut [f32]) {
    let whole = from.len() / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        let mut halves = [H::narrow(0.0); LANES];
        H::store::<S>(f32::load::<S>(&from[start..]), &mut halves);
        f32::store::<S>(H::load::<S>(&halves), &mut to[start..]);
    }
    for (from, to) in from[whole..].iter().zip(&mut to[whole..]) {
        *to = H::narrow(*from).widen();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Baseline;

    /// Every exponent, with mantissas around the ties of both types.
    fn floats() -> Vec<f32> {
        let mantissas = [
            0, 1, 0xfff, 0x1000, 0x1001, 0x3000, 0x7fff, 0x8000, 0x8001, 0x1_8000, 0x7f_ffff,
        ];
        let bits = (0..512u32).flat_map(|top| mantissas.map(|mantissa| top << 23 | mantissa));
        bits.map(f32::from_bits).collect()
    }

    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
    }

    #[test]
    fn halves_are_rounded_as_the_crate_half_rounds_them() {
        let x = floats();
        let shape = [1, x.len()];
        let from = TensorRef::from_f32(&x, &shape);
        let (mut brain, mut ieee) = (vec![bf16::ZERO; x.len()], vec![f16::ZERO; x.len()]);
        narrow(from, TensorMut::from_elements(&mut brain, &shape));
        narrow(from, TensorMut::from_elements(&mut ieee, &shape));
        let mut back = [vec![0.0; x.len()], vec![0.0; x.len()]];
        widen(
            TensorRef::from_elements(&brain, &shape),
            TensorMut::from_f32(&mut back[0], &shape),
        );
        widen(
            TensorRef::from_elements(&ieee, &shape),
            TensorMut::from_f32(&mut back[1], &shape),
        );
        let mut rounded = [vec![0.0; x.len()], vec![0.0; x.len()]];
        round(
            from,
            DType::Bf16,
            TensorMut::from_f32(&mut rounded[0], &shape),
        );
        round(
            from,
            DType::F16,
            TensorMut::from_f32(&mut rounded[1], &shape),
        );
        for (index, &x) in x.iter().enumerate() {
            let expected = [bf16::from_f32(x).to_f32(), f16::from_f32(x).to_f32()];
            for (dtype, expected) in expected.into_iter().enumerate() {
                let got = back[dtype][index];
                assert!(
                    same(got, expected),
                    "{x:e} became {got:e}, expected {expected:e}"
                );
                assert!(same(rounded[dtype][index], expected));
            }
        }
    }

    #[test]
    fn the_baseline_rounds_alike() {
        for chunk in floats().chunks_exact(LANES) {
            let (mut brain, mut ieee) = ([bf16::ZERO; LANES], [f16::ZERO; LANES]);
            let vector = f32::load::<Baseline>(chunk);
            bf16::store::<Baseline>(vector, &mut brain);
            f16::store::<Baseline>(vector, &mut ieee);
            let back = [bf16::load::<Baseline>(&brain), f16::load::<Baseline>(&ieee)];
            for (lane, &x) in chunk.iter().enumerate() {
                assert!(same(back[0][lane], bf16::from_f32(x).to_f32()));
                assert!(same(back[1][lane], f16::from_f32(x).to_f32()));
            }
        }
    }
}
