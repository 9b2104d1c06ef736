use std::ops::Range;

use rayon::prelude::*;

use super::{BagSource, Bags, Pooling, radix::SortedPairs};
use crate::{
    device::Context,
    error::{Error, Result},
};

const OPERATION: &str = "embedding_bag::Groups::build";

/// The lookups of one table in one batch, grouped by row.
///
/// Rows ascend. A row's lookups keep the order of the batch: feature by feature in the order
/// given to [`build`](Self::build), then by sample, then by place in the bag. A `Groups` is built
/// anew for every batch and keeps its buffers.
#[derive(Debug, Default, Clone)]
pub struct Groups {
    rows: usize,
    batch: usize,
    features: Vec<usize>,
    ids: Vec<i64>,
    /// Where each row's lookups start; one more at the end. `[ids + 1]`
    starts: Vec<u32>,
    /// The bag of each lookup: index into `features` times `batch`, plus the sample. `[lookups]`
    bags: Vec<u32>,
    /// The factor of each lookup; empty when all are 1. `[lookups]`
    weights: Vec<f32>,
    /// 1 / ids of the bag. `[features * batch]`
    inverse_lengths: Vec<f32>,
    sorted: SortedPairs,
    bag_of_position: Vec<u32>,
}

/// One table's part in [`Groups::build_all`].
#[derive(Debug, Clone, Copy)]
pub struct GroupedTable<'a> {
    /// The features that look up in the table.
    pub features: &'a [usize],
    /// The rows of the table.
    pub rows: usize,
}

impl Groups {
    /// Groups the ids of the features that share one table of `rows` rows.
    ///
    /// # Errors
    /// When offsets are malformed or an id is outside the table. The groups are empty then.
    pub fn build(
        &mut self,
        context: &Context,
        bags: &Bags<'_>,
        features: &[usize],
        rows: usize,
    ) -> Result<()> {
        self.clear();
        bags.check(OPERATION)?;
        context.install(|| self.build_table(bags, GroupedTable { features, rows }))
    }

    /// Builds the groups of several tables in parallel: `groups[i]` for `tables[i]`.
    ///
    /// # Errors
    /// As [`build`](Self::build), or when there are not as many groups as tables.
    pub fn build_all(
        context: &Context,
        bags: &Bags<'_>,
        tables: &[GroupedTable<'_>],
        groups: &mut [Groups],
    ) -> Result<()> {
        groups.iter_mut().for_each(Self::clear);
        bags.check(OPERATION)?;
        crate::ops::operand::expect_len(OPERATION, "groups", groups.len(), tables.len())?;
        context.install(|| {
            groups
                .par_iter_mut()
                .zip(tables)
                .try_for_each(|(groups, table)| groups.build_table(bags, *table))
        })
    }

    fn build_table(&mut self, bags: &Bags<'_>, table: GroupedTable<'_>) -> Result<()> {
        let GroupedTable { features, rows } = table;
        self.clear();
        for &feature in features {
            bags.check_ids(OPERATION, feature, rows)?;
        }
        let lookups: usize = features
            .iter()
            .map(|&feature| bags.of_feature(feature).len())
            .sum();
        let ids = features
            .iter()
            .map(|&feature| &bags.ids[bags.of_feature(feature)]);
        let fits = u32::try_from(features.len() * bags.batch).is_ok();
        if !fits || !self.sorted.sort(ids, lookups, rows) {
            return Err(Error::Index {
                operation: OPERATION,
                what: "lookups of a batch number below 2^32",
                index: 0,
                got: lookups as i64,
            });
        }
        self.number_bags(bags, features);
        self.collect_groups(bags, features);
        self.rows = rows;
        self.batch = bags.batch;
        self.features.extend_from_slice(features);
        Ok(())
    }

    fn clear(&mut self) {
        self.rows = 0;
        self.batch = 0;
        self.features.clear();
        self.ids.clear();
        self.starts.clear();
        self.starts.push(0);
        self.bags.clear();
        self.weights.clear();
        self.inverse_lengths.clear();
        self.bag_of_position.clear();
    }

    /// Finds each lookup's bag, and each bag's length.
    fn number_bags(&mut self, bags: &Bags<'_>, features: &[usize]) {
        let mut bag = 0;
        for &feature in features {
            for sample in 0..bags.batch {
                let len = bags.bag(feature, sample).len();
                self.bag_of_position
                    .resize(self.bag_of_position.len() + len, bag);
                self.inverse_lengths.push(1.0 / len.max(1) as f32);
                bag += 1;
            }
        }
    }

    fn collect_groups(&mut self, bags: &Bags<'_>, features: &[usize]) {
        for (id, position) in self.sorted.pairs() {
            if self.ids.last() != Some(&id) {
                if !self.ids.is_empty() {
                    self.starts.push(self.bags.len() as u32);
                }
                self.ids.push(id);
            }
            self.bags.push(self.bag_of_position[position]);
        }
        if !self.ids.is_empty() {
            self.starts.push(self.bags.len() as u32);
        }
        if let Some(weights) = bags.weights {
            // Positions count through the features in turn; weights lie where the ids lie.
            let ranges = features.iter().map(|&feature| bags.of_feature(feature));
            let weights: Vec<f32> = ranges.flat_map(|range| &weights[range]).copied().collect();
            self.weights
                .extend(self.sorted.pairs().map(|(_, position)| weights[position]));
        }
    }

    /// The touched rows, ascending.
    pub fn ids(&self) -> &[i64] {
        &self.ids
    }

    /// The rows of the table these groups were built for.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The samples of the batch these groups were built for.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The features these groups were built for.
    pub fn features(&self) -> &[usize] {
        &self.features
    }

    /// The number of lookups.
    pub fn lookups(&self) -> usize {
        self.bags.len()
    }

    /// The lookups of the `index`-th touched row.
    #[inline(always)]
    pub(super) fn segment(&self, index: usize) -> Range<usize> {
        self.starts[index] as usize..self.starts[index + 1] as usize
    }

    /// Index into the sources, and sample, of a lookup.
    #[inline(always)]
    pub(super) fn place(&self, lookup: usize) -> (usize, usize) {
        let bag = self.bags[lookup] as usize;
        // Most tables serve one feature; spare them the division.
        if bag < self.batch {
            (0, bag)
        } else {
            (bag / self.batch, bag % self.batch)
        }
    }

    /// The factor of a lookup in its bag's pooled vector.
    #[inline(always)]
    pub(super) fn scale(&self, lookup: usize, source: &BagSource) -> f32 {
        let weight = if self.weights.is_empty() {
            1.0
        } else {
            self.weights[lookup]
        };
        match source.pooling {
            Pooling::Sum => weight,
            Pooling::Mean => weight * self.inverse_lengths[self.bags[lookup] as usize],
        }
    }
}
