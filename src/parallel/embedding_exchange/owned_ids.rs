use streamrec_kernels::{
    Context,
    embedding_bag::{BagSource, Bags, GroupedTable, Groups, Pooling},
};

use super::{
    layout::{Layout, OwnerLayout},
    requested_ids::Needs,
    wire::{Words, corrupt},
};
use crate::{comm::Message, model::ModelError};

/// What all ranks ask an owner for, of one batch.
#[derive(Debug, Default)]
pub(super) struct OwnedIds {
    /// Samples of each rank.
    pub(super) samples: Vec<usize>,
    /// As [`Bags`]: the owner's pooled parts are the features, the samples of all ranks one batch.
    ids: Vec<i64>,
    offsets: Vec<i64>,
    /// Of each table whose ids travel once, of each rank.
    pub(super) unique: Vec<Vec<Vec<i64>>>,
    /// Of each table with pooled parts, in their order.
    pub(super) pooled: Vec<PooledTable>,
    groups: Vec<Groups>,
    /// Of all ranks.
    pub(super) needs: Needs,
}

/// A table that an owner pools.
#[derive(Debug, Clone)]
pub(super) struct PooledTable {
    /// Index into the tables.
    pub(super) table: usize,
    /// Its parts, as features of the owner's bags.
    features: Vec<usize>,
    /// Where their gradients lie.
    pub(super) sources: Vec<BagSource>,
    /// Rows of the shard.
    rows: usize,
}

impl OwnedIds {
    /// For what the layout's rank owns.
    pub(super) fn new(layout: &Layout) -> Self {
        let mut pooled: Vec<PooledTable> = Vec::new();
        for (feature, part) in layout.own().pooled.iter().enumerate() {
            if pooled.last().is_none_or(|last| last.table != part.table) {
                pooled.push(PooledTable {
                    table: part.table,
                    features: Vec::new(),
                    sources: Vec::new(),
                    rows: part.rows.len(),
                });
            }
            // There is one: it was pushed at the table's first part.
            if let Some(last) = pooled.last_mut() {
                last.features.push(feature);
                last.sources.push(BagSource {
                    feature,
                    // Whoever asks divides by the length of the whole bag.
                    pooling: Pooling::Sum,
                    column: part.first,
                });
            }
        }
        Self {
            groups: pooled.iter().map(|_| Groups::default()).collect(),
            pooled,
            ..Self::default()
        }
    }

    /// Reads the messages of all ranks, in their order.
    pub(super) fn read(&mut self, layout: &Layout, messages: &[Message]) -> Result<(), ModelError> {
        let own = layout.own();
        let mut readers = Vec::with_capacity(messages.len());
        self.samples.clear();
        for (rank, message) in messages.iter().enumerate() {
            let mut words = Words::<u32>::new(rank, message)?;
            self.samples.push(words.take(1)?[0] as usize);
            readers.push(words);
        }
        self.ids.clear();
        self.offsets.clear();
        self.offsets.push(0);
        for _ in &own.pooled {
            for (rank, words) in readers.iter_mut().enumerate() {
                let lengths = words.take(self.samples[rank])?;
                let mut end = self.ids.len() as i64;
                for &length in lengths {
                    end += i64::from(length);
                    self.offsets.push(end);
                }
                let count = end as usize - self.ids.len();
                self.ids
                    .extend(words.take(count)?.iter().map(|&id| i64::from(id)));
            }
        }
        self.read_unique(own, &mut readers)?;
        self.needs = Needs::default();
        for words in &mut readers {
            self.needs.read(words, layout.owners.len())?;
        }
        readers.into_iter().try_for_each(Words::end)
    }

    fn read_unique(
        &mut self,
        own: &OwnerLayout,
        readers: &mut [Words<'_, u32>],
    ) -> Result<(), ModelError> {
        self.unique.resize_with(own.unique.len(), Vec::new);
        for (part, of_ranks) in own.unique.iter().zip(&mut self.unique) {
            of_ranks.resize_with(readers.len(), Vec::new);
            for (rank, (words, ids)) in readers.iter_mut().zip(of_ranks).enumerate() {
                let count = words.take(1)?[0] as usize;
                ids.clear();
                ids.extend(words.take(count)?.iter().map(|&id| i64::from(id)));
                if ids.iter().any(|&id| id as usize >= part.rows.len()) {
                    let problem = format!("an id beyond the shard's {} rows", part.rows.len());
                    return Err(corrupt(rank, problem));
                }
            }
        }
        Ok(())
    }

    /// The ids that travel once as bags of at most one id, `rows` of each rank: the owner's parts are the features. As
    /// [`Bags::ids`] and [`Bags::offsets`].
    pub(super) fn rows_of_ranks(&self, rows: usize) -> (Vec<i64>, Vec<i64>) {
        let (mut ids, mut offsets) = (Vec::new(), vec![0]);
        for of_ranks in &self.unique {
            for own in of_ranks {
                let first = ids.len();
                ids.extend_from_slice(own);
                offsets.extend((1..=rows).map(|row| (first + row.min(own.len())) as i64));
            }
        }
        (ids, offsets)
    }

    /// The pooled lookups of all ranks.
    pub(super) fn bags(&self) -> Bags<'_> {
        Bags {
            ids: &self.ids,
            offsets: &self.offsets,
            weights: None,
            batch: self.samples.iter().sum(),
            features: self.pooled.iter().map(|table| table.features.len()).sum(),
        }
    }

    /// Groups the pooled lookups by row, for the update.
    pub(super) fn group(&mut self, context: &Context) -> Result<(), ModelError> {
        let mut groups = std::mem::take(&mut self.groups);
        let tables: Vec<GroupedTable<'_>> = self
            .pooled
            .iter()
            .map(|table| GroupedTable {
                features: &table.features,
                rows: table.rows,
            })
            .collect();
        let result = Groups::build_all(context, &self.bags(), &tables, &mut groups);
        self.groups = groups;
        result.map_err(ModelError::kernel("the grouping of ids by row"))
    }

    /// The pooled tables, each with its lookups by row.
    pub(super) fn grouped(&self) -> impl Iterator<Item = (&PooledTable, &Groups)> {
        self.pooled.iter().zip(&self.groups)
    }
}
