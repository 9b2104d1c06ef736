use super::{Collectives, Cost, DenseLoad, Link, Rates, RowRate};

/// The ranks of a job, and what they can do.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// Ranks of the job.
    pub ranks: usize,
    /// Ranks that compute at the same time: fewer than all where they share cores.
    pub at_once: usize,
    /// Bytes that a rank may hold.
    pub memory_bytes: u64,
    /// How fast a rank works.
    pub rates: Rates,
    /// How fast all ranks exchange.
    pub collectives: Collectives,
    /// How fast the ranks of a tensor-parallel group do.
    pub group: Collectives,
    /// Whether collectives go on beside computations without slowing them down, as those of GPUs do. Ranks that
    /// fill all cores carry their bytes themselves.
    pub hides: bool,
}

/// A GPU, from its maker's datasheet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gpu {
    /// NVIDIA A100 SXM, 80 GB: 312 TFLOP/s in bf16, 2.04 TB/s, NVLink of 300 GB/s each way, HDR InfiniBand.
    A100,
    /// NVIDIA H100 SXM: 989 TFLOP/s in bf16, 3.35 TB/s, NVLink of 450 GB/s each way, NDR InfiniBand.
    H100,
    /// NVIDIA H200 SXM: as the H100, with memory of 4.8 TB/s.
    H200,
}

/// The share of a datasheet's bandwidth that transfers are assumed to reach.
const OF_BANDWIDTH: f64 = 0.7;
/// The share of a datasheet's FLOP/s that layers of some hundred columns are assumed to reach, with their
/// activations and optimisers. Towers of ranking models are small: see `docs/scaling.md` for where it comes from.
const OF_FLOPS: f64 = 0.4;
/// Bytes that a GPU moves for an id before those of its row: the id and where its bag begins, 8 each.
const ID_BYTES: f64 = 16.0;
/// Bytes of grouping an id by row: 4 passes of a radix sort over pairs of 8 bytes, each read twice and written.
const GROUPED_ID_BYTES: f64 = 4.0 * 3.0 * 8.0;

impl Gpu {
    /// GPUs of a host in all that are known here.
    pub const PER_HOST: usize = 8;

    /// FLOP/s, bytes/s of memory, of NVLink and of the network, by the datasheet.
    fn datasheet(self) -> [f64; 4] {
        match self {
            Self::A100 => [312e12, 2.04e12, 300e9, 25e9],
            Self::H100 => [989e12, 3.35e12, 450e9, 50e9],
            Self::H200 => [989e12, 4.8e12, 450e9, 50e9],
        }
    }

    /// Bytes of its memory.
    pub fn memory_bytes(self) -> u64 {
        match self {
            Self::A100 | Self::H100 => 80 << 30,
            Self::H200 => 141_000_000_000,
        }
    }
}

impl Machine {
    /// So many GPUs, with as many in a host as [`Gpu::PER_HOST`].
    pub fn of_gpus(gpu: Gpu, ranks: usize, tp: usize, memory_bytes: u64) -> Self {
        let [flops, memory, nvlink, network] = gpu.datasheet();
        let inside = Link {
            latency_s: 4e-6,
            bytes_per_s: OF_BANDWIDTH * nvlink,
        };
        let between = Link {
            latency_s: 10e-6,
            bytes_per_s: OF_BANDWIDTH * network,
        };
        let bytes_per_s = OF_BANDWIDTH * memory;
        let of_ids = RowRate {
            row_s: ID_BYTES / bytes_per_s,
            bytes_per_s,
        };
        Self {
            ranks,
            at_once: ranks,
            memory_bytes,
            rates: Rates {
                flops_per_s: OF_FLOPS * flops,
                lookup: of_ids,
                grouped_id_s: GROUPED_ID_BYTES / bytes_per_s,
                update: of_ids,
                pooled: of_ids,
                unique: of_ids,
                copy_bytes_per_s: bytes_per_s,
                operation_s: 2e-6,
            },
            collectives: Collectives::of_links(ranks, Gpu::PER_HOST, inside, between),
            group: Collectives::of_links(tp, Gpu::PER_HOST, inside, between),
            hides: true,
        }
    }

    /// Seconds of a step that ranks spend on tables, from the costs of each: where ranks share cores, one that
    /// has less to do leaves them to others.
    pub fn tables_s(&self, ranks: &[Cost]) -> f64 {
        let sent = ranks.iter().map(|rank| rank.sent_s(self));
        self.busy_s(ranks.iter().map(|rank| rank.work_s(self))) + sent.fold(0.0, f64::max)
    }

    /// Seconds until the last of the ranks has done its work.
    pub(super) fn busy_s(&self, work: impl Iterator<Item = f64>) -> f64 {
        let (most, sum) = work.fold((0.0f64, 0.0), |(most, sum), own| (most.max(own), sum + own));
        most.max(sum / self.at_once.max(1) as f64)
    }

    /// The same with the rates of an experiment: of one rank that did `dense` and exchanged tables with itself in
    /// these times, all at once and each id once, at these costs.
    #[must_use]
    pub fn calibrated(
        mut self,
        dense: &DenseLoad,
        [pooled, unique]: [&Cost; 2],
        [of_pooled, of_unique]: [&OperationTimes; 2],
    ) -> Self {
        let times = |found: f64, expected: f64| match found > 0.0 && expected > 0.0 {
            true => found / expected,
            false => 1.0,
        };
        let looked_up = times(
            of_pooled.lookup_s,
            self.rates.lookup.seconds(pooled.looked_up),
        );
        let updated = times(of_pooled.update_s, pooled.update_s(&self));
        let rates = &mut self.rates;
        if dense.flops > 0.0 && of_pooled.dense_s > 0.0 {
            rates.flops_per_s = dense.flops / of_pooled.dense_s;
        }
        rates.operation_s = 0.0;
        rates.lookup = rates.lookup.slower(looked_up);
        rates.update = rates.update.slower(updated);
        rates.grouped_id_s *= updated;
        for (rate, work, times) in [
            (&mut rates.pooled, pooled.pooled, of_pooled),
            (&mut rates.unique, unique.unique, of_unique),
        ] {
            if work.rows > 0.0 && times.packed_s > 0.0 {
                *rate = RowRate {
                    row_s: times.ids_s / work.rows,
                    bytes_per_s: work.bytes / times.packed_s,
                };
            }
        }
        self
    }
}

/// Seconds of one rank's operations in a step, measured.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OperationTimes {
    /// Layers, loss and dense update.
    pub dense_s: f64,
    /// Lookups.
    pub lookup_s: f64,
    /// Tables' gradients and updates.
    pub update_s: f64,
    /// Ids packed for an exchange and read out of it.
    pub ids_s: f64,
    /// Vectors and gradients likewise.
    pub packed_s: f64,
}

impl OperationTimes {
    /// All of them, in the order of the fields.
    pub fn seconds(&self) -> [f64; 5] {
        [
            self.dense_s,
            self.lookup_s,
            self.update_s,
            self.ids_s,
            self.packed_s,
        ]
    }

    /// From all of them, likewise.
    pub fn of_seconds([dense_s, lookup_s, update_s, ids_s, packed_s]: [f64; 5]) -> Self {
        Self {
            dense_s,
            lookup_s,
            update_s,
            ids_s,
            packed_s,
        }
    }

    /// Of ranks that did the same.
    pub fn mean(ranks: &[Self]) -> Self {
        let all = ranks.iter().map(Self::seconds);
        let mean =
            |part: usize| all.clone().map(|own| own[part]).sum::<f64>() / ranks.len().max(1) as f64;
        Self::of_seconds(std::array::from_fn(mean))
    }
}
