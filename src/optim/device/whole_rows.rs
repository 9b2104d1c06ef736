//! Updates of rows of which every rank holds some columns: norms and row-wise states are those of whole rows.
//!
//! ```text
//! rank 0   its columns' gradients, weights ─► [g g, g w, w w] a row ─┐
//! rank 1   likewise                                                  ─┴─► all_reduce ─► the same update everywhere
//! ```
//!
//! All ranks have the same ids, so they list the same rows in the same order.

use streamrec_kernels::cuda::{
    Address, Collective, DeviceError, Executor,
    collective::{Element, Reduce},
    sparse_optimizer::UpdateRows,
    whole_rows::row_products,
};

use super::{OptimError, failed, launch_all, tables::DeviceTables};
use crate::model::device::TableRounds;

/// What ranks add up of a round's rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowProducts {
    /// `[capacity, 3]` of `f64`
    pub(super) at: Address,
    /// Rows that there is room for, the same number on all ranks.
    capacity: usize,
}

impl DeviceTables {
    /// Memory for what ranks add up of the rows that so many ids of all of them can touch.
    pub(super) fn reserve_products<E: Executor>(
        &mut self,
        executor: &mut E,
        ids: usize,
    ) -> Result<(), DeviceError> {
        for round in &mut self.rounds {
            if let Some(tables_of_id) = round.columns_apart {
                let capacity = (ids * tables_of_id).min(round.rows).max(1);
                let at = executor.allocate(capacity * 3 * size_of::<f64>())?;
                round.products = Some(RowProducts { at, capacity });
            }
        }
        Ok(())
    }

    /// Computes what ranks have to add up before the update, once all rows are summed.
    pub(super) fn row_products<E: Executor>(
        &self,
        executor: &mut E,
        rounds: &TableRounds,
    ) -> Result<Vec<Collective>, OptimError> {
        let mut sums = Vec::new();
        for (index, (own, round)) in self.rounds.iter().zip(rounds.rounds()).enumerate() {
            let Some(RowProducts { at, capacity }) = own.products else {
                continue;
            };
            let operands = UpdateRows {
                capacity,
                ..self.rows_to_update(index, round)?
            };
            let launch = row_products(&operands).map_err(failed("the tables"))?;
            launch_all(executor, "the tables", Ok([launch]))?;
            sums.push(Collective::AllReduce {
                at,
                len: capacity * 3,
                element: Element::F64,
                reduce: Reduce::Sum,
            });
        }
        Ok(sums)
    }
}
