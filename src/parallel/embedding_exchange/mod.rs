//! Lookups in sharded tables: ids to the owners, vectors back, gradients to the owners.
//!
//! ```text
//!            every rank                              owner of a shard
//! send_ids   lengths and ids, or each id once  ──►   bags, or ids, of all ranks
//! fetch      vectors of its samples            ◄──   pooled vectors, or rows
//!            (pooled here where rows came)
//! collect    gradients of vectors, or of rows  ──►   summed by row, each row updated once
//! ```
//!
//! Of the samples that a tensor-parallel group shares each rank looks up its own part, and the group
//! gathers the vectors; backward, each rank sends the gradient of its part. Ids of the next batch travel
//! while this one computes: they depend on no weight.
//!
//! Never does: update a row, or read a table that it does not hold.

mod layout;
mod owned_ids;
mod requested_ids;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use streamrec_kernels::{
    Context, TensorMut, TensorRef,
    embedding_bag::{
        self, BagSource, Groups, Lookup, Pooling, RowGradients, RowGradientsRef, segment_sum,
    },
    sparse_optimizer::SparseGradient,
};

use self::{
    layout::{Layout, OwnerLayout},
    owned_ids::OwnedIds,
    requested_ids::RequestedIds,
    wire::{Words, put},
};
use super::{Mesh, TablePlan, row_sum::RowSum};
use crate::{
    comm::{CommBuffer, CommError, Communicator, Event},
    config::Placement,
    model::{BatchInput, ModelError, Network, ParameterStore, TableId},
};

/// The ids of a batch on their way to the owners.
#[must_use = "ids that were sent must be fetched, on every rank"]
pub struct PendingIds {
    requested: RequestedIds,
    rows: usize,
    event: Event<Vec<Vec<u8>>>,
}

/// One rank's part in the lookups of sharded tables. Every call is collective, in the world.
pub struct EmbeddingExchange {
    layout: Layout,
    world: Arc<dyn Communicator>,
    /// Of all ranks too, so that ids overtake nothing.
    id_comm: Arc<dyn Communicator>,
    tp: Arc<dyn Communicator>,
    /// Samples of a rank's share of its group's batch.
    share: usize,
    requested: RequestedIds,
    owned: OwnedIds,
    /// `[tp, share, columns]`, in place between fetches.
    vectors: Option<CommBuffer>,
    /// As an owner: the pooled vectors of all ranks, then their gradients, `[samples, width]`.
    pooled: Vec<f32>,
    /// Rows of a table whose ids travel once, `[ids, dim]`; then their gradients.
    rows: Vec<f32>,
    /// Of the tables by their index.
    sums: Vec<TableSum>,
    /// Groups of a table whose ids travel once.
    unique_groups: Groups,
    /// Micro-batches collected since the last update.
    collected: usize,
}

#[derive(Default)]
struct TableSum {
    /// Whether the sum over the samples is left to the update.
    fused: bool,
    own: RowSum,
}

impl EmbeddingExchange {
    /// For the sharded tables of a network whose batches have up to `batch_rows` samples. Collective.
    ///
    /// # Errors
    /// When ranks cannot communicate.
    pub fn new(
        mesh: &Mesh,
        plan: &TablePlan,
        parameters: &ParameterStore,
        network: &Network,
        batch_rows: usize,
    ) -> Result<Self, ModelError> {
        let layout = Layout::new(
            mesh.world.rank(),
            plan,
            parameters,
            network.remote_lookups(),
        );
        let share = batch_rows.div_ceil(mesh.tp.size());
        let sums = layout.tables.iter().map(|table| TableSum {
            fused: false,
            own: RowSum::new(parameters.table(table.id).dim()),
        });
        let rank = mesh.world.rank();
        Ok(Self {
            sums: sums.collect(),
            owned: OwnedIds::new(&layout),
            vectors: Some(mesh.tp.allocate(mesh.tp.size() * share * layout.columns)?),
            layout,
            id_comm: mesh.world.split(0, rank)?,
            world: Arc::clone(&mesh.world),
            tp: Arc::clone(&mesh.tp),
            share,
            requested: RequestedIds::default(),
            pooled: Vec::new(),
            rows: Vec::new(),
            unique_groups: Groups::default(),
            collected: 0,
        })
    }

    /// Sends the ids of a batch to their owners. Returns at once.
    ///
    /// # Errors
    /// When an id is outside its table.
    pub fn send_ids(&self, batch: &BatchInput<'_>) -> Result<PendingIds, ModelError> {
        let first = (self.tp.rank() * self.share).min(batch.rows());
        let samples = first..batch.rows().min(first + self.share);
        let requested = RequestedIds::new(&self.layout, batch, samples)?;
        let messages = requested.messages(&self.layout, batch);
        Ok(PendingIds {
            requested,
            rows: batch.rows(),
            event: self.id_comm.all_to_all_bytes(messages),
        })
    }

    /// Brings the vectors of a batch whose ids were sent, with the weights as they are now. Returns how
    /// long it waited.
    ///
    /// # Errors
    /// When ranks cannot communicate, or a message contradicts itself.
    pub fn fetch(
        &mut self,
        context: &Context,
        parameters: &ParameterStore,
        pending: PendingIds,
    ) -> Result<(TensorRef<'_>, Duration), ModelError> {
        let start = Instant::now();
        let messages = pending.event.wait()?;
        let mut waited = start.elapsed();
        self.requested = pending.requested;
        self.owned.read(&self.layout, &messages)?;
        let answers = self.answers(context, parameters)?;
        let start = Instant::now();
        let answers = self.world.all_to_all_bytes(answers).wait()?;
        waited += start.elapsed();
        let mut vectors = self.vectors.take().ok_or(CommError::Abandoned)?;
        let own = self.own_place();
        self.assemble(context, &answers, &mut vectors[own])?;
        let start = Instant::now();
        let vectors = self.vectors.insert(self.tp.all_gather(vectors).wait()?);
        waited += start.elapsed();
        let (rows, columns) = (pending.rows, self.layout.columns);
        let vectors = TensorRef::from_f32(&vectors[..rows * columns], &[rows, columns]);
        Ok((vectors, waited))
    }

    /// Where this rank's vectors lie among those of its group.
    fn own_place(&self) -> Range<usize> {
        let first = self.tp.rank() * self.share * self.layout.columns;
        first..first + self.requested.samples.len() * self.layout.columns
    }

    /// As an owner: what each rank asked for.
    fn answers(
        &mut self,
        context: &Context,
        parameters: &ParameterStore,
    ) -> Result<Vec<Vec<u8>>, ModelError> {
        let (own, bags) = (self.layout.own(), self.owned.bags());
        self.pooled.resize(bags.batch * own.width, 0.0);
        let lookups = own.pooled.iter().enumerate().map(|(feature, part)| Lookup {
            feature,
            table: parameters.table(self.layout.tables[part.table].id).view(),
            pooling: Pooling::Sum,
            column: part.first,
        });
        let lookups: Vec<_> = lookups.collect();
        let out = TensorMut::from_f32(&mut self.pooled, &[bags.batch, own.width]);
        embedding_bag::forward(context, &bags, &lookups, out)
            .map_err(ModelError::kernel("the lookup of other ranks' ids"))?;
        let mut first = 0;
        let mut answers = Vec::with_capacity(self.owned.samples.len());
        for (rank, &samples) in self.owned.samples.iter().enumerate() {
            let mut answer = Vec::new();
            let end = first + samples * own.width;
            put(&mut answer, &self.pooled[first..end]);
            first = end;
            for (part, of_ranks) in own.unique.iter().zip(&self.owned.unique) {
                let table = parameters.table(self.layout.tables[part.table].id).view();
                for &id in &of_ranks[rank] {
                    put(&mut answer, table.row(id as usize));
                }
            }
            answers.push(answer);
        }
        Ok(answers)
    }

    /// Puts together what the owners sent: `vectors: [samples, columns]`.
    fn assemble(
        &mut self,
        context: &Context,
        answers: &[Vec<u8>],
        vectors: &mut [f32],
    ) -> Result<(), ModelError> {
        vectors.fill(0.0);
        let samples = self.requested.samples.len();
        let mut readers = Vec::with_capacity(answers.len());
        for (rank, (answer, owner)) in answers.iter().zip(&self.layout.owners).enumerate() {
            let mut words = Words::<f32>::new(rank, answer)?;
            let matrix = words.take(samples * owner.width)?;
            self.add_pooled(owner, matrix, vectors);
            readers.push(words);
        }
        for table in 0..self.layout.tables.len() {
            self.pool_rows(context, table, &mut readers, vectors)?;
        }
        readers.into_iter().try_for_each(Words::end)
    }

    /// Adds an owner's pooled vectors, `matrix: [samples, width]`, to their columns.
    fn add_pooled(&self, owner: &OwnerLayout, matrix: &[f32], vectors: &mut [f32]) {
        let columns = self.layout.columns;
        for part in &owner.pooled {
            let lookup = &self.layout.lookups[part.lookup];
            let inverse_lengths = &self.requested.inverse_lengths[part.lookup];
            let first = lookup.column + part.columns.start;
            for sample in 0..self.requested.samples.len() {
                let from = &matrix[sample * owner.width + part.first..][..part.columns.len()];
                let into = &mut vectors[sample * columns + first..][..part.columns.len()];
                let scale = inverse_lengths.get(sample).copied().unwrap_or(1.0);
                into.iter_mut().zip(from).for_each(|(v, x)| *v += scale * x);
            }
        }
    }

    /// Pools the rows of a table whose ids traveled once into their columns.
    fn pool_rows(
        &mut self,
        context: &Context,
        table: usize,
        readers: &mut [Words<f32>],
        vectors: &mut [f32],
    ) -> Result<(), ModelError> {
        let shared = &self.layout.tables[table];
        if !self.layout.unique_tables().any(|(index, _)| index == table) {
            return Ok(());
        }
        let unique = self.requested.unique_of(&self.layout, table);
        let (ids, dim) = (unique.ids.len(), shared.dim);
        self.rows.resize(ids * dim, 0.0);
        for (owner, words) in self.layout.owners.iter().zip(readers) {
            for part in owner.unique.iter().filter(|part| part.table == table) {
                for id in unique.within(&part.rows) {
                    let from = words.take(part.columns.len())?;
                    self.rows[id * dim..][part.columns.clone()].copy_from_slice(from);
                }
            }
        }
        let (samples, columns) = (self.requested.samples.len(), self.layout.columns);
        let lookups = shared.lookups.iter().enumerate().map(|(feature, &lookup)| {
            let lookup = &self.layout.lookups[lookup];
            Lookup {
                feature,
                table: TensorRef::from_f32(&self.rows, &[ids, dim]),
                pooling: lookup.source.pooling,
                column: lookup.column,
            }
        });
        let lookups: Vec<_> = lookups.collect();
        let out = TensorMut::from_f32(vectors, &[samples, columns]);
        embedding_bag::forward(context, &unique.bags(samples), &lookups, out)
            .map_err(ModelError::kernel("the pooling of rows"))
    }

    /// Sends the gradients of a backward pass to the owners of their rows, and sums them there; `last`
    /// tells that no other micro-batch follows before the update. Returns how long it waited.
    ///
    /// # Errors
    /// When ranks cannot communicate, or a message contradicts itself.
    pub fn collect(
        &mut self,
        context: &Context,
        network: &Network,
        last: bool,
    ) -> Result<Duration, ModelError> {
        let messages = self.gradient_messages(context, network)?;
        let start = Instant::now();
        let messages = self.world.all_to_all_bytes(messages).wait()?;
        let waited = start.elapsed();
        let width = self.layout.own().width;
        let mut readers = Vec::with_capacity(messages.len());
        self.pooled.clear();
        for (rank, message) in messages.iter().enumerate() {
            let mut words = Words::<f32>::new(rank, message)?;
            let matrix = words.take(self.owned.samples[rank] * width)?;
            self.pooled.extend_from_slice(matrix);
            readers.push(words);
        }
        self.owned.group(context)?;
        self.sum_pooled(context, self.collected == 0 && last)?;
        self.sum_rows(context, &mut readers)?;
        self.collected = if last { 0 } else { self.collected + 1 };
        readers.into_iter().try_for_each(Words::end)?;
        Ok(waited)
    }

    /// What each owner gets: gradients of pooled vectors, then those of rows.
    fn gradient_messages(
        &mut self,
        context: &Context,
        network: &Network,
    ) -> Result<Vec<Vec<u8>>, ModelError> {
        let samples = self.requested.samples.clone();
        let gradients: Vec<TensorRef<'_>> = self
            .layout
            .lookups
            .iter()
            .map(|lookup| network.remote_gradient(lookup).rows(samples.clone()))
            .collect();
        let mut messages = Vec::with_capacity(self.layout.owners.len());
        let mut scaled = Vec::new();
        for owner in &self.layout.owners {
            let mut message = Vec::new();
            for sample in 0..samples.len() {
                for part in &owner.pooled {
                    let gradient = &gradients[part.lookup].row(sample)[part.columns.clone()];
                    let inverse_lengths = &self.requested.inverse_lengths[part.lookup];
                    match inverse_lengths.get(sample) {
                        None => put(&mut message, gradient),
                        Some(scale) => {
                            scaled.clear();
                            scaled.extend(gradient.iter().map(|g| scale * g));
                            put(&mut message, &scaled);
                        }
                    }
                }
            }
            messages.push(message);
        }
        for table in 0..self.layout.tables.len() {
            self.put_row_gradients(context, table, &gradients, &mut messages)?;
        }
        Ok(messages)
    }

    /// Sums the gradient of each distinct id of a table, and appends it to the messages of its owners.
    fn put_row_gradients(
        &mut self,
        context: &Context,
        table: usize,
        gradients: &[TensorRef<'_>],
        messages: &mut [Vec<u8>],
    ) -> Result<(), ModelError> {
        if !self.layout.unique_tables().any(|(index, _)| index == table) {
            return Ok(());
        }
        let shared = &self.layout.tables[table];
        let unique = self.requested.unique_of(&self.layout, table);
        let (samples, dim) = (self.requested.samples.len(), shared.dim);
        // The lookups' gradients side by side: they may come from several nodes.
        let width = shared.lookups.len() * dim;
        self.rows.clear();
        for sample in 0..samples {
            for &lookup in &shared.lookups {
                self.rows.extend_from_slice(gradients[lookup].row(sample));
            }
        }
        let sources = shared.lookups.iter().enumerate();
        let sources: Vec<BagSource> = sources
            .map(|(feature, &lookup)| BagSource {
                feature,
                pooling: self.layout.lookups[lookup].source.pooling,
                column: feature * dim,
            })
            .collect();
        let features: Vec<usize> = (0..shared.lookups.len()).collect();
        let (bags, groups) = (unique.bags(samples), &mut self.unique_groups);
        let dout = TensorRef::from_f32(&self.rows, &[samples, width]);
        let mut sum = RowGradients::default();
        groups
            .build(context, &bags, &features, unique.ids.len())
            .and_then(|()| segment_sum(context, groups, dim, &sources, dout, &mut sum))
            .map_err(ModelError::kernel("the sum of a table's gradient"))?;
        // Every distinct id is in some bag, so row i of the sum is that of id i.
        for (owner, message) in self.layout.owners.iter().zip(messages) {
            for part in owner.unique.iter().filter(|part| part.table == table) {
                for id in unique.within(&part.rows) {
                    put(message, &sum.rows[id * dim..][part.columns.clone()]);
                }
            }
        }
        Ok(())
    }

    /// As an owner: takes up the gradients of pooled vectors.
    fn sum_pooled(&mut self, context: &Context, alone: bool) -> Result<(), ModelError> {
        let own = self.layout.own();
        let samples = self.pooled.len().checked_div(own.width).unwrap_or(0);
        let dout = TensorRef::from_f32(&self.pooled, &[samples, own.width]);
        for (pooled, groups) in self.owned.grouped() {
            let table = &self.layout.tables[pooled.table];
            let sum = &mut self.sums[pooled.table];
            // The columns of a row at other ranks take part in its update.
            sum.fused = alone && table.placement != Placement::ColumnWise;
            if sum.fused {
                continue;
            }
            let dim = own
                .pooled
                .iter()
                .find(|part| part.table == pooled.table)
                .map_or(0, |part| part.columns.len());
            sum.own.add(context, self.collected, |into| {
                segment_sum(context, groups, dim, &pooled.sources, dout, into)
                    .map_err(ModelError::kernel("the sum of a table's gradient"))
            })?;
        }
        Ok(())
    }

    /// As an owner: takes up the gradients of rows.
    fn sum_rows(
        &mut self,
        context: &Context,
        readers: &mut [Words<f32>],
    ) -> Result<(), ModelError> {
        let own = self.layout.own();
        for (part, of_ranks) in own.unique.iter().zip(&self.owned.unique) {
            let dim = part.columns.len();
            let parts = of_ranks.iter().zip(&mut *readers).map(|(ids, words)| {
                let rows = words.take(ids.len() * dim)?;
                Ok(RowGradientsRef { ids, rows })
            });
            let parts = parts.collect::<Result<Vec<_>, ModelError>>()?;
            self.sums[part.table]
                .own
                .add(context, self.collected, |into| {
                    embedding_bag::merge(context, &parts, dim, into).map_err(ModelError::kernel(
                        "the sum of a table's gradients over the ranks",
                    ))
                })?;
        }
        Ok(())
    }

    /// The gradient of what this rank holds of a table, over all micro-batches and ranks, for one
    /// update; `None` for a replicated one.
    pub fn gradient(&self, table: TableId) -> Option<SparseGradient<'_>> {
        let index = self.layout.tables.iter().position(|t| t.id == table)?;
        let sum = &self.sums[index];
        if !sum.fused {
            return Some(SparseGradient::Rows(&sum.own.sum));
        }
        let mut grouped = self.owned.grouped();
        let (pooled, groups) = grouped.find(|(pooled, _)| pooled.table == index)?;
        let width = self.layout.own().width;
        let samples = self.pooled.len().checked_div(width).unwrap_or(0);
        Some(SparseGradient::Bags {
            groups,
            sources: &pooled.sources,
            dout: TensorRef::from_f32(&self.pooled, &[samples, width]),
        })
    }
}
