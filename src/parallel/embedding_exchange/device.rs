//! Lookups in sharded tables whose vectors and gradients travel between devices: here the ids alone.

use std::sync::Arc;

use streamrec_kernels::embedding_bag::Pooling;

use super::{PendingIds, layout::Layout, owned_ids::OwnedIds, requested_ids::RequestedIds};
use crate::{
    comm::Communicator,
    config::{Payload, Placement},
    model::{
        BatchInput, ModelError, ParameterStore, RemoteLookup,
        device::{RemoteRoom, RowBlock, RowShards, RowTable, ShardPart, Shards, share},
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
            unrounded: false,
            tp: self.tp,
        }
    }

    /// What each rank holds of the tables whose ids travel once.
    pub fn row_shards(&self) -> RowShards {
        let layout = &self.layout;
        let numbers: Vec<usize> = layout.unique_tables().map(|(index, _)| index).collect();
        let number = |table: usize| {
            numbers
                .iter()
                .position(|&index| index == table)
                .unwrap_or(0)
        };
        let (mut owners, mut blocks) = (Vec::new(), Vec::new());
        for owner in &layout.owners {
            let (mut parts, mut places, mut first) = (Vec::new(), Vec::new(), 0);
            for (feature, part) in owner.unique.iter().enumerate() {
                let ranges = layout.row_blocks(part.table);
                places.push(RowBlock {
                    table: number(part.table),
                    block: ranges
                        .iter()
                        .position(|range| *range == part.rows)
                        .unwrap_or(0),
                });
                parts.push(ShardPart::of_rows(
                    layout.tables[part.table].id,
                    feature,
                    (part.columns.clone(), first),
                ));
                first += part.columns.len();
            }
            owners.push(parts);
            blocks.push(places);
        }
        let tables = layout.unique_tables().map(|(index, table)| RowTable {
            dim: table.dim,
            blocks: layout.row_blocks(index).len(),
            lookups: table
                .lookups
                .iter()
                .map(|&lookup| layout.lookups[lookup])
                .collect(),
        });
        RowShards {
            shards: Shards {
                rank: layout.rank,
                owners,
                lookups: Vec::new(),
                payloads: self.payloads,
                unrounded: false,
                tp: [0, 1],
            },
            blocks,
            tables: tables.collect(),
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

    /// Waits for the ids that all ranks look up here; where owners pool vectors, each in a batch of as many samples.
    ///
    /// # Errors
    /// When ranks cannot communicate, or owners pool vectors and batches have different sizes.
    pub fn receive(&mut self, pending: PendingIds) -> Result<OwnedBags, ModelError> {
        let messages = pending.event.wait()?;
        let spare = self.spare.pop();
        let mut owned = spare.unwrap_or_else(|| OwnedIds::new(&self.layout));
        owned.read(&self.layout, &messages)?;
        // Where each id travels once, ranks may have different numbers of samples, as micro-shards do.
        let owners = &self.layout.owners;
        let pools = owners.iter().any(|owner| !owner.pooled.is_empty());
        for (rank, &got) in owned.samples.iter().enumerate() {
            let expected = share(pending.rows, [rank % self.tp[1], self.tp[1]]).len();
            if pools && got != expected {
                return Err(ModelError::Batch {
                    what: "the samples of another rank's batch",
                    expected: expected.to_string(),
                    got: got.to_string(),
                });
            }
        }
        Ok(OwnedBags {
            owned,
            requested: pending.requested,
        })
    }

    /// Takes memory back.
    pub fn give_back(&mut self, bags: OwnedBags) {
        self.spare.push(bags.owned);
    }
}

/// Ids and where the bags of them begin, as [`Bags`](streamrec_kernels::embedding_bag::Bags) have them.
#[derive(Debug, Default)]
pub struct HostBags {
    /// Of all bags.
    pub ids: Vec<i64>,
    /// Bags, and one more.
    pub offsets: Vec<i64>,
}

impl DeviceLookups {
    /// The ids that travel once and are asked for here, `rows` of each rank, bags of at most one: the owner's parts are
    /// the features.
    pub fn rows_of_ranks(&self, bags: &OwnedBags, rows: usize) -> HostBags {
        let (ids, offsets) = bags.owned.rows_of_ranks(rows);
        HostBags { ids, offsets }
    }

    /// This rank's lookups in tables whose ids travel once, as positions among the rows that come: `rows` of each owner.
    pub fn positions(&self, bags: &OwnedBags, rows: usize) -> HostBags {
        let (ids, offsets) = bags.requested.positions(&self.layout, rows);
        HostBags { ids, offsets }
    }
}

/// The lookups of all ranks in the tables that one holds: as [`Bags`](streamrec_kernels::embedding_bag::Bags), its parts
/// being the features and the samples of all ranks, in their order, one batch.
#[derive(Debug)]
pub struct OwnedBags {
    owned: OwnedIds,
    requested: RequestedIds,
}

impl OwnedBags {
    /// Samples of all ranks.
    pub fn samples(&self) -> usize {
        self.owned.bags().batch
    }

    /// Of all bags, part by part.
    pub fn ids(&self) -> &[i64] {
        self.owned.bags().ids
    }

    /// `[parts * samples + 1]`
    pub fn offsets(&self) -> &[i64] {
        self.owned.bags().offsets
    }

    /// The room that is needed on every rank.
    pub fn needs(&self) -> RemoteRoom {
        let needs = &self.owned.needs;
        RemoteRoom {
            ids: needs.pooled.iter().copied().max().unwrap_or(0),
            rows: needs.rows,
            positions: needs.positions,
        }
    }
}
