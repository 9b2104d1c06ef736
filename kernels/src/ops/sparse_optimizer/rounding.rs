//! How rows of tables in half precision are rounded when they are stored.

use half::{bf16, f16};

use crate::simd::Float;

/// Columns whose random words one counter gives.
const WORDS: usize = 4;

/// What decides how rows in half precision are rounded when they are updated: seed, step, row and column of the whole
/// model, so that neither threads nor ranks that share a table, nor a device, change a bit. Rows in float32 are not
/// rounded.
///
/// A number becomes one of its two neighbours, each with the probability that makes the mean the number: updates smaller
/// than half the distance between them are not lost. The random words are Philox 4x32-10 (Salmon et al.,
/// <https://doi.org/10.1145/2063384.2063405>): counter `[row, row >> 32, column / 4, step]`, key `[seed, seed >> 32]`,
/// word `column % 4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rounding {
    /// Of the run.
    pub seed: u64,
    /// The step, from 1; steps that updated nothing count too.
    pub step: u64,
    /// The number of the table's first row among all rows of the model.
    pub first_row: u64,
    /// The number of the table's first column, where ranks hold columns of its rows.
    pub first_column: u32,
}

/// A type in which tables are stored.
pub(super) trait Stored: Float {
    /// One of the two neighbours of `x`, which `random` chooses; `x` itself where it is one.
    fn round_stochastically(x: f32, random: u32) -> Self;

    /// The row itself, where it holds float32: it is updated where it lies.
    fn as_float32(_row: &mut [Self]) -> Option<&mut [f32]> {
        None
    }
}

impl Stored for f32 {
    #[inline(always)]
    fn round_stochastically(x: f32, _random: u32) -> f32 {
        x
    }

    #[inline(always)]
    fn as_float32(row: &mut [f32]) -> Option<&mut [f32]> {
        Some(row)
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn round_stochastically(x: f32, random: u32) -> bf16 {
        let bits = x.to_bits();
        // What is not finite has no neighbours; it stays, and NaN stays NaN.
        let quiet = u32::from(x.is_nan()) << 6;
        let added = if x.is_finite() { random >> 16 } else { 0 };
        bf16::from_bits((bits.wrapping_add(added) >> 16 | quiet) as u16)
    }
}

impl Stored for f16 {
    #[inline(always)]
    fn round_stochastically(x: f32, random: u32) -> f16 {
        let (sign, magnitude) = (x.to_bits() >> 16 & 0x8000, x.to_bits() & 0x7fff_ffff);
        // Below 2^-14 neighbours are 2^-24 apart.
        let two_to_24 = (1u32 << 24) as f32;
        let steps = f32::from_bits(magnitude) * two_to_24 + (random >> 8) as f32 / two_to_24;
        let normal = (magnitude + (random >> 19)).wrapping_sub(0x3800_0000) >> 13;
        // From 65,504 on there is no larger neighbour: the nearest number, or infinity.
        let large = match magnitude {
            0x7f80_0001.. => 0x7e00,
            0x477f_f000.. => 0x7c00,
            _ => 0x7bff,
        };
        let rounded = match magnitude {
            0x477f_e000.. => large,
            0x3880_0000.. => normal,
            _ => steps as i32 as u32,
        };
        f16::from_bits((sign | rounded) as u16)
    }
}

impl Rounding {
    /// Stores a row of the table.
    #[inline(always)]
    pub(super) fn store<F: Stored>(&self, row: u64, from: &[f32], to: &mut [F]) {
        // One by one up to where a counter begins.
        let first = self.first_column as usize;
        let ahead = (first.next_multiple_of(WORDS) - first).min(from.len());
        self.store_each(row, 0, &from[..ahead], &mut to[..ahead]);
        let mut column = ahead;
        while from.len() - column >= 8 * WORDS {
            self.store_block::<F, 8>(row, column, from, to);
            column += 8 * WORDS;
        }
        while from.len() - column >= WORDS {
            self.store_block::<F, 1>(row, column, from, to);
            column += WORDS;
        }
        self.store_each(row, column, &from[column..], &mut to[column..]);
    }

    /// Stores the columns of `N` counters, from one on that begins one.
    #[inline(always)]
    fn store_block<F: Stored, const N: usize>(
        &self,
        row: u64,
        column: usize,
        from: &[f32],
        to: &mut [F],
    ) {
        let counter = (self.first_column + column as u32) / WORDS as u32;
        let words = self.words::<N>(row, counter);
        let mut random = [[0; WORDS]; N];
        for (lane, random) in random.iter_mut().enumerate() {
            *random = words.map(|word| word[lane]);
        }
        let (from, to) = (&from[column..][..N * WORDS], &mut to[column..][..N * WORDS]);
        for ((to, &x), &random) in to.iter_mut().zip(from).zip(random.as_flattened()) {
            *to = F::round_stochastically(x, random);
        }
    }

    /// Stores columns from any on.
    #[inline(always)]
    fn store_each<F: Stored>(&self, row: u64, first: usize, from: &[f32], to: &mut [F]) {
        for (column, (to, &x)) in (self.first_column + first as u32..).zip(to.iter_mut().zip(from))
        {
            let words = self.words::<1>(row, column / WORDS as u32);
            *to = F::round_stochastically(x, words[column as usize % WORDS][0]);
        }
    }

    /// The words of `N` counters of a row, one array a word.
    #[inline(always)]
    fn words<const N: usize>(&self, row: u64, first: u32) -> [[u32; N]; WORDS] {
        let row = self.first_row + row;
        let counter = [
            [row as u32; N],
            [(row >> 32) as u32; N],
            std::array::from_fn(|lane| first.wrapping_add(lane as u32)),
            [self.step as u32; N],
        ];
        philox(counter, [self.seed as u32, (self.seed >> 32) as u32])
    }
}

/// Philox 4x32-10 of `N` counters.
#[inline(always)]
fn philox<const N: usize>(mut counter: [[u32; N]; 4], mut key: [u32; 2]) -> [[u32; N]; 4] {
    for _ in 0..10 {
        let [x, y, z, w] = counter;
        for lane in 0..N {
            let first = 0xD251_1F53 * u64::from(x[lane]);
            let second = 0xCD9E_8D57 * u64::from(z[lane]);
            counter[0][lane] = (second >> 32) as u32 ^ y[lane] ^ key[0];
            counter[1][lane] = second as u32;
            counter[2][lane] = (first >> 32) as u32 ^ w[lane] ^ key[1];
            counter[3][lane] = first as u32;
        }
        key[0] = key[0].wrapping_add(0x9E37_79B9);
        key[1] = key[1].wrapping_add(0xBB67_AE85);
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    /// The known answers of the Random123 library (`kat_vectors`, philox4x32 with 10 rounds), which the CUDA kernels
    /// give, too.
    #[test]
    fn philox_gives_the_known_answers() {
        let all = u32::MAX;
        let pi = [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344];
        for (counter, key, expected) in [
            (
                [0; 4],
                [0; 2],
                [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
            ),
            (
                [all; 4],
                [all; 2],
                [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
            ),
            (
                pi,
                [0xa4093822, 0x299f31d0],
                [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
            ),
        ] {
            assert_eq!(philox(counter.map(|word| [word]), key).concat(), expected);
            let several = philox(counter.map(|word| [word; 8]), key);
            assert_eq!(several.map(|word| word[7]), expected);
        }
    }

    fn rounded<F: Stored>(x: f32, draws: u64) -> Vec<f32> {
        let rounding = Rounding {
            seed: 7,
            step: 3,
            ..Rounding::default()
        };
        let mut row = [F::narrow(0.0); 50];
        let rows = (0..draws / 50).flat_map(|index| {
            rounding.store(index, &[x; 50], &mut row);
            row.map(Float::widen)
        });
        rows.collect()
    }

    fn is_unbiased<F: Stored>(x: f32) {
        const DRAWS: u64 = 20_000;
        let (got, nearest) = (rounded::<F>(x, DRAWS), F::narrow(x).widen());
        let low = got.iter().copied().fold(f32::INFINITY, f32::min);
        let high = got.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if nearest == x || nearest.is_infinite() || (F::DTYPE == DType::F16 && x > 65504.0) {
            assert_eq!([low, high], [nearest; 2], "{} of {x}", F::DTYPE);
            return;
        }
        assert!(low < x && x < high, "{x} between {low} and {high}");
        assert!(got.iter().all(|&y| y == low || y == high), "neighbours");
        let mean = got.iter().map(|&y| f64::from(y)).sum::<f64>() / DRAWS as f64;
        let error = (mean - f64::from(x)).abs() / f64::from(high - low);
        assert!(error < 2.0 / (DRAWS as f64).sqrt(), "{x}: mean {mean}");
    }

    #[test]
    fn rounding_is_unbiased_between_neighbours_and_keeps_what_fits() {
        let infinity = f32::INFINITY;
        for x in [
            0.1, -3.7, 1.0, 1e-6, -2.5e-7, 0.0, 6.1e-5, 65_519.0, 70_000.0, 1000.3, infinity,
        ] {
            is_unbiased::<bf16>(x);
            is_unbiased::<f16>(x);
        }
        assert!(bf16::round_stochastically(f32::NAN, 9).is_nan());
        assert!(f16::round_stochastically(f32::NAN, 9).is_nan());
    }

    /// Parts of a table are rounded as the whole: wherever rows and columns are cut.
    #[test]
    fn a_part_is_rounded_as_the_whole() {
        let x: Vec<f32> = (0..77).map(|index| 0.01 * index as f32 + 0.003).collect();
        let whole = Rounding {
            seed: 1 << 40 | 5,
            step: 9,
            first_row: (1 << 32) - 1,
            first_column: 0,
        };
        let mut expected = [bf16::ZERO; 77];
        whole.store(2, &x, &mut expected);
        for first in [0, 1, 2, 3, 4, 31, 76] {
            let part = Rounding {
                first_row: whole.first_row + 2,
                first_column: first as u32,
                ..whole
            };
            let mut got = [bf16::ZERO; 77];
            part.store(0, &x[first..], &mut got[first..]);
            assert_eq!(got[first..], expected[first..], "from column {first}");
        }
        for other in [
            Rounding { seed: 6, ..whole },
            Rounding { step: 10, ..whole },
            Rounding {
                first_row: 7,
                ..whole
            },
        ] {
            let mut got = [bf16::ZERO; 77];
            other.store(2, &x, &mut got);
            assert_ne!(got, expected, "{other:?}");
        }
    }
}
