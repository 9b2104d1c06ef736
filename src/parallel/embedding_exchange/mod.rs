//! Lookups in sharded tables: ids to the owners, vectors back, gradients to the owners.
//!
//! ```text
//!            every rank                              owner of a shard
//! send_ids        lengths and ids, or each id once  ──►   bags, or ids, of all ranks
//! send_vectors    vectors of its samples            ◄──   pooled vectors, or rows
//! receive         (pooled here where rows came)
//! send_gradients  gradients of vectors, or of rows  ──►
//! collect                                                 summed by row, each row updated once
//! ```
//!
//! Each of the three exchanges is sent by one call and waited for by a later one, so that something else is computed
//! meanwhile: ids for a whole batch; vectors while dense weights are updated and layers without embeddings go forward;
//! gradients while those layers go backward. Of a batch in several pieces, vectors and gradients of some travel while
//! others are computed.
//!
//! Of the samples that a tensor-parallel group shares each rank looks up its own part, and the group
//! gathers the vectors; backward, each rank sends the gradient of its part. Ids of the next batch travel
//! while this one computes: they depend on no weight.
//!
//! Never does: update a row, or read a table that it does not hold.

mod device;
mod gradients;
mod layout;
mod owned_ids;
mod payload;
mod requested_ids;
#[cfg(test)]
mod tests;
mod vectors;
mod wire;

use std::{
    mem,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use streamrec_kernels::{
    Context, TensorRef, embedding_bag::Groups, norm, sparse_optimizer::SparseGradient,
};

use tracing::trace_span;

pub use self::device::{DeviceLookups, HostBags, OwnedBags};
use self::{layout::Layout, owned_ids::OwnedIds, requested_ids::RequestedIds, wire::Words};
use super::{Mesh, TablePlan, row_sum::RowSum};
use crate::{
    comm::{CommBuffer, CommError, Communicator, Event, Message},
    config::{Payload, Reduction},
    model::{BatchInput, ModelError, Network, ParameterStore, TableId},
};

/// The ids of a batch on their way to the owners.
#[must_use = "ids that were sent must be fetched, on every rank"]
pub struct PendingIds {
    requested: RequestedIds,
    rows: usize,
    event: Event<Vec<Message>>,
}

/// The vectors of a batch on their way from the owners, as the weights were when they were sent.
#[must_use = "vectors that were sent must be received, on every rank"]
pub struct PendingVectors {
    requested: RequestedIds,
    owned: OwnedIds,
    rows: usize,
    event: Event<Vec<Message>>,
    /// How long the ids were waited for.
    waited: Duration,
}

/// Gradients on their way to the owners of their rows.
#[must_use = "gradients that were sent must be collected, on every rank"]
pub struct PendingGradients {
    owned: OwnedIds,
    event: Event<Vec<Message>>,
}

/// One rank's part in the lookups of sharded tables. Every call is collective, in the world.
pub struct EmbeddingExchange {
    layout: Layout,
    /// How vectors travel, and gradients.
    payloads: [Payload; 2],
    world: Arc<dyn Communicator>,
    /// Of all ranks too, so that ids overtake nothing.
    id_comm: Arc<dyn Communicator>,
    tp: Arc<dyn Communicator>,
    /// Samples of a rank's share of its group's batch.
    share: usize,
    /// Of the batch whose vectors were received last.
    requested: RequestedIds,
    /// Of the same batch, until its gradients are sent.
    asked: Option<OwnedIds>,
    /// Of the batch whose gradients were collected last.
    owned: OwnedIds,
    /// The memory of batches before.
    spare_owned: Vec<OwnedIds>,
    /// `[tp, share, columns]`, in place between fetches.
    vectors: Option<CommBuffer>,
    /// As an owner: the pooled vectors of all ranks, then their gradients, `[samples, width]`.
    pooled: Vec<f32>,
    /// Rows of a table whose ids travel once, `[ids, dim]`; then their gradients.
    rows: Vec<f32>,
    /// Messages that were read, whose memory the next ones take.
    spare: Vec<Message>,
    /// Of the tables by their index.
    sums: Vec<TableSum>,
    /// Groups of a table whose ids travel once.
    unique_groups: Groups,
    /// Micro-batches collected since the last update.
    collected: usize,
    /// Whether sums must be there before the update.
    sums_first: bool,
}

#[derive(Default)]
struct TableSum {
    /// Whether the sum over the samples is left to the update.
    fused: bool,
    own: RowSum,
    /// Of each rank, where these are added up in a tree after all micro-shards; else empty.
    sources: Vec<RowSum>,
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
        reduction: Reduction,
        batch_rows: usize,
    ) -> Result<Self, ModelError> {
        let layout = Layout::new(
            mesh.world.rank(),
            plan,
            parameters,
            network.remote_lookups(),
        );
        let share = batch_rows.div_ceil(mesh.tp.size());
        let ranks = mesh.world.size();
        let sums = layout.tables.iter().map(|table| {
            let sum = || RowSum::new(parameters.table(table.id).dim(), reduction);
            let sources = match reduction {
                Reduction::Fast => Vec::new(),
                Reduction::Invariant => (0..ranks).map(|_| sum()).collect(),
            };
            TableSum {
                fused: false,
                own: sum(),
                sources,
            }
        });
        let rank = mesh.world.rank();
        Ok(Self {
            sums: sums.collect(),
            owned: OwnedIds::new(&layout),
            vectors: Some(mesh.tp.allocate(mesh.tp.size() * share * layout.columns)?),
            layout,
            payloads: [plan.vectors(), plan.gradients()],
            id_comm: mesh.world.split(0, rank)?,
            world: Arc::clone(&mesh.world),
            tp: Arc::clone(&mesh.tp),
            share,
            requested: RequestedIds::default(),
            asked: None,
            spare_owned: Vec::new(),
            pooled: Vec::new(),
            rows: Vec::new(),
            spare: Vec::new(),
            unique_groups: Groups::default(),
            collected: 0,
            sums_first: false,
        })
    }

    /// Forms all sums before the update, so that they can be tested.
    pub fn with_sums_first(mut self, sums_first: bool) -> Self {
        self.sums_first = sums_first;
        self
    }

    /// Multiplies all sums that this rank owns by a factor; returns whether all were finite. After the
    /// last [`collect`](Self::collect), with sums that were formed first.
    pub fn scale_if_finite(&mut self, context: &Context, factor: f32) -> bool {
        let mut finite = true;
        // Every table is scaled, whatever another held.
        for table in &mut self.sums {
            finite &= norm::scale_if_finite(context, &mut table.own.sum.rows, factor);
        }
        finite
    }

    /// Sends the ids of a batch to their owners. Returns at once.
    ///
    /// # Errors
    /// When an id is outside its table.
    pub fn send_ids(&self, batch: &BatchInput<'_>) -> Result<PendingIds, ModelError> {
        let first = (self.tp.rank() * self.share).min(batch.rows());
        let samples = first..batch.rows().min(first + self.share);
        let _span = trace_span!("send ids").entered();
        let requested = RequestedIds::new(&self.layout, batch, samples)?;
        let messages = requested.messages(&*self.id_comm, &self.layout, batch);
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
        let vectors = self.send_vectors(context, parameters, pending)?;
        self.receive(context, vectors)
    }

    /// As an owner: sends the vectors that all ranks asked for, with the weights as they are now. Returns at once when
    /// the ids are there: do something else before [`receive`](Self::receive).
    ///
    /// # Errors
    /// When ranks cannot communicate, or a message contradicts itself.
    pub fn send_vectors(
        &mut self,
        context: &Context,
        parameters: &ParameterStore,
        pending: PendingIds,
    ) -> Result<PendingVectors, ModelError> {
        let _span = trace_span!("send vectors").entered();
        let start = Instant::now();
        let messages = trace_span!("wait for ids").in_scope(|| pending.event.wait())?;
        let waited = start.elapsed();
        let spare = self.spare_owned.pop();
        let mut owned = spare.unwrap_or_else(|| OwnedIds::new(&self.layout));
        trace_span!("read ids").in_scope(|| owned.read(&self.layout, &messages))?;
        let answers = self.answers(context, parameters, &owned)?;
        let [payload, _] = self.payloads;
        Ok(PendingVectors {
            requested: pending.requested,
            owned,
            rows: pending.rows,
            event: self.send(answers, payload),
            waited,
        })
    }

    /// The vectors of a batch. Returns how long it waited for ids and vectors. The next
    /// [`send_gradients`](Self::send_gradients) is of this batch.
    ///
    /// # Errors
    /// When ranks cannot communicate, or a message contradicts itself.
    pub fn receive(
        &mut self,
        context: &Context,
        pending: PendingVectors,
    ) -> Result<(TensorRef<'_>, Duration), ModelError> {
        let _span = trace_span!("fetch vectors").entered();
        let [payload, _] = self.payloads;
        let (answers, time) = received(pending.event, payload)?;
        let mut waited = pending.waited + time;
        self.requested = pending.requested;
        // Gradients of what was only predicted were never sent.
        self.spare_owned.extend(self.asked.replace(pending.owned));
        let mut vectors = self.vectors.take().ok_or(CommError::Abandoned)?;
        let own = self.own_place();
        self.assemble(context, &answers, &mut vectors[own])?;
        self.spare.extend(answers);
        let start = Instant::now();
        let vectors = trace_span!("wait for the group's vectors")
            .in_scope(|| self.tp.all_gather(vectors).wait())?;
        let vectors = self.vectors.insert(vectors);
        waited += start.elapsed();
        let (rows, columns) = (pending.rows, self.layout.columns);
        let vectors = TensorRef::from_f32(&vectors[..rows * columns], &[rows, columns]);
        Ok((vectors, waited))
    }

    /// Begins to exchange messages of float32.
    fn send(&self, messages: Vec<Message>, payload: Payload) -> Event<Vec<Message>> {
        let messages = messages.into_iter();
        let messages = messages.map(|message| payload::narrow(message, payload));
        self.world.all_to_all_bytes(messages.collect())
    }

    /// Where this rank's vectors lie among those of its group.
    fn own_place(&self) -> Range<usize> {
        let first = self.tp.rank() * self.share * self.layout.columns;
        first..first + self.requested.samples.len() * self.layout.columns
    }

    /// Sends the gradients of a backward pass, of the batch whose vectors were received last, to the owners of their
    /// rows. Returns at once: do something else before [`collect`](Self::collect).
    ///
    /// # Errors
    /// When no vectors were received since, or shapes do not fit, which a planned network rules out.
    pub fn send_gradients(
        &mut self,
        context: &Context,
        network: &Network,
    ) -> Result<PendingGradients, ModelError> {
        let _span = trace_span!("send gradients").entered();
        let messages = self.gradient_messages(context, network)?;
        let [_, payload] = self.payloads;
        Ok(PendingGradients {
            owned: self.asked.take().ok_or(CommError::Abandoned)?,
            event: self.send(messages, payload),
        })
    }

    /// As an owner: sums gradients, in the order in which they were sent; `last` tells that no other micro-batch follows
    /// before the update. Returns how long it waited.
    ///
    /// # Errors
    /// When ranks cannot communicate, or a message contradicts itself.
    pub fn collect(
        &mut self,
        context: &Context,
        pending: PendingGradients,
        last: bool,
    ) -> Result<Duration, ModelError> {
        let _span = trace_span!("read gradients").entered();
        self.spare_owned
            .push(mem::replace(&mut self.owned, pending.owned));
        trace_span!("group ids by row").in_scope(|| self.owned.group(context))?;
        let [_, payload] = self.payloads;
        let (messages, waited) = received(pending.event, payload)?;
        let width = self.layout.own().width;
        let mut readers = Vec::with_capacity(messages.len());
        self.pooled.clear();
        for (rank, message) in messages.iter().enumerate() {
            let mut words = Words::<f32>::new(rank, message)?;
            let matrix = words.take(self.owned.samples[rank] * width)?;
            self.pooled.extend_from_slice(matrix);
            readers.push(words);
        }
        trace_span!("sum table gradients").in_scope(|| {
            self.sum_pooled(context, last)?;
            self.sum_rows(context, last, &mut readers)
        })?;
        self.collected = if last { 0 } else { self.collected + 1 };
        readers.into_iter().try_for_each(Words::end)?;
        self.spare.extend(messages);
        Ok(waited)
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

/// A message to write, in the memory of one that was read if there is any.
fn empty_message(spare: &mut Vec<Message>, comm: &dyn Communicator) -> Message {
    let mut message = spare.pop().unwrap_or_else(|| comm.message());
    message.clear();
    message
}

/// Waits for messages of float32; tells how long.
fn received(
    event: Event<Vec<Message>>,
    payload: Payload,
) -> Result<(Vec<Message>, Duration), ModelError> {
    let start = Instant::now();
    let received = trace_span!("wait for an exchange").in_scope(|| event.wait())?;
    let waited = start.elapsed();
    let received = received.into_iter().enumerate();
    let received = received.map(|(rank, message)| payload::widen(rank, message, payload));
    Ok((received.collect::<Result<_, _>>()?, waited))
}
