//! Rows by hash, over whole columns: no division, and vectors of keys where the CPU has them.

use crate::key::{self, MISSING_KEY};
use crate::vector_unit::{self, ColumnLoop};

/// Row `1 + hash % choices` for a key, 0 for the missing one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HashedRows {
    choices: u64,
    /// `floor((2^64 - 1) / choices)`.
    reciprocal: u64,
}

impl HashedRows {
    /// Rows among `choices`, at least 1.
    pub(crate) fn new(choices: u64) -> Self {
        let reciprocal = u64::MAX / choices;
        Self {
            choices,
            reciprocal,
        }
    }

    /// Puts in place of each key, whose bits the values are, its row.
    pub(crate) fn replace(&self, keys: &mut [i64]) {
        vector_unit::run(Replace { rows: *self, keys });
    }

    /// The row of `key`, given what computes the high half of a product.
    #[inline(always)]
    fn row(self, key: u64, high_half: impl Fn(u64, u64) -> u64) -> i64 {
        let hash = key::hash(key);
        // Of the quotient's real value `hash * reciprocal / 2^64` misses less than 1, so its floor at most 1.
        let quotient = high_half(hash, self.reciprocal);
        let rest = hash.wrapping_sub(quotient.wrapping_mul(self.choices));
        let over = if rest >= self.choices {
            self.choices
        } else {
            0
        };
        let row = rest.wrapping_sub(over).wrapping_add(1) as i64;
        if key == MISSING_KEY { 0 } else { row }
    }
}

struct Replace<'a> {
    rows: HashedRows,
    keys: &'a mut [i64],
}

impl ColumnLoop for Replace<'_> {
    #[inline(always)]
    fn run(self, vectors: bool) {
        let rows = self.rows;
        if vectors {
            for key in self.keys {
                *key = rows.row(*key as u64, high_half_of_halves);
            }
        } else {
            for key in self.keys {
                *key = rows.row(*key as u64, high_half);
            }
        }
    }
}

/// The high 64 bits of a product, by one instruction for one key.
#[inline(always)]
fn high_half(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 64) as u64
}

/// The same of four products of 32 bits, which there are vectors of.
#[inline(always)]
fn high_half_of_halves(a: u64, b: u64) -> u64 {
    const LOW: u64 = 0xffff_ffff;
    let (a_low, a_high) = (a & LOW, a >> 32);
    let (b_low, b_high) = (b & LOW, b >> 32);
    // No sum overflows: a product is at most (2^32 - 1)^2.
    let middle = (a_high * b_low).wrapping_add((a_low * b_low) >> 32);
    let other = (a_low * b_high).wrapping_add(middle & LOW);
    (a_high * b_high)
        .wrapping_add(middle >> 32)
        .wrapping_add(other >> 32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    /// What the rows of artifacts in the field are.
    fn by_division(key: u64, choices: u64) -> i64 {
        match key {
            MISSING_KEY => 0,
            key => (xxh3_64(&key.to_le_bytes()) % choices).wrapping_add(1) as i64,
        }
    }

    fn check(keys: &[u64], choices: u64) {
        let expected: Vec<i64> = keys.iter().map(|&key| by_division(key, choices)).collect();
        for unit in ["baseline", "avx2", "avx512"] {
            let mut rows: Vec<i64> = keys.iter().map(|&key| key as i64).collect();
            let replace = Replace {
                rows: HashedRows::new(choices),
                keys: &mut rows,
            };
            vector_unit::run_on(unit, replace);
            assert_eq!(rows, expected, "{choices} choices, {unit}");
        }
    }

    /// Around every power of two, from 1 to the largest.
    fn choices() -> impl Strategy<Value = u64> {
        let around = (0u32..64, -2i64..=2)
            .prop_map(|(bit, by)| (1u64 << bit).wrapping_add_signed(by).max(1));
        prop_oneof![around, 1u64..1 << 32, 1u64.., Just(u64::MAX)]
    }

    proptest! {
        #[test]
        fn rows_are_those_of_a_division(mut keys in prop::collection::vec(any::<u64>(), 0..40), choices in choices()) {
            keys.extend([0, 1, u64::MAX, MISSING_KEY, MISSING_KEY + 1]);
            check(&keys, choices);
        }

        #[test]
        fn halves_give_the_high_half(a: u64, b: u64) {
            prop_assert_eq!(high_half_of_halves(a, b), high_half(a, b));
            prop_assert_eq!(high_half_of_halves(u64::MAX, a), high_half(u64::MAX, a));
        }
    }

    #[test]
    fn every_small_number_of_choices_divides() {
        let keys: Vec<u64> = (0..50).chain([u64::MAX, MISSING_KEY]).collect();
        (1..3000).for_each(|choices| check(&keys, choices));
    }
}
