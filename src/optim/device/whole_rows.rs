//! Updates of rows of which every rank holds some columns: norms and row-wise states are those of whole rows.
//!
//! ```text
//! fast       rank 0   its columns' gradients, weights ─► [g g, g w, w w] a row ─┐
//!            rank 1   likewise                                                  ─┴─► all_reduce ─► the same update everywhere
//! invariant  rank 0   its columns' gradients, weights ─┐
//!            rank 1   likewise                        ─┴─► all_gather ─► what one rank computes of whole rows, everywhere
//! ```
//!
//! All ranks have the same ids, so they list the same rows in the same order.

use streamrec_kernels::cuda::{
    Address, Collective, DeviceError, Executor,
    collective::{Element, Reduce},
    sparse_optimizer::UpdateRows,
    whole_rows::{Columns, of_columns, pack, packed_width, row_products},
};

use super::{OptimError, launch_all, tables::DeviceTables};
use crate::model::device::TableRounds;

/// What ranks exchange of a round's rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowProducts {
    /// `[capacity, 3]` of `f64`
    pub(super) at: Address,
    /// Rows that there is room for, the same number on all ranks.
    capacity: usize,
    /// Where the columns of all ranks are brought together.
    columns: Option<Columns>,
}

impl DeviceTables {
    /// Memory for what ranks exchange of the rows that so many ids of all of them can touch.
    pub(super) fn reserve_products<E: Executor>(
        &mut self,
        executor: &mut E,
        ids: usize,
    ) -> Result<(), DeviceError> {
        for round in &mut self.rounds {
            let Some(tables_of_id) = round.columns_apart else {
                continue;
            };
            let capacity = (ids * tables_of_id).min(round.rows).max(1);
            let mut columns = None;
            if let Some(ranks) = self.asking {
                let whole = round.tables.iter().map(|table| table.columns as usize);
                let width = packed_width(whole.max().unwrap_or(0), ranks);
                let bytes = capacity * 2 * width * size_of::<f32>();
                columns = Some(Columns {
                    ranks,
                    width,
                    own: executor.allocate(bytes)?,
                    all: executor.allocate(ranks * bytes)?,
                });
            }
            round.products = Some(RowProducts {
                at: executor.allocate(capacity * 3 * size_of::<f64>())?,
                capacity,
                columns,
            });
        }
        Ok(())
    }

    /// Computes what ranks have to exchange before the update, once all rows are summed.
    pub(super) fn row_products<E: Executor>(
        &self,
        executor: &mut E,
        rounds: &TableRounds,
    ) -> Result<Vec<Collective>, OptimError> {
        let mut exchanged = Vec::new();
        for (operands, products) in self.rows_with_products(rounds)? {
            let (launch, collective) = match products.columns {
                None => (
                    row_products(&operands),
                    Collective::AllReduce {
                        at: products.at,
                        len: products.capacity * 3,
                        element: Element::F64,
                        reduce: Reduce::Sum,
                    },
                ),
                Some(columns) => (
                    pack(&operands, &columns),
                    Collective::AllGather {
                        from: columns.own,
                        to: columns.all,
                        len: products.capacity * 2 * columns.width,
                        element: Element::F32,
                    },
                ),
            };
            launch_all(executor, "the tables", launch.map(|launch| [launch]))?;
            exchanged.push(collective);
        }
        Ok(exchanged)
    }

    /// Computes what the update needs of whole rows, once the columns of all ranks are there.
    pub(super) fn gathered_products<E: Executor>(
        &self,
        executor: &mut E,
        rounds: &TableRounds,
    ) -> Result<(), OptimError> {
        for (operands, products) in self.rows_with_products(rounds)? {
            if let Some(columns) = products.columns {
                let launch = of_columns(&operands, &self.rule, &columns);
                launch_all(executor, "the tables", launch.map(|launch| [launch]))?;
            }
        }
        Ok(())
    }

    /// The rows of each round whose columns are apart.
    fn rows_with_products(
        &self,
        rounds: &TableRounds,
    ) -> Result<Vec<(UpdateRows<'_>, RowProducts)>, OptimError> {
        let mut rows = Vec::new();
        for (index, (own, round)) in self.rounds.iter().zip(rounds.rounds()).enumerate() {
            if let Some(products) = own.products {
                let operands = UpdateRows {
                    capacity: products.capacity,
                    ..self.rows_to_update(index, round)?
                };
                rows.push((operands, products));
            }
        }
        Ok(rows)
    }
}
