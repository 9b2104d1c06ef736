use std::ops::Range;

use crate::{
    comm::Communicator,
    config::Reduction,
    model::{Gradients, MicroBatch, ModelError},
};

/// The pieces of a global batch whose gradients are computed apart where results do not depend on the
/// number of ranks.
pub const MICRO_SHARDS: usize = 8;

/// How a rank works through its part of a global batch of B rows.
///
/// ```text
/// fast       some equal pieces of what this rank has, added one after the other
/// invariant  micro-shard m of 8: rows [floor(m*B/8), floor((m+1)*B/8)) of the global batch, whatever
///            rank has them; sums are ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)), dense and sparse
/// ```
///
/// With 1, 2, 4 or 8 data-parallel ranks each has a whole subtree, so every number is the sum of the
/// same numbers in the same order.
#[derive(Debug, Clone)]
pub struct MicroShards {
    reduction: Reduction,
    /// Rows of each piece, of the rank's own, padding left out where there is any; empty where pieces
    /// depend on the batch.
    shards: Vec<Range<usize>>,
    accumulate: usize,
}

/// Ranks that cannot have whole subtrees.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`parallel.reduction` = \"invariant\" adds up {MICRO_SHARDS} micro-shards of a global batch in a fixed \
     tree, so it takes 1, 2, 4 or 8 data-parallel ranks, got {ranks}; start another number of ranks, or \
     set it to \"fast\""
)]
pub struct InvariantRanksError {
    /// The data-parallel ranks.
    pub ranks: usize,
}

impl MicroShards {
    /// For the ranks of `dp`; `accumulate` is the number of pieces where the reduction is fast.
    ///
    /// # Errors
    /// When the reduction is invariant and the ranks are not 1, 2, 4 or 8.
    pub fn new(
        reduction: Reduction,
        dp: &dyn Communicator,
        global_batch: usize,
        accumulate: usize,
    ) -> Result<Self, InvariantRanksError> {
        let (rank, ranks) = (dp.rank(), dp.size());
        if reduction == Reduction::Fast {
            return Ok(Self {
                reduction,
                shards: Vec::new(),
                accumulate,
            });
        }
        if !MICRO_SHARDS.is_multiple_of(ranks) {
            return Err(InvariantRanksError { ranks });
        }
        let bound = |shard: usize| shard * global_batch / MICRO_SHARDS;
        let own = MICRO_SHARDS / ranks;
        let first = rank * own;
        let shard = |shard| bound(shard) - bound(first)..bound(shard + 1) - bound(first);
        Ok(Self {
            reduction,
            shards: (first..first + own).map(shard).collect(),
            accumulate,
        })
    }

    /// How sums are taken.
    pub fn reduction(&self) -> Reduction {
        self.reduction
    }

    /// The number of pieces of each batch.
    pub fn count(&self) -> usize {
        self.shards.len().max(1) * self.accumulate
    }

    /// The rows of a piece of a batch of `rows` rows, of which the first `filled` are not padding.
    pub fn rows(&self, piece: usize, rows: usize, filled: usize) -> Range<usize> {
        match self.shards.get(piece) {
            Some(shard) => shard.start.min(filled)..shard.end.min(filled),
            None => MicroBatch::rows(piece, self.accumulate, rows),
        }
    }
}

/// Adds up the dense gradients of micro-shards in the tree. Its leaves come in their order, a power of
/// two of them.
#[derive(Debug, Default)]
pub struct GradientTree {
    /// Sums of 1, 2, 4 leaves that wait for as many more; each has all buckets one after the other.
    waiting: Vec<Vec<f32>>,
}

impl GradientTree {
    /// Takes up the gradients of leaf `index`, from 0. After the `last` the sum of all lies in
    /// `gradients`; before, what lies there may be overwritten.
    ///
    /// # Errors
    /// When a bucket is in flight.
    pub fn add(
        &mut self,
        index: usize,
        last: bool,
        gradients: &mut Gradients,
    ) -> Result<(), ModelError> {
        let buckets = gradients.layout().buckets().len();
        let complete = index.trailing_ones() as usize;
        for waiting in &self.waiting[..complete] {
            let mut rest = waiting.as_slice();
            for bucket in 0..buckets {
                let own = gradients.bucket_mut(bucket)?;
                let (part, after) = rest.split_at(own.len());
                own.iter_mut()
                    .zip(part)
                    .for_each(|(own, part)| *own += part);
                rest = after;
            }
        }
        if last {
            return Ok(());
        }
        if self.waiting.len() <= complete {
            self.waiting.push(Vec::new());
        }
        let into = &mut self.waiting[complete];
        into.clear();
        for bucket in 0..buckets {
            into.extend_from_slice(gradients.bucket(bucket)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::comm::{Settings, SharedMemory, SingleRank};

    #[test]
    fn micro_shards_are_the_same_rows_on_any_number_of_ranks() {
        let all = |ranks: usize, batch: usize| -> Vec<Range<usize>> {
            let comms: Vec<Arc<dyn Communicator>> = match ranks {
                1 => vec![Arc::new(SingleRank)],
                _ => SharedMemory::connect_threads(ranks, &Settings::default())
                    .unwrap()
                    .into_iter()
                    .map(|comm| Arc::new(comm) as Arc<dyn Communicator>)
                    .collect(),
            };
            let of_rank = |comm: &Arc<dyn Communicator>| {
                let first = comm.rank() * batch / ranks;
                let shards =
                    MicroShards::new(Reduction::Invariant, comm.as_ref(), batch, 1).unwrap();
                (0..shards.count())
                    .map(move |piece| {
                        let rows = shards.rows(piece, batch, batch);
                        first + rows.start..first + rows.end
                    })
                    .collect::<Vec<_>>()
            };
            comms.iter().flat_map(of_rank).collect()
        };
        for batch in [5, 8, 509] {
            let one = all(1, batch);
            assert_eq!(one.len(), MICRO_SHARDS);
            assert_eq!((one[0].start, one[7].end), (0, batch));
            for ranks in [2, 4, 8] {
                assert_eq!(all(ranks, batch), one, "{ranks} ranks, {batch} rows");
            }
        }
    }

    #[test]
    fn padding_is_in_no_micro_shard() {
        let shards = MicroShards::new(Reduction::Invariant, &SingleRank, 16, 1).unwrap();
        assert_eq!(shards.rows(2, 16, 5), 4..5);
        assert_eq!(shards.rows(3, 16, 5), 5..5);
    }

    #[test]
    fn three_ranks_are_refused() {
        let ranks = SharedMemory::connect_threads(3, &Settings::default()).unwrap();
        let refused = MicroShards::new(Reduction::Invariant, &ranks[0], 16, 1).unwrap_err();
        assert_eq!(refused, InvariantRanksError { ranks: 3 });
        assert!(MicroShards::new(Reduction::Fast, &ranks[0], 16, 1).is_ok());
    }
}
