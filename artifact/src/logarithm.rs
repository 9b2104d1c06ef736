//! The natural logarithm in single precision, the same bits on every machine.
//!
//! The platform's `logf` differs between C libraries, and then a served score would differ from the trained
//! one. This one is only additions, multiplications, divisions and bit operations in a fixed order, which
//! IEEE 754 defines to the bit, and loops over it become SIMD code.

/// The bits of `sqrt(0.5)`: mantissas are taken in `[sqrt(0.5), sqrt(2))`, where the series is short.
const SQRT_HALF_BITS: u32 = 0x3f35_04f3;
const MANTISSA: u32 = 0x007f_ffff;

/// `ln(2)` in two parts: an exponent times the first is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// `ln(x)` for normal positive `x`, within 3 units in the last place. Other `x` give no meaningful value.
///
/// `x = 2^e m`, and `ln(m) = 2 atanh(s) = 2 (s + s^3/3 + s^5/5 + ...)` with `s = (m - 1) / (m + 1)`.
#[inline(always)]
pub(crate) fn ln(x: f32) -> f32 {
    let shifted = x.to_bits().wrapping_sub(SQRT_HALF_BITS);
    let exponent = (shifted as i32 >> 23) as f32;
    let mantissa = f32::from_bits((shifted & MANTISSA) + SQRT_HALF_BITS);
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let z = s * s;
    let tail = z * (2.0 / 3.0 + z * (2.0 / 5.0 + z * (2.0 / 7.0 + z * (2.0 / 9.0))));
    exponent * LN_2_HIGH + (exponent * LN_2_LOW + (2.0 * s + s * tail))
}

/// `sign(x) * ln(1 + |x|)`; NaN stays NaN.
#[inline(always)]
pub(crate) fn signed_ln_1p(x: f32) -> f32 {
    let magnitude = x.abs();
    let sum = 1.0 + magnitude;
    // What the addition rounded away, to first order: without it small values would be lost.
    let lost = magnitude - (sum - 1.0);
    let value = (ln(sum) + lost / sum).copysign(x);
    if x.is_nan() { x } else { value }
}

/// `ln(x / (1 - x))` with `x` limited to `[epsilon, 1 - epsilon]`; NaN stays NaN.
#[inline(always)]
pub(crate) fn logit(x: f32, epsilon: f32) -> f32 {
    let limited = x.clamp(epsilon, 1.0 - epsilon);
    let value = ln(limited / (1.0 - limited));
    if x.is_nan() { x } else { value }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The distance between `got` and the f64 oracle in units of the last place of the oracle.
    fn units_apart(got: f32, expected: f64) -> f64 {
        let unit = f64::from(f32::EPSILON) * expected.abs().max(f64::from(f32::MIN_POSITIVE));
        (f64::from(got) - expected).abs() / unit
    }

    proptest! {
        #[test]
        fn ln_agrees_with_double_precision(bits in 0x0080_0000u32..0x7f80_0000) {
            let x = f32::from_bits(bits);
            let expected = f64::from(x).ln();
            prop_assert!(units_apart(ln(x), expected) <= 3.0, "ln({x}) = {}, expected {expected}", ln(x));
        }

        #[test]
        fn ln_1p_agrees_with_double_precision(bits in 0u32..0x7f80_0000, negative: bool) {
            let x = f32::from_bits(bits) * if negative { -1.0 } else { 1.0 };
            let expected = f64::from(x.abs()).ln_1p().copysign(f64::from(x));
            prop_assert!(units_apart(signed_ln_1p(x), expected) <= 4.0, "{x}: {}", signed_ln_1p(x));
        }

        #[test]
        fn logit_agrees_with_double_precision(x in 1e-6f32..0.999_999) {
            let expected = (f64::from(x) / (1.0 - f64::from(x))).ln();
            let error = (f64::from(logit(x, 1e-6)) - expected).abs();
            prop_assert!(error <= 1e-6 + 1e-6 * expected.abs(), "{x}: {error}");
        }
    }

    #[test]
    fn the_ends_are_finite_and_missing_stays_missing() {
        assert_eq!(signed_ln_1p(0.0), 0.0);
        assert_eq!(ln(1.0), 0.0);
        assert!(logit(0.0, 1e-6) < -13.0 && logit(1.0, 1e-6) > 13.0);
        assert!(signed_ln_1p(f32::NAN).is_nan() && logit(f32::NAN, 1e-6).is_nan());
    }
}
