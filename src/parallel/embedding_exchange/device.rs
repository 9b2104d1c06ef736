//! Lookups in sharded tables whose vectors and gradients travel between devices: here the ids alone.

use std::sync::Arc;

use streamrec_kernels::embedding_bag::Pooling;

use super::{PendingIds, layout::Layout, owned_ids::OwnedIds, requested_ids::RequestedIds};
use crate::{
    comm::Communicator,
    config::{Exchange, Payload, Placement},
    model::{
        BatchInput, ModelError, ParameterStore, RemoteLookup,
        device::{ShardPart, Shards, share},
    },
    parallel::{Mesh, TablePlan},
};

/// Brings the ids of a batch to the ranks whose devices hold the rows. Every call is collective, in the world.
pub struct DeviceLookups {
    layout: Layout,
    /// This rank's place in its tensor-parallel group: each looks up a part of its samples.
    tp: [usize; 2],
    payloads: [Payload; 2],
    comm: Arc<dyn Communicator>,
    /// The memory of batches before.
    spare: Vec<OwnedIds>,
}

impl DeviceLookups {
    /// For the sharded tables of a plan. Collective.
    ///
    /// # Errors
    /// When ranks cannot communicate.
    pub fn new(
        mesh: &Mesh,
        plan: &TablePlan,
        parameters: &ParameterStore,
        lookups: &[RemoteLookup],
    ) -> Result<Self, ModelError> {
        let layout = Layout::new(mesh.world.rank(), plan, parameters, lookups);
        Ok(Self {
            spare: Vec::new(),
            tp: [mesh.tp.rank(), mesh.tp.size()],
            payloads: [plan.vectors(), plan.gradients()],
            comm: mesh.world.split(0, mesh.world.rank())?,
            layout,
        })
    }

    /// What each rank holds.
    pub fn shards(&self) -> Shards {
        let part = |part: &super::layout::PooledPart| {
            let lookup = self.layout.lookups[part.lookup];
            let placement = self.layout.tables[part.table].placement;
            let is_mean = lookup.source.pooling == Pooling::Mean;
            ShardPart {
                lookup,
                columns: part.columns.clone(),
                first: part.first,
                divided_by_asker: is_mean && placement == Placement::RowWise,
            }
        };
        let owners = self.layout.owners.iter();
        Shards {
            rank: self.layout.rank,
            owners: owners
                .map(|owner| owner.pooled.iter().map(part).collect())
                .collect(),
            lookups: self.layout.lookups.clone(),
            payloads: self.payloads,
            tp: self.tp,
        }
    }

    /// Sends the ids of a batch to their owners. Returns at once.
    ///
    /// # Errors
    /// When an id is outside its table.
    pub fn send(&self, batch: &BatchInput<'_>) -> Result<PendingIds, ModelError> {
        let requested = RequestedIds::new(&self.layout, batch, share(batch.rows(), self.tp))?;
        let messages = requested.messages(&*self.comm, &self.layout, batch);
        Ok(PendingIds {
            requested,
            rows: batch.rows(),
            event: self.comm.all_to_all_bytes(messages),
        })
    }

    /// Waits for the ids that all ranks look up here, each in a batch of as many samples.
    ///
    /// # Errors
    /// When ranks cannot communicate, or their batches have different sizes.
    pub fn receive(&mut self, pending: PendingIds) -> Result<OwnedBags, ModelError> {
        let messages = pending.event.wait()?;
        let spare = self.spare.pop();
        let mut owned = spare.unwrap_or_else(|| OwnedIds::new(&self.layout));
        owned.read(&self.layout, &messages)?;
        for (rank, &got) in owned.samples.iter().enumerate() {
            let expected = share(pending.rows, [rank % self.tp[1], self.tp[1]]).len();
            if got != expected {
                return Err(ModelError::Batch {
                    what: "the samples of another rank's batch",
                    expected: expected.to_string(),
                    got: got.to_string(),
                });
            }
        }
        Ok(OwnedBags(owned))
    }

    /// Takes memory back.
    pub fn give_back(&mut self, bags: OwnedBags) {
        self.spare.push(bags.0);
    }
}

/// The lookups of all ranks in the tables that one holds: as [`Bags`](streamrec_kernels::embedding_bag::Bags), its parts
/// being the features and the samples of all ranks, in their order, one batch.
#[derive(Debug)]
pub struct OwnedBags(OwnedIds);

impl OwnedBags {
    /// Samples of all ranks.
    pub fn samples(&self) -> usize {
        self.0.bags().batch
    }

    /// Of all bags, part by part.
    pub fn ids(&self) -> &[i64] {
        self.0.bags().ids
    }

    /// `[parts * samples + 1]`
    pub fn offsets(&self) -> &[i64] {
        self.0.bags().offsets
    }
}

impl TablePlan {
    /// Why devices cannot keep the tables so, if they cannot.
    pub fn refused_by_devices(&self) -> Option<String> {
        if self.is_replicated() {
            return None;
        }
        let sharded = self.tables().iter();
        let mut sharded = sharded.filter(|table| table.placement != Placement::Replicated);
        let unique = sharded.find(|table| table.exchange == Exchange::Unique)?;
        Some(format!(
            "`parallel.embeddings`, table `{}`: the exchange is \"unique\", expected \"pooled\"",
            unique.name
        ))
    }
}
