use std::fmt;

use crate::random::Random;

/// How ids are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ids {
    Uniform,
    /// The k-th most frequent row with a probability that falls as k to the power of -1.05.
    Zipf,
}

impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uniform => "uniform ids",
            Self::Zipf => "Zipf ids (1.05)",
        })
    }
}

/// One id a sample and feature.
pub struct Lookups {
    pub ids: Vec<i64>,
    pub offsets: Vec<i64>,
    /// Rows that are looked up, each counted once.
    pub rows: usize,
    /// Of these, those of several pieces, and their pieces of 32 lookups.
    pub long_rows: usize,
    pub pieces: usize,
}

impl Lookups {
    pub fn new(ids: Ids, batch: usize, features: usize, rows: usize) -> Self {
        let mut random = Random(features as u64);
        let ends = match ids {
            Ids::Uniform => Vec::new(),
            Ids::Zipf => cumulative(rows),
        };
        let mut lookups = Self {
            ids: Vec::with_capacity(batch * features),
            offsets: (0..=(batch * features) as i64).collect(),
            rows: 0,
            long_rows: 0,
            pieces: 0,
        };
        for feature in 0..features {
            let mut of_feature: Vec<i64> = (0..batch)
                .map(|_| match ids {
                    Ids::Uniform => random.below(rows),
                    Ids::Zipf => {
                        let at = (random.bits() >> 11) as f64 / (1u64 << 53) as f64;
                        let rank = ends.partition_point(|&end| end <= at).min(rows - 1);
                        // Frequent rows lie apart, in other places of each table.
                        (rank * 999_983 + feature * 7919) % rows
                    }
                } as i64)
                .collect();
            lookups.ids.extend_from_slice(&of_feature);
            of_feature.sort_unstable();
            for same in of_feature.chunk_by(|a, b| a == b) {
                lookups.rows += 1;
                if same.len() > 32 {
                    lookups.long_rows += 1;
                    lookups.pieces += same.len().div_ceil(32);
                }
            }
        }
        lookups
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }
}

/// The share of lookups that go to the first rows.
fn cumulative(rows: usize) -> Vec<f64> {
    let shares = (1..=rows).map(|rank| (rank as f64).powf(-1.05));
    let mut sum = 0.0;
    let mut ends: Vec<f64> = shares
        .map(|share| {
            sum += share;
            sum
        })
        .collect();
    ends.iter_mut().for_each(|end| *end /= sum);
    ends
}
