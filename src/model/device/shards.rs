//! Tables that lie in parts on the devices of several ranks: vectors and gradients travel between devices, inside the
//! recorded step.
//!
//! ```text
//!                 every rank                                     owner of a part
//! send_vectors    [rows, width] of each owner  ◄── all_to_all ──   bags of all ranks pooled, [ranks * rows, width]
//! receive         copied, or added, to where nodes read them; a tensor-parallel group gathers what each looked up
//! send_gradients  [rows, width] for each owner ──► all_to_all ──►  [ranks * rows, width], summed by row
//! ```
//!
//! Of the samples that a tensor-parallel group shares each rank looks up its own, and sends their gradients: `rows` are
//! these, and all ranks' together those of the data-parallel ranks.

use std::ops::Range;

use streamrec_kernels::DType;
use streamrec_kernels::cuda::{
    Address, Begun, Collective, DeviceError, Executor, Group, Launch, Matrix, add,
    embedding_bag::{self, Bags, Lookup},
};
use streamrec_kernels::embedding_bag::{BagSource, Pooling};

use super::{
    DeviceNetwork, DeviceWeights,
    memory::{DeviceBuffer, columns, element, rows},
    pass::Pass,
    requested_rows::DeviceRows,
    wire::{DeviceWire, Exchanged},
};
use crate::config::Payload;
use crate::model::{ModelError, ParameterStore, RemoteLookup, TableId, layers::PassError};

/// What ranks hold of sharded tables.
#[derive(Debug, Clone, Default)]
pub struct Shards {
    /// This rank.
    pub rank: usize,
    /// The lookups that each rank pools for all, in the order of the columns of its vectors. In an owner's bags they are
    /// the features.
    pub owners: Vec<Vec<ShardPart>>,
    /// The lookups in sharded tables.
    pub lookups: Vec<RemoteLookup>,
    /// How vectors travel, and gradients: in halves, or in the compute type where that is not said.
    pub payloads: [Payload; 2],
    /// What would travel in the compute type travels in float32, so that it is what tables on this device would give.
    pub unrounded: bool,
    /// This rank's place in its tensor-parallel group, whose ranks stand side by side: `[rank, ranks]`.
    pub tp: [usize; 2],
}

/// The samples of a batch of `rows` that a rank of a tensor-parallel group looks up: `[rank, ranks]`.
pub fn share(rows: usize, [rank, ranks]: [usize; 2]) -> Range<usize> {
    let most = rows.div_ceil(ranks);
    (rank * most).min(rows)..((rank + 1) * most).min(rows)
}

/// A lookup in the part of a table that one rank holds: all of it, some columns, or some rows, in which case the vectors
/// of all owners are to be added.
#[derive(Debug, Clone)]
pub struct ShardPart {
    /// The lookup.
    pub lookup: RemoteLookup,
    /// The columns of the lookup's vectors that are there.
    pub columns: Range<usize>,
    /// The first column of the owner's vectors.
    pub first: usize,
    /// The lookup is a mean over ids of which the owner has some: it adds up, and whoever asked divides.
    pub divided_by_asker: bool,
}

impl ShardPart {
    /// A part of a table whose rows are asked for: columns of them, which begin at one of the owner's; `feature` in its bags.
    pub fn of_rows(
        table: TableId,
        feature: usize,
        (columns, first): (Range<usize>, usize),
    ) -> Self {
        let source = BagSource {
            feature,
            pooling: Pooling::Sum,
            column: first,
        };
        Self {
            lookup: RemoteLookup {
                table,
                node: 0,
                source,
                column: first,
                dim: columns.len(),
            },
            columns,
            first,
            divided_by_asker: false,
        }
    }

    /// How the owner pools.
    pub(super) fn pooling(&self) -> Pooling {
        match self.divided_by_asker {
            true => Pooling::Sum,
            false => self.lookup.source.pooling,
        }
    }

    /// Copies, or adds, vectors or their gradients on their way between owner and asker.
    fn copy(
        &self,
        (bags, samples): (Bags, &Range<usize>),
        [from, to]: [&Matrix; 2],
        accumulate: bool,
    ) -> streamrec_kernels::Result<Launch> {
        if !self.divided_by_asker {
            return add::copy(from, to, accumulate);
        }
        let first = self.lookup.source.feature * bags.batch + samples.start;
        let offsets = Address(bags.offsets.0 + (first * size_of::<i64>()) as u64);
        add::copy_mean(from, to, offsets, accumulate)
    }

    /// Its columns among the owner's.
    fn at_owner(&self) -> Range<usize> {
        self.first..self.first + self.columns.len()
    }

    /// Its columns among all vectors of whoever asked.
    fn at_asker(&self) -> Range<usize> {
        let first = self.lookup.column;
        first + self.columns.start..first + self.columns.end
    }

    /// Its columns in the value of the node that reads it.
    fn at_node(&self) -> Range<usize> {
        let first = self.lookup.source.column;
        first + self.columns.start..first + self.columns.end
    }
}

impl Shards {
    /// What this rank pools.
    pub fn own(&self) -> &[ShardPart] {
        &self.owners[self.rank]
    }

    /// Columns of all vectors that a sample looks up.
    fn columns(&self) -> usize {
        self.lookups.iter().map(|lookup| lookup.dim).sum()
    }

    /// The samples that a rank of all looks up.
    fn share_of(&self, rank: usize, rows: usize) -> Range<usize> {
        share(rows, [rank % self.tp[1], self.tp[1]])
    }

    /// Columns of an owner's vectors.
    fn width(&self, owner: usize) -> usize {
        let parts = self.owners[owner].iter();
        parts.map(|part| part.columns.len()).sum()
    }
}

/// The memory of what travels, in the compute type; where it is to travel in half the bytes, in float32.
#[derive(Debug)]
pub(super) struct DeviceShards {
    shards: Shards,
    lookups: Vec<Lookup>,
    lookups_on_device: Address,
    /// The type of the tables.
    stored: DType,
    /// As an owner: vectors, then their gradients, `[dp * batch, width]`.
    owned: DeviceBuffer,
    d_owned: DeviceBuffer,
    /// `[rows, width]` of each owner, one behind the other: vectors, then their gradients.
    received: DeviceBuffer,
    d_received: DeviceBuffer,
    /// With tensor-parallel ranks: this rank's vectors, `[rows, columns]`, and those of all of them.
    part: DeviceBuffer,
    parts: DeviceBuffer,
    /// Of vectors, and of gradients.
    wires: [DeviceWire; 2],
    dtype: DType,
}

impl DeviceShards {
    pub(super) fn new<E: Executor>(
        executor: &mut E,
        (parameters, weights): (&ParameterStore, &DeviceWeights),
        shards: Shards,
        batch: usize,
    ) -> Result<Self, DeviceError> {
        let own = |part: &ShardPart| {
            let table = parameters.table(part.lookup.table);
            Lookup {
                table: weights.table(part.lookup.table).0,
                rows: table.rows() as i64,
                row_stride: table.dim() as i64,
                dim: table.dim() as u32,
                feature: 0,
                column: part.first as u32,
                mean: u32::from(part.pooling() == Pooling::Mean),
            }
        };
        let mut lookups: Vec<Lookup> = shards.own().iter().map(own).collect();
        for (feature, lookup) in lookups.iter_mut().enumerate() {
            lookup.feature = feature as u32;
        }
        let lookups_on_device = executor.allocate(size_of_val(lookups.as_slice()))?;
        executor.upload(bytemuck::cast_slice(&lookups), lookups_on_device)?;
        let ranks = shards.owners.len();
        let compute = weights.compute_dtype();
        // Whatever is half as wide as float32 without being asked travels as it is.
        let as_it_is = |payload: &Payload| match payload {
            Payload::Fp32 => true,
            Payload::Bf16 => compute == DType::Bf16,
            Payload::Fp16 => compute == DType::F16,
        };
        let dtype = match shards.payloads.iter().all(as_it_is) && !shards.unrounded {
            true => compute,
            false => DType::F32,
        };
        let tp = shards.tp[1];
        let rows = share(batch, [0, tp]).len();
        let own = ranks / tp * batch * shards.width(shards.rank);
        let all: usize = (0..ranks).map(|owner| shards.width(owner)).sum();
        let [vectors, gradients] = shards.payloads;
        let wires = [
            DeviceWire::new(executor, (dtype, vectors), [own, rows * all])?,
            DeviceWire::new(executor, (dtype, gradients), [rows * all, own])?,
        ];
        let gathered = if tp > 1 { rows * shards.columns() } else { 0 };
        let mut buffer = |len| DeviceBuffer::new(executor, dtype, len);
        Ok(Self {
            owned: buffer(own)?,
            d_owned: buffer(own)?,
            received: buffer(rows * all)?,
            d_received: buffer(rows * all)?,
            part: buffer(gathered)?,
            parts: buffer(tp * gathered)?,
            wires,
            shards,
            lookups,
            lookups_on_device,
            stored: weights.table_dtype(),
            dtype,
        })
    }

    /// As an owner: pools the bags of all ranks, and begins to send the vectors.
    pub(super) fn send_vectors<E: Executor>(
        &self,
        executor: &mut E,
        bags: Bags,
        rows: usize,
        first_bad: Address,
    ) -> Result<Begun, ModelError> {
        let out = self.own_matrix(&self.owned, rows);
        if !self.lookups.is_empty() {
            let operands = embedding_bag::Forward {
                bags,
                lookups: &self.lookups,
                lookups_on_device: self.lookups_on_device,
                table: self.stored,
                out,
                first_bad,
            };
            let launch = embedding_bag::forward(&operands)
                .map_err(ModelError::kernel("pooling the vectors of sharded tables"))?;
            executor.launch(&launch)?;
        }
        let what = "the exchange of vectors";
        self.wires[0].send(executor, what, &self.exchange_of_vectors(rows))
    }

    /// The type of what is kept of vectors and their gradients.
    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    /// Lets the device wait for the vectors of batches of `rows` samples.
    pub(super) fn receive_vectors<E: Executor>(
        &self,
        executor: &mut E,
        begun: Begun,
        rows: usize,
    ) -> Result<(), ModelError> {
        self.wires[0].receive(executor, begun, &self.exchange_of_vectors(rows))
    }

    /// Each part of them, `[rows, columns]`.
    pub(super) fn vector_parts(&self, rows: usize) -> impl Iterator<Item = (&ShardPart, Matrix)> {
        self.parts(&self.received, share(rows, self.shards.tp).len())
    }

    /// Lets the device wait for the vectors, and puts them where nodes read them; those that `rows` pools too.
    pub(super) fn receive<E: Executor>(
        &self,
        pass: &mut Pass<'_, E>,
        begun: Begun,
        rows: Option<(&DeviceRows, (Begun, Bags))>,
    ) -> Result<(), PassError> {
        self.receive_vectors(pass.executor, begun, pass.rows)?;
        let (tp, samples) = (self.shards.tp[1], share(pass.rows, self.shards.tp));
        let own = (tp > 1).then(|| self.part.view(samples.len(), self.shards.columns()));
        let mut written = Vec::new();
        for (part, from) in self.vector_parts(pass.rows) {
            // The same columns of several owners are sums over the rows that each has.
            let place = (part.lookup.node, part.at_node());
            let accumulate = written.contains(&place);
            let into = match &own {
                None => columns(&pass.value(part.lookup.node), &part.at_node()),
                Some(own) => columns(own, &part.at_asker()),
            };
            let bags = (pass.input.bags, &samples);
            pass.launch(part.copy(bags, [&from, &into], accumulate))?;
            written.push(place);
        }
        if let Some((rows, begun)) = rows {
            rows.receive(pass, begun, own.as_ref())?;
        }
        match own {
            None => Ok(()),
            Some(_) => self.gather(pass),
        }
    }

    /// Gives each rank of a tensor-parallel group the vectors of all samples.
    fn gather<E: Executor>(&self, pass: &mut Pass<'_, E>) -> Result<(), PassError> {
        let (tp, width) = (self.shards.tp[1], self.shards.columns());
        let len = share(pass.rows, [0, tp]).len() * width;
        let gather = Collective::AllGather {
            from: self.part.address,
            to: self.parts.address,
            len,
            element: element(self.dtype),
        };
        let (group, what) = (Group::TensorParallel, "the vectors of a group");
        let begun = pass.executor.begin(group, what, &[gather])?;
        pass.executor.finish(begun)?;
        for rank in 0..tp {
            let samples = share(pass.rows, [rank, tp]);
            let vectors = self.parts.view_at(rank * len, samples.len(), width);
            for lookup in &self.shards.lookups {
                let value = rows(&pass.value(lookup.node), &samples);
                let first = lookup.source.column;
                let into = columns(&value, &(first..first + lookup.dim));
                let from = columns(&vectors, &(lookup.column..lookup.column + lookup.dim));
                pass.launch(add::copy(&from, &into, false))?;
            }
        }
        Ok(())
    }

    /// Begins to send the gradients of the vectors to their owners; `bags` are this rank's.
    pub(super) fn send_gradients<E: Executor>(
        &self,
        executor: &mut E,
        network: &DeviceNetwork,
        bags: Bags,
    ) -> Result<Begun, ModelError> {
        let (batch, samples) = (bags.batch, share(bags.batch, self.shards.tp));
        for (part, into) in self.gradient_parts(batch) {
            let gradient = network.gradient(part.lookup.node, batch);
            let gradient = gradient.expect("the plan gives embeddings a gradient");
            let from = columns(&rows(&gradient, &samples), &part.at_node());
            let launch = part.copy((bags, &samples), [&from, &into], false);
            let launch = launch.map_err(ModelError::kernel(
                "gathering the gradients of sharded tables",
            ))?;
            executor.launch(&launch)?;
        }
        self.begin_gradients(executor, batch)
    }

    /// Where the gradients of each part are to be put, of batches of `rows` samples.
    pub(super) fn gradient_parts(&self, rows: usize) -> impl Iterator<Item = (&ShardPart, Matrix)> {
        self.parts(&self.d_received, share(rows, self.shards.tp).len())
    }

    /// Begins to send the gradients that were put there.
    pub(super) fn begin_gradients<E: Executor>(
        &self,
        executor: &mut E,
        rows: usize,
    ) -> Result<Begun, ModelError> {
        let what = "the exchange of gradients of vectors";
        self.wires[1].send(executor, what, &self.exchange_of_gradients(rows))
    }

    /// Lets the device wait for gradients that were begun to be sent, of batches of `rows` samples.
    pub(super) fn receive_gradients<E: Executor>(
        &self,
        executor: &mut E,
        begun: Begun,
        rows: usize,
    ) -> Result<(), ModelError> {
        self.wires[1].receive(executor, begun, &self.exchange_of_gradients(rows))
    }

    fn exchange_of_vectors(&self, rows: usize) -> Exchanged {
        let [sends, receives] = self.counts(rows);
        Exchanged {
            from: self.owned.address,
            to: self.received.address,
            sends,
            receives,
        }
    }

    fn exchange_of_gradients(&self, rows: usize) -> Exchanged {
        let [receives, sends] = self.counts(rows);
        Exchanged {
            from: self.d_received.address,
            to: self.d_owned.address,
            sends,
            receives,
        }
    }

    /// The gradients of what this rank pooled, `[dp * rows, width]`, once they are there.
    pub(super) fn gradients(&self, rows: usize) -> Matrix {
        self.own_matrix(&self.d_owned, rows)
    }

    fn own_matrix(&self, buffer: &DeviceBuffer, rows: usize) -> Matrix {
        let samples = self.shards.owners.len() / self.shards.tp[1] * rows;
        buffer.view(samples, self.shards.width(self.shards.rank))
    }

    /// Every part with its columns of its owner's vectors, `[rows, columns]`.
    fn parts(
        &self,
        buffer: &DeviceBuffer,
        rows: usize,
    ) -> impl Iterator<Item = (&ShardPart, Matrix)> {
        let mut start = 0;
        let owners = self.shards.owners.iter().enumerate();
        let of_owner = owners.map(move |(owner, parts)| {
            let width = self.shards.width(owner);
            let block = buffer.view_at(start, rows, width);
            start += rows * width;
            (parts, block)
        });
        of_owner.flat_map(|(parts, block)| {
            let parts = parts.iter();
            parts.map(move |part| (part, columns(&block, &part.at_owner())))
        })
    }

    /// Elements that this rank pools for each, and that each pools for it, of batches of `rows` samples.
    fn counts(&self, rows: usize) -> [Vec<usize>; 2] {
        let (shards, ranks) = (&self.shards, 0..self.shards.owners.len());
        let (width, samples) = (shards.width(shards.rank), share(rows, shards.tp).len());
        let own = ranks
            .clone()
            .map(|rank| shards.share_of(rank, rows).len() * width);
        let others = ranks.map(|owner| samples * shards.width(owner));
        [own.collect(), others.collect()]
    }
}
