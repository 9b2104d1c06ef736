//! The global order of rows: a function of seed and epoch alone.
//!
//! ```text
//! blocks ─► permuted ─► cut into windows of `window_blocks` ─► rows permuted inside each window
//! ```
//!
//! So a reader holds one window in memory, and any position of any epoch is found without
//! walking through those before it. The world never enters.

use std::ops::Range;

use super::counter::Stream;

/// What a permutation is for, so that those of blocks and rows are unrelated.
const BLOCKS: u64 = 0;
const ROWS: u64 = 1;

/// What the order is made of: equal for all epochs and all ranks.
#[derive(Debug, Clone)]
pub struct OrderSettings {
    /// Decides the order, together with the epoch.
    pub seed: u64,
    /// Rows keep the order of the file where this is false.
    pub shuffle: bool,
    /// Rows are permuted inside windows of this many blocks, at least 1.
    pub window_blocks: usize,
}

/// The order of the rows of one epoch.
#[derive(Debug)]
pub struct EpochOrder {
    settings: OrderSettings,
    epoch: u64,
    /// The blocks in order.
    blocks: Vec<u32>,
    /// The position of each window's first row, then the number of rows, `[windows + 1]`.
    starts: Vec<u64>,
}

impl EpochOrder {
    /// The order in `epoch` of blocks with so many rows each.
    pub fn new(settings: &OrderSettings, epoch: u64, rows_of_blocks: &[u32]) -> Self {
        let count = rows_of_blocks.len() as u32;
        let blocks = if settings.shuffle {
            permutation(count, &mut Stream::new(&[settings.seed, epoch, BLOCKS]))
        } else {
            (0..count).collect()
        };
        let mut starts = vec![0];
        let mut position = 0;
        for window in blocks.chunks(settings.window_blocks) {
            let rows = window
                .iter()
                .map(|&block| u64::from(rows_of_blocks[block as usize]));
            position += rows.sum::<u64>();
            starts.push(position);
        }
        Self {
            settings: settings.clone(),
            epoch,
            blocks,
            starts,
        }
    }

    /// The number of rows.
    pub fn rows(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// The number of windows.
    pub fn windows(&self) -> usize {
        self.starts.len() - 1
    }

    /// The window that holds the row at `position`.
    pub fn window_at(&self, position: u64) -> usize {
        self.starts.partition_point(|&start| start <= position) - 1
    }

    /// The positions of the rows of `window`.
    pub fn positions(&self, window: usize) -> Range<u64> {
        self.starts[window]..self.starts[window + 1]
    }

    /// The blocks of `window`, in the order in which their rows are numbered inside it.
    pub fn blocks(&self, window: usize) -> &[u32] {
        let first = window * self.settings.window_blocks;
        let last = (first + self.settings.window_blocks).min(self.blocks.len());
        &self.blocks[first..last]
    }

    /// The order of the rows of `window`, which must have fewer than 2^32: which row of its blocks
    /// comes at each place; none where rows keep their order.
    pub fn row_order(&self, window: usize) -> Option<Vec<u32>> {
        let Range { start, end } = self.positions(window);
        let name = [self.settings.seed, self.epoch, ROWS, window as u64];
        self.settings
            .shuffle
            .then(|| permutation((end - start) as u32, &mut Stream::new(&name)))
    }
}

/// The numbers below `len`, each order equally likely: Fisher and Yates's shuffle, by Durstenfeld.
pub(in crate::data) fn permutation(len: u32, stream: &mut Stream) -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..len).collect();
    for last in (1..numbers.len()).rev() {
        numbers.swap(last, stream.below(last as u64 + 1) as usize);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rows in global order, each as its number in the file.
    fn rows_in_order(order: &EpochOrder, rows_of_blocks: &[u32]) -> Vec<u64> {
        let first_row = |block: usize| rows_of_blocks[..block].iter().map(|&r| u64::from(r)).sum();
        let mut rows = Vec::new();
        for window in 0..order.windows() {
            let inside: Vec<u64> = order
                .blocks(window)
                .iter()
                .flat_map(|&block| {
                    let block = block as usize;
                    let first: u64 = first_row(block);
                    first..first + u64::from(rows_of_blocks[block])
                })
                .collect();
            assert_eq!(order.positions(window).start, rows.len() as u64);
            match order.row_order(window) {
                Some(order) => rows.extend(order.iter().map(|&row| inside[row as usize])),
                None => rows.extend(inside),
            }
        }
        rows
    }

    fn settings(seed: u64, shuffle: bool, window_blocks: usize) -> OrderSettings {
        OrderSettings {
            seed,
            shuffle,
            window_blocks,
        }
    }

    proptest! {
        #[test]
        fn each_row_occurs_once(
            rows_of_blocks in prop::collection::vec(1u32..9, 0..30),
            window_blocks in 1usize..40,
            seed in any::<u64>(),
            epoch in 0u64..3,
            shuffle in any::<bool>(),
        ) {
            let order = EpochOrder::new(&settings(seed, shuffle, window_blocks), epoch, &rows_of_blocks);
            let mut rows = rows_in_order(&order, &rows_of_blocks);
            if shuffle {
                rows.sort_unstable();
            }
            let total = rows_of_blocks.iter().map(|&r| u64::from(r)).sum();
            prop_assert_eq!(order.rows(), total);
            prop_assert_eq!(rows, (0..total).collect::<Vec<_>>());
            for position in 0..total {
                let window = order.window_at(position);
                prop_assert!(order.positions(window).contains(&position));
            }
        }
    }

    #[test]
    fn seed_and_epoch_decide_the_order() {
        let blocks = [16; 12];
        let rows = |seed, epoch| {
            rows_in_order(
                &EpochOrder::new(&settings(seed, true, 4), epoch, &blocks),
                &blocks,
            )
        };
        assert_eq!(rows(7, 0), rows(7, 0));
        assert_ne!(rows(7, 0), rows(7, 1));
        assert_ne!(rows(7, 0), rows(8, 0));
    }

    #[test]
    fn the_order_is_the_same_for_ever() {
        // A resumed run reads what the interrupted one would have read, across releases too.
        let blocks = [4, 4, 4, 2];
        let order = EpochOrder::new(&settings(7, true, 2), 1, &blocks);
        assert_eq!(rows_in_order(&order, &blocks), GOLDEN);
    }

    const GOLDEN: [u64; 14] = [3, 5, 2, 6, 7, 1, 0, 4, 8, 11, 12, 10, 9, 13];

    /// Pearson's statistic over where a number lands and what follows it.
    #[test]
    fn places_and_successors_are_uniform() {
        const KEYS: u64 = 20_000;
        let mut places = [0.0; 12];
        let mut steps = [0.0; 12];
        for key in 0..KEYS {
            let numbers = permutation(12, &mut Stream::new(&[key]));
            places[numbers[3] as usize] += 1.0;
            steps[(numbers[6] + 12 - numbers[5]) as usize % 12] += 1.0;
        }
        let chi_square = |counts: &[f64]| {
            let expected = KEYS as f64 / counts.len() as f64;
            counts
                .iter()
                .map(|count| (count - expected).powi(2) / expected)
                .sum::<f64>()
        };
        // The 0.9999 quantile for 11 degrees of freedom is 37.4.
        assert!(chi_square(&places) < 37.4, "{places:?}");
        assert_eq!(steps[0], 0.0);
        assert!(chi_square(&steps[1..]) < 37.4, "{steps:?}");
    }
}
