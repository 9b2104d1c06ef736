//! Numbers in ascending order, many at a time.
//!
//! The bits of an IEEE 754 number, with all of them turned where it is negative and the sign bit where it is not,
//! are unsigned integers in the order of the numbers; those of single precision are sorted digit by digit.

/// A number that sketches take many of at once.
pub trait Number: Copy + Into<f64> {
    /// The finite ones of `values`, ascending; zeros of both signs are one value.
    fn ascending(values: &[Self]) -> Vec<Self>;
}

impl Number for f64 {
    fn ascending(values: &[Self]) -> Vec<Self> {
        let finite = values.iter().filter(|value| value.is_finite());
        let mut found: Vec<f64> = finite.map(|value| value + 0.0).collect();
        found.sort_unstable_by(f64::total_cmp);
        found
    }
}

impl Number for f32 {
    fn ascending(values: &[Self]) -> Vec<Self> {
        let key = |value: &f32| key(value + 0.0);
        // Of a known number, several are made at once.
        let keys: Vec<u32> = if values.iter().all(|value| value.is_finite()) {
            values.iter().map(key).collect()
        } else {
            let finite = values.iter().filter(|value| value.is_finite());
            finite.map(key).collect()
        };
        sorted(keys).into_iter().map(value).collect()
    }
}

const SIGN: u32 = 1 << 31;

fn key(value: f32) -> u32 {
    let bits = value.to_bits();
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

fn value(key: u32) -> f32 {
    f32::from_bits(if key & SIGN == 0 { !key } else { key & !SIGN })
}

const DIGIT_BITS: usize = 11;
const DIGITS: usize = 32_usize.div_ceil(DIGIT_BITS);
/// What sorting by digits costs at least is what comparing so few costs.
const FEW: usize = 1 << DIGIT_BITS;

/// By the lowest digit, then the next, each pass keeping the order of the one before.
fn sorted(mut keys: Vec<u32>) -> Vec<u32> {
    if keys.len() < FEW {
        keys.sort_unstable();
        return keys;
    }
    let digit = |key: u32, pass: usize| (key >> (DIGIT_BITS * pass)) as usize % FEW;
    let mut counts = [[0_u32; FEW]; DIGITS];
    for &key in &keys {
        for (pass, counts) in counts.iter_mut().enumerate() {
            counts[digit(key, pass)] += 1;
        }
    }
    let mut other = vec![0; keys.len()];
    for (pass, counts) in counts.iter_mut().enumerate() {
        let mut start = 0;
        for count in counts.iter_mut() {
            start += std::mem::replace(count, start);
        }
        for &key in &keys {
            let place = &mut counts[digit(key, pass)];
            other[*place as usize] = key;
            *place += 1;
        }
        std::mem::swap(&mut keys, &mut other);
    }
    keys
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn digits_sort_as_comparisons_do(bits in prop::collection::vec(any::<u32>(), 0..5000)) {
            let values: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            let doubles: Vec<f64> = values.iter().copied().map(f64::from).collect();
            let sorted: Vec<f64> = f32::ascending(&values).into_iter().map(f64::from).collect();
            prop_assert_eq!(sorted, f64::ascending(&doubles));
        }
    }
}
