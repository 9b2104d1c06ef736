use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use streamrec_kernels::{
    Context,
    embedding_bag::{RowGradients, RowGradientsRef},
    norm,
    sparse_optimizer::SparseGradient,
};

use tracing::trace_span;

use super::row_sum::RowSum;

use crate::{
    comm::{CommError, Communicator, Event},
    config::Reduction,
    model::{ModelError, Network, ParameterStore, SumScratch, TableId},
};

/// Adds the gradients of replicated tables over micro-batches and ranks.
///
/// ```text
/// after each backward pass  collect   duplicates summed, merged with earlier micro-batches
/// after the last            start     (row, gradient) pairs of all tables to every rank, in flight
///                           finish    merged by row in rank order
///                           gradient  each touched row once
/// ```
///
/// A single rank with a single micro-batch sums nothing in advance: its gradient is the fused form,
/// in which a row is summed while it is updated.
pub struct SparseSync {
    comm: Arc<dyn Communicator>,
    tables: Vec<TableSum>,
    /// Whether sums must be there before the update.
    sums_first: bool,
    scratch: SumScratch,
    /// Micro-batches collected since the last update.
    collected: usize,
    in_flight: Option<Event<Vec<Vec<u8>>>>,
    /// The memory of the message before.
    message: Vec<u8>,
}

#[derive(Default)]
struct TableSum {
    dim: usize,
    /// Nobody needs the gradient, or an exchange brings it.
    left_out: bool,
    /// Whether the network's own gradient is all there is.
    fused: bool,
    /// At last that of all ranks.
    own: RowSum,
    /// Of each rank.
    received: Vec<RowGradients>,
}

impl SparseSync {
    /// For the replicated tables of a store; nothing is summed or sent for those that are `frozen`, on
    /// every rank the same.
    pub fn new(
        comm: Arc<dyn Communicator>,
        parameters: &ParameterStore,
        reduction: Reduction,
        frozen: impl Fn(TableId) -> bool,
    ) -> Self {
        let tables = parameters.tables().map(|(id, table)| TableSum {
            dim: table.dim(),
            left_out: table.is_sharded() || frozen(id),
            own: RowSum::new(table.dim(), reduction),
            ..TableSum::default()
        });
        let tables = tables.collect();
        let (scratch, message) = (SumScratch::default(), Vec::new());
        Self {
            comm,
            tables,
            sums_first: false,
            scratch,
            collected: 0,
            in_flight: None,
            message,
        }
    }

    /// Forms all sums before the update, so that they can be tested.
    pub fn with_sums_first(mut self, sums_first: bool) -> Self {
        self.sums_first = sums_first;
        self
    }

    /// Multiplies all sums by a factor; returns whether all were finite. After [`finish`](Self::finish),
    /// with sums that were formed first.
    pub fn scale_if_finite(&mut self, context: &Context, factor: f32) -> bool {
        context.install(|| {
            let mut finite = true;
            // Every table is scaled, whatever another held.
            for table in self.tables.iter_mut().filter(|table| !table.left_out) {
                finite &= norm::scale_if_finite(context, &mut table.own.sum.rows, factor);
            }
            finite
        })
    }

    /// Takes up the gradients of a backward pass; `last` tells that no other micro-batch follows
    /// before the update.
    ///
    /// # Errors
    /// When shapes do not fit, which a planned network rules out.
    pub fn collect(
        &mut self,
        context: &Context,
        parameters: &ParameterStore,
        network: &Network,
        last: bool,
    ) -> Result<(), ModelError> {
        let alone = self.comm.size() == 1 && self.collected == 0 && last && !self.sums_first;
        for (table, id) in self.tables.iter_mut().zip(parameters.table_ids()) {
            table.fused = alone && network.bag_gradient(id).is_some();
        }
        let summed = |table: &TableSum| !table.left_out && !table.fused;
        let (collected, scratch) = (self.collected, &mut self.scratch);
        self.collected += 1;
        if !self.tables.iter().any(summed) {
            return Ok(());
        }
        let tables = self.tables.iter_mut().zip(parameters.table_ids());
        context.install(|| {
            for (table, id) in tables.filter(|(table, _)| summed(table)) {
                table.own.add(context, collected, last, |into| {
                    network.sum_table_gradient(context, parameters, id, scratch, into)
                })?;
            }
            Ok(())
        })
    }

    /// Sends this rank's sums to all ranks. Returns at once: do something else before
    /// [`finish`](Self::finish).
    pub fn start(&mut self) {
        if self.comm.size() == 1 || self.tables.iter().all(|table| table.left_out) {
            return;
        }
        let mut message = mem::take(&mut self.message);
        message.clear();
        write_message(&self.tables, &mut message);
        self.in_flight = Some(self.comm.all_gather_bytes(message));
    }

    /// Waits for the sums of all ranks, and merges them. Afterwards gradients are final. Returns
    /// how long it waited.
    ///
    /// # Errors
    /// When ranks cannot communicate, or a message does not fit the tables.
    pub fn finish(&mut self, context: &Context) -> Result<Duration, ModelError> {
        self.collected = 0;
        let Some(event) = self.in_flight.take() else {
            return Ok(Duration::ZERO);
        };
        let _span = trace_span!("merge table gradients").entered();
        let start = Instant::now();
        let mut messages = trace_span!("wait for table gradients").in_scope(|| event.wait())?;
        let waited = start.elapsed();
        for (rank, message) in messages.iter().enumerate() {
            read_message(message, rank, &mut self.tables)?;
        }
        self.message = messages.swap_remove(self.comm.rank());
        for table in &mut self.tables {
            let parts: Vec<RowGradientsRef<'_>> =
                table.received.iter().map(RowGradients::view).collect();
            table.own.merge(context, &parts)?;
        }
        Ok(waited)
    }

    /// The gradient of a table over all micro-batches and ranks, for one update.
    pub fn gradient<'a>(&'a self, network: &'a Network, table: TableId) -> SparseGradient<'a> {
        let sum = &self.tables[table.index()];
        match network.bag_gradient(table) {
            Some(bags) if sum.fused => SparseGradient::Bags {
                groups: bags.groups,
                sources: bags.sources,
                dout: bags.dout,
            },
            _ => SparseGradient::Rows(&sum.own.sum),
        }
    }
}

/// The number of rows of each table (u64), then all row ids (i64), then all rows (f32), table by
/// table. Ranks share one host or one architecture, so numbers are in its byte order.
fn write_message(tables: &[TableSum], message: &mut Vec<u8>) {
    for table in tables {
        message.extend_from_slice(&(table.own.sum.ids.len() as u64).to_ne_bytes());
    }
    for table in tables {
        message.extend_from_slice(bytemuck::cast_slice(&table.own.sum.ids));
    }
    for table in tables {
        message.extend_from_slice(bytemuck::cast_slice(&table.own.sum.rows));
    }
}

/// Reads the message of a rank into the tables' `received`.
fn read_message(message: &[u8], rank: usize, tables: &mut [TableSum]) -> Result<(), ModelError> {
    let corrupt = |problem: String| {
        let collective = "exchange of table gradients";
        ModelError::Comm(CommError::Corrupt {
            collective,
            rank,
            problem,
        })
    };
    let header = tables.len() * size_of::<u64>();
    let (counts, mut rest) = message
        .split_at_checked(header)
        .ok_or_else(|| corrupt(format!("{} bytes are too few", message.len())))?;
    let mut expected = 0u64;
    for (table, count) in tables.iter_mut().zip(counts.chunks_exact(size_of::<u64>())) {
        table
            .received
            .resize_with(table.received.len().max(rank + 1), RowGradients::default);
        let count = u64::from_ne_bytes(count.try_into().unwrap_or_default());
        let row_bytes = (size_of::<i64>() + table.dim * size_of::<f32>()) as u64;
        expected = expected.saturating_add(count.saturating_mul(row_bytes));
        if expected > rest.len() as u64 {
            return Err(corrupt(format!(
                "{} bytes hold fewer than {count} rows",
                rest.len()
            )));
        }
        // Bounded by the message.
        table.received[rank].ids.resize(count as usize, 0);
        table.received[rank]
            .rows
            .resize(count as usize * table.dim, 0.0);
    }
    if expected != rest.len() as u64 {
        return Err(corrupt(format!(
            "expected {expected} bytes of rows, got {}",
            rest.len()
        )));
    }
    let mut fill = |into: &mut [u8]| {
        let (own, after) = rest.split_at(into.len());
        into.copy_from_slice(own);
        rest = after;
    };
    for table in tables.iter_mut() {
        fill(bytemuck::cast_slice_mut(&mut table.received[rank].ids));
    }
    for table in tables.iter_mut() {
        fill(bytemuck::cast_slice_mut(&mut table.received[rank].rows));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(contents: &[(usize, &[i64])]) -> Vec<TableSum> {
        let table = |&(dim, ids): &(usize, &[i64])| {
            let rows = (0..ids.len() * dim)
                .map(|value| value as f32 + 0.5)
                .collect();
            let sum = RowGradients {
                ids: ids.to_vec(),
                rows,
            };
            let mut own = RowSum::new(dim, Reduction::Fast);
            own.sum = sum;
            TableSum {
                dim,
                own,
                ..TableSum::default()
            }
        };
        contents.iter().map(table).collect()
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let mut sent = tables(&[(3, &[1, 5]), (1, &[]), (2, &[0, 7, 9])]);
        let mut message = Vec::new();
        write_message(&sent, &mut message);
        read_message(&message, 1, &mut sent).unwrap();
        for table in &sent {
            assert_eq!(table.received.len(), 2);
            assert_eq!(table.received[1], table.own.sum);
        }
    }

    #[test]
    fn a_message_of_another_size_is_refused() {
        let mut sent = tables(&[(3, &[1, 5]), (2, &[0, 7, 9])]);
        let mut message = Vec::new();
        write_message(&sent, &mut message);
        for end in 0..message.len() {
            assert!(
                read_message(&message[..end], 0, &mut sent).is_err(),
                "{end}"
            );
        }
        message.push(0);
        assert!(read_message(&message, 0, &mut sent).is_err());
        message[..8].copy_from_slice(&u64::MAX.to_ne_bytes());
        assert!(read_message(&message, 0, &mut sent).is_err());
    }
}
