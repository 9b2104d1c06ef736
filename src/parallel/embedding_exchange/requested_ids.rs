use std::ops::Range;

use streamrec_kernels::embedding_bag::{Bags, Pooling};

use super::{
    layout::Layout,
    wire::{Words, put},
};
use crate::{
    comm::{Communicator, Message},
    model::{BatchInput, ModelError},
};

/// What a rank asks the owners for, of its share of a batch.
#[derive(Debug, Default)]
pub(super) struct RequestedIds {
    /// The samples of the share.
    pub(super) samples: Range<usize>,
    /// 1 / ids of each bag, `[samples]`, for lookups that pool the mean at several owners; else empty.
    pub(super) inverse_lengths: Vec<Vec<f32>>,
    /// Of each table whose ids travel once.
    pub(super) unique: Vec<UniqueIds>,
}

/// What the ranks of an exchange between devices have to make room for, so that all do so at once.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// Ids of pooled lookups at each owner, of one rank or of all.
    pub(super) pooled: Vec<usize>,
    /// The most distinct ids of a table that a rank asks an owner for.
    pub(super) rows: usize,
    /// The most lookups of a rank in tables whose ids travel once.
    pub(super) positions: usize,
}

impl Needs {
    fn put(&self, message: &mut Message) {
        let pooled: Vec<u32> = self.pooled.iter().map(|&ids| ids as u32).collect();
        put(message, &[self.rows as u32, self.positions as u32]);
        put(message, &pooled);
    }

    /// Reads what one rank needs, and joins it.
    pub(super) fn read(
        &mut self,
        words: &mut Words<'_, u32>,
        owners: usize,
    ) -> Result<(), ModelError> {
        let [rows, positions] = [words.take(1)?[0], words.take(1)?[0]];
        self.rows = self.rows.max(rows as usize);
        self.positions = self.positions.max(positions as usize);
        self.pooled.resize(owners, 0);
        let pooled = words.take(owners)?.iter();
        self.pooled
            .iter_mut()
            .zip(pooled)
            .for_each(|(all, &own)| *all += own as usize);
        Ok(())
    }
}

/// The distinct ids of a table, and its bags as positions among them.
#[derive(Debug, Default)]
pub(super) struct UniqueIds {
    /// Ascending, each once.
    pub(super) ids: Vec<i64>,
    /// As [`Bags::ids`], positions in `ids`.
    positions: Vec<i64>,
    /// As [`Bags::offsets`], the table's lookups being the features.
    offsets: Vec<i64>,
    features: usize,
}

impl UniqueIds {
    /// The bags over the distinct rows.
    pub(super) fn bags(&self, samples: usize) -> Bags<'_> {
        Bags {
            ids: &self.positions,
            offsets: &self.offsets,
            weights: None,
            batch: samples,
            features: self.features,
        }
    }

    /// Which of the distinct ids lie in a shard's rows.
    pub(super) fn within(&self, rows: &Range<usize>) -> Range<usize> {
        let start = self.ids.partition_point(|&id| (id as usize) < rows.start);
        start..self.ids.partition_point(|&id| (id as usize) < rows.end)
    }
}

impl RequestedIds {
    /// Collects the ids of `samples` of a batch.
    ///
    /// # Errors
    /// When an id is outside its table.
    pub(super) fn new(
        layout: &Layout,
        batch: &BatchInput<'_>,
        samples: Range<usize>,
    ) -> Result<Self, ModelError> {
        for table in &layout.tables {
            for &lookup in &table.lookups {
                let feature = layout.lookups[lookup].source.feature;
                let mut ids = samples
                    .clone()
                    .flat_map(|sample| bag(batch, feature, sample));
                if let Some(id) = ids.find(|&&id| id as u64 >= table.rows as u64) {
                    return Err(ModelError::Batch {
                        what: "a row id of a sharded table",
                        expected: format!("a row of `{}`, below {}", table.name, table.rows),
                        got: id.to_string(),
                    });
                }
            }
        }
        let lengths = layout.lookups.iter().map(|lookup| {
            let inverse = |sample| {
                let len = bag(batch, lookup.source.feature, sample).len();
                1.0 / len.max(1) as f32
            };
            match lookup.source.pooling {
                Pooling::Sum => Vec::new(),
                Pooling::Mean => samples.clone().map(inverse).collect(),
            }
        });
        let unique = layout.unique_tables().map(|(_, table)| {
            let features = table
                .lookups
                .iter()
                .map(|&lookup| layout.lookups[lookup].source.feature);
            unique(batch, features, samples.clone())
        });
        Ok(Self {
            inverse_lengths: lengths.collect(),
            unique: unique.collect(),
            samples,
        })
    }

    /// The message to each owner: the number of samples; for each pooled lookup the lengths of the bags
    /// inside the shard, then their ids; for each table whose ids travel once their number, then the
    /// ids; what all ranks have to make room for ([`Needs`]). Ids count from the shard's first row.
    pub(super) fn messages(
        &self,
        comm: &dyn Communicator,
        layout: &Layout,
        batch: &BatchInput<'_>,
    ) -> Vec<Message> {
        let samples = self.samples.clone();
        let mut needs = Needs {
            positions: self.unique.iter().map(|own| own.positions.len()).sum(),
            ..Needs::default()
        };
        let mut message = |owner: &super::layout::OwnerLayout| {
            let mut pooled = 0;
            let mut message = comm.message();
            put(&mut message, &[samples.len() as u32]);
            let (mut lengths, mut ids) = (Vec::new(), Vec::new());
            for part in &owner.pooled {
                lengths.clear();
                ids.clear();
                for sample in samples.clone() {
                    let before = ids.len();
                    let bag = bag(batch, layout.lookups[part.lookup].source.feature, sample);
                    let inside = bag.iter().filter(|&&id| part.rows.contains(&(id as usize)));
                    ids.extend(inside.map(|&id| (id as usize - part.rows.start) as u32));
                    lengths.push((ids.len() - before) as u32);
                }
                put(&mut message, &lengths);
                put(&mut message, &ids);
                pooled += ids.len();
            }
            needs.pooled.push(pooled);
            for part in &owner.unique {
                let own = self.unique_of(layout, part.table);
                let inside = &own.ids[own.within(&part.rows)];
                ids.clear();
                ids.extend(
                    inside
                        .iter()
                        .map(|&id| (id as usize - part.rows.start) as u32),
                );
                put(&mut message, &[ids.len() as u32]);
                put(&mut message, &ids);
                needs.rows = needs.rows.max(ids.len());
            }
            message
        };
        let mut messages: Vec<Message> = layout.owners.iter().map(&mut message).collect();
        for message in &mut messages {
            needs.put(message);
        }
        messages
    }

    /// The lookups in tables whose ids travel once, as rows of what comes from the owners of each: `rows` from each block
    /// of its rows, one block behind the other. As [`Bags::ids`] and [`Bags::offsets`], lookup by lookup of each table.
    pub(super) fn positions(&self, layout: &Layout, rows: usize) -> (Vec<i64>, Vec<i64>) {
        let (mut ids, mut offsets) = (Vec::new(), vec![0]);
        for ((table, _), unique) in layout.unique_tables().zip(&self.unique) {
            let mut place = vec![0; unique.ids.len()];
            for (block, range) in layout.row_blocks(table).iter().enumerate() {
                for (index, id) in unique.within(range).enumerate() {
                    place[id] = (block * rows + index) as i64;
                }
            }
            let first = ids.len() as i64;
            ids.extend(unique.positions.iter().map(|&id| place[id as usize]));
            offsets.extend(unique.offsets[1..].iter().map(|offset| first + offset));
        }
        (ids, offsets)
    }

    /// The distinct ids of a table whose ids travel once.
    pub(super) fn unique_of(&self, layout: &Layout, table: usize) -> &UniqueIds {
        let before = layout.unique_tables().filter(|&(index, _)| index < table);
        &self.unique[before.count()]
    }
}

fn bag<'a>(batch: &BatchInput<'a>, feature: usize, sample: usize) -> &'a [i64] {
    let Bags { ids, offsets, .. } = batch.bags;
    let bag = feature * batch.rows() + sample;
    &ids[offsets[bag] as usize..offsets[bag + 1] as usize]
}

fn unique(
    batch: &BatchInput<'_>,
    features: impl Iterator<Item = usize> + Clone,
    samples: Range<usize>,
) -> UniqueIds {
    let mut own = UniqueIds {
        offsets: vec![0],
        ..UniqueIds::default()
    };
    for feature in features {
        own.features += 1;
        for sample in samples.clone() {
            own.positions.extend_from_slice(bag(batch, feature, sample));
            own.offsets.push(own.positions.len() as i64);
        }
    }
    own.ids.clone_from(&own.positions);
    own.ids.sort_unstable();
    own.ids.dedup();
    for position in &mut own.positions {
        // Every id is among the distinct ones.
        *position = own.ids.partition_point(|id| id < position) as i64;
    }
    own
}
