//! The gradients of replicated tables' rows, of the devices of all ranks.
//!
//! ```text
//! rank 0   keys, rows ─┐               ┌─► sorted by key, equal ones in rank order ─► summed, each row once
//! rank 1   keys, rows ─┴─► all_gather ─┴─► the same, to the bit
//! ```
//!
//! Micro-batches of a rank are lists of their own, one behind the other, before those of the next rank. The lists have the
//! same room on every rank, whatever is in use of it, so that the exchange is the same in every step
//! and can be recorded. What tells of numbers that are not finite goes with them.

use streamrec_kernels::DType;
use streamrec_kernels::cuda::{
    Address, Begun, Collective, DeviceError, Executor, Group, Launch, Matrix,
    collective::{Element, Reduce},
    embedding_bag::Bags,
    groups::{self, Memory, Source},
    sparse_optimizer::Gradients,
};

use super::{
    Control, OptimError, failed, launch_all,
    tables::{LookupMemory, RoundTables, RowSums},
    upload,
};
use crate::model::{ModelError, device::TableRound};

const WHAT: &str = "the exchange of table gradients";

/// Where the gradient of a row lies that a rank sent: in a row of its own.
const SOURCE: Source = Source {
    rows: 0,
    table: 0,
    column: 0,
    mean: 0,
    reserved: 0,
};

/// What ranks exchange of their rows, with the memory for it.
#[derive(Debug)]
pub(super) struct RowExchange {
    ranks: usize,
    /// Lists of all ranks.
    lists: usize,
    source: Address,
    /// Of each round, in their order.
    rounds: Vec<MergedRows>,
    /// All rounds share it.
    memory: Option<LookupMemory>,
}

/// A round's rows of all ranks.
#[derive(Debug)]
pub(super) struct MergedRows {
    /// `[all]` of `u64`
    keys: Address,
    /// `[all, row_stride]` of `f32`
    gradients: Address,
    /// Rows that there is room for in all lists.
    all: usize,
    /// Each row once, where sums are tested before the update.
    pub(super) sums: Option<RowSums>,
}

/// Rows that are on their way to all ranks; nothing, on one.
#[derive(Debug, Default)]
pub struct PendingRows(Option<Begun>);

impl PendingRows {
    /// Lets the device wait for them.
    pub(super) fn finish<E: Executor>(self, executor: &mut E) -> Result<(), ModelError> {
        match self.0 {
            Some(begun) => Ok(executor.finish(begun)?),
            None => Ok(()),
        }
    }
}

impl RowExchange {
    pub(super) fn new<E: Executor>(
        executor: &mut E,
        [ranks, micro_batches]: [usize; 2],
    ) -> Result<Self, OptimError> {
        let source = executor.allocate(size_of::<Source>());
        let source = source.map_err(ModelError::from)?;
        upload(executor, &[SOURCE], source)?;
        Ok(Self {
            ranks,
            lists: ranks * micro_batches,
            source,
            rounds: Vec::new(),
            memory: None,
        })
    }

    /// Memory for the rows of all ranks, of which each has as much as this one.
    pub(super) fn reserve<E: Executor>(
        &mut self,
        executor: &mut E,
        rounds: &[RoundTables],
        sums_first: bool,
        stride: usize,
    ) -> Result<(), DeviceError> {
        let (mut merged, mut most) = (Vec::new(), 0);
        for round in rounds {
            let own = round.sums.expect("memory was reserved");
            let all = self.lists * own.capacity;
            most = most.max(all);
            let sums = match sums_first {
                true => Some(RowSums::new(executor, 1, [all, all], round.stride())?),
                false => None,
            };
            // A rank that is alone merges its lists where they are.
            let (keys, gradients) = match self.ranks {
                1 => (own.rows.keys, own.gradients),
                _ => (
                    executor.allocate(8 * all)?,
                    executor.allocate(4 * all * round.stride())?,
                ),
            };
            merged.push(MergedRows {
                keys,
                gradients,
                all,
                sums,
            });
        }
        self.memory = Some(LookupMemory::new(executor, most, stride)?);
        self.rounds = merged;
        Ok(())
    }

    /// The sums over all ranks, of a round.
    pub(super) fn sums(&self, round: usize) -> Option<RowSums> {
        self.rounds[round].sums
    }

    /// Begins to send this rank's rows of all rounds to all ranks, and `overflow` with them.
    pub(super) fn send<E: Executor>(
        &self,
        executor: &mut E,
        own: &[RoundTables],
        overflow: Address,
    ) -> Result<PendingRows, OptimError> {
        if self.ranks == 1 {
            return Ok(PendingRows::default());
        }
        let mut collectives = vec![Collective::AllReduce {
            at: overflow,
            len: 1,
            element: Element::U32,
            reduce: Reduce::Max,
        }];
        for (own, merged) in own.iter().zip(&self.rounds) {
            let (sums, len) = (
                own.sums.expect("memory was reserved"),
                merged.all / self.ranks,
            );
            collectives.push(Collective::AllGather {
                from: sums.rows.keys,
                to: merged.keys,
                len,
                element: Element::U64,
            });
            collectives.push(Collective::AllGather {
                from: sums.gradients,
                to: merged.gradients,
                len: len * own.stride(),
                element: Element::F32,
            });
        }
        let begun = executor.begin(Group::DataParallel, WHAT, &collectives);
        Ok(PendingRows(Some(begun.map_err(ModelError::from)?)))
    }

    /// Sorts a round's rows of all ranks, then does what `then` makes of their gradients.
    pub(super) fn merge<E: Executor>(
        &self,
        executor: &mut E,
        (index, own, round): (usize, &RoundTables, &TableRound),
        control: Control,
        then: impl FnOnce(&Gradients<'_>, &MergedRows) -> streamrec_kernels::Result<[Launch; 2]>,
    ) -> Result<(), OptimError> {
        let merged = &self.rounds[index];
        let LookupMemory { sort, partial } = self.memory.expect("memory was reserved");
        let capacity = merged.all;
        let memory = Memory {
            keys: [merged.keys, sort.keys[1]],
            capacity,
            ..sort
        };
        let rows = merged.sums.as_ref().map(|sums| &sums.rows);
        let (launches, sorted) =
            groups::merge(&memory, &round.sources, rows).map_err(failed("the tables"))?;
        launch_all(executor, "the tables", Ok(launches))?;
        let gradients = Gradients {
            bags: Bags {
                ids: Address::NULL,
                offsets: Address::NULL,
                weights: Address::NULL,
                batch: capacity,
                features: 1,
            },
            sorted,
            capacity,
            sources: &[SOURCE],
            sources_on_device: self.source,
            tables: &own.tables,
            tables_on_device: own.on_device,
            dout: Matrix::new(merged.gradients, DType::F32, [capacity, own.stride()]),
            scaled: false,
            partial,
            step: control.step(),
        };
        launch_all(executor, "the tables", then(&gradients, merged))
    }
}
