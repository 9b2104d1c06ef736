//! Stable sorting of ids with the positions they come from.

/// The widest digit of a pass: 2048 counters stay in the L1 cache.
const DIGIT_BITS: u32 = 11;
/// Below this many keys, comparison sorting is faster.
const SMALL: usize = 96;

/// Ids paired with their positions, and the buffers to sort them.
#[derive(Debug, Default, Clone)]
pub(super) struct SortedPairs {
    /// `id << position_bits | position`.
    keys: Vec<u64>,
    swap: Vec<u64>,
    counts: Vec<u32>,
    position_bits: u32,
}

impl SortedPairs {
    /// Sorts the ids of `parts`, `len` in all and all in `0..rows`; positions count through the parts in turn, and keep
    /// their order among equal ids.
    ///
    /// Returns `false` when ids and positions do not fit 64 bits together, which takes more rows
    /// times ids than any memory holds.
    pub(super) fn sort<'a>(
        &mut self,
        parts: impl Iterator<Item = &'a [i64]>,
        len: usize,
        rows: usize,
    ) -> bool {
        let bits = |count: usize| usize::BITS - count.saturating_sub(1).leading_zeros();
        self.position_bits = bits(len);
        let id_bits = bits(rows);
        if self.position_bits + id_bits > u64::BITS || u32::try_from(len).is_err() {
            return false;
        }
        self.keys.clear();
        let position_bits = self.position_bits;
        for part in parts {
            let positions = self.keys.len() as u64..;
            let keys = part
                .iter()
                .zip(positions)
                .map(|(&id, position)| ((id as u64) << position_bits) | position);
            self.keys.extend(keys);
        }
        debug_assert_eq!(self.keys.len(), len);
        if len < SMALL {
            self.keys.sort_unstable();
        } else {
            self.sort_digits(id_bits);
        }
        true
    }

    /// Least significant digit first; positions need no pass, they are in order already.
    fn sort_digits(&mut self, id_bits: u32) {
        let passes = id_bits.div_ceil(DIGIT_BITS);
        if passes == 0 {
            return;
        }
        let digit_bits = id_bits.div_ceil(passes);
        let buckets = 1usize << digit_bits;
        let digit = |key: u64, pass: u32| {
            (key >> (self.position_bits + pass * digit_bits)) as usize & (buckets - 1)
        };
        self.counts.clear();
        self.counts.resize(buckets * passes as usize, 0);
        for &key in &self.keys {
            for pass in 0..passes {
                self.counts[pass as usize * buckets + digit(key, pass)] += 1;
            }
        }
        self.swap.resize(self.keys.len(), 0);
        for pass in 0..passes {
            let counts = &mut self.counts[pass as usize * buckets..][..buckets];
            let mut start = 0;
            for count in counts.iter_mut() {
                start += std::mem::replace(count, start);
            }
            for &key in &self.keys {
                let place = &mut counts[digit(key, pass)];
                self.swap[*place as usize] = key;
                *place += 1;
            }
            std::mem::swap(&mut self.keys, &mut self.swap);
        }
    }

    /// The ids ascending, each with a position; positions ascend among equal ids.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (i64, usize)> + '_ {
        let mask = (1u64 << self.position_bits) - 1;
        self.keys
            .iter()
            .map(move |&key| ((key >> self.position_bits) as i64, (key & mask) as usize))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pairs_are_sorted_and_stable(
            rows in prop_oneof![1usize..5, 1usize..3000, Just(1 << 40)],
            seeds in prop::collection::vec(any::<u64>(), 0..400),
            part in 1usize..400,
        ) {
            let ids: Vec<i64> = seeds.iter().map(|seed| (seed % rows as u64) as i64).collect();
            let mut sorted = SortedPairs::default();
            // A second use must not see the first one's content.
            prop_assert!(sorted.sort([&[3, 1][..], &[2]].into_iter(), 3, 4));
            prop_assert!(sorted.sort(ids.chunks(part), ids.len(), rows));
            let mut expected: Vec<(i64, usize)> =
                ids.iter().enumerate().map(|(position, &id)| (id, position)).collect();
            expected.sort_by_key(|&(id, _)| id);
            prop_assert_eq!(sorted.pairs().collect::<Vec<_>>(), expected);
        }
    }
}
