//! Batches for a self-check.

use streamrec_artifact::{Encoded, FeatureSchema};

use crate::data::{Batch, Position};

/// The most ids of a bag.
const LONGEST: u64 = 3;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// In [-1, 1).
    fn symmetric(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// A batch of any values; bags of up to three ids, some of none, half of them the same, and padding in the last row.
pub(super) fn batch(schema: &FeatureSchema, rows: usize, seed: u64) -> Batch {
    let mut random = Random(seed);
    let filled = rows - 1;
    let (mut ids, mut offsets) = (Vec::new(), vec![0]);
    for feature in &schema.categorical {
        let limit = schema.table(&feature.table).map_or(1, |table| table.rows);
        for row in 0..rows {
            if row < filled {
                let len = random.below(LONGEST + 1);
                ids.extend((0..len).map(|_| match random.below(2) {
                    // Of so many lookups of one row, sums are cut into pieces.
                    0 => 0,
                    _ => random.below(limit.max(1) as u64) as i64,
                }));
            }
            offsets.push(ids.len() as i64);
        }
    }
    let mut padded = |width: usize, value: &mut dyn FnMut(&mut Random) -> f32| {
        let mut values: Vec<f32> = (0..filled * width).map(|_| value(&mut random)).collect();
        values.resize(rows * width, 0.0);
        values
    };
    let dense = padded(schema.dense.len(), &mut Random::symmetric);
    let labels = padded(schema.labels.len(), &mut |random| random.below(2) as f32);
    let weights = padded(1, &mut |random| 0.5 + random.below(4) as f32 / 4.0);
    Batch {
        rows,
        filled,
        weight_sum: weights.iter().copied().map(f64::from).sum(),
        encoded: Encoded {
            rows,
            dense,
            ids,
            offsets,
        },
        labels,
        weights,
        position: Position {
            epoch: 0,
            step: seed,
        },
        ..Batch::default()
    }
}
