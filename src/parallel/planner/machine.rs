use super::{Collectives, Cost, DenseLoad, Link, Rates};

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
        Self {
            ranks,
            at_once: ranks,
            memory_bytes,
            rates: Rates {
                flops_per_s: OF_FLOPS * flops,
                lookup_bytes_per_s: bytes_per_s,
                update_bytes_per_s: bytes_per_s,
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

    /// The same with the rates at which one rank alone did `dense` and `tables` in so many seconds.
    #[must_use]
    pub fn calibrated(mut self, dense: &DenseLoad, tables: &Cost, times: &OperationTimes) -> Self {
        let rate = |amount: f64, seconds: f64, otherwise: f64| {
            if amount > 0.0 && seconds > 0.0 {
                amount / seconds
            } else {
                otherwise
            }
        };
        let rates = &mut self.rates;
        rates.flops_per_s = rate(dense.flops, times.dense_s, rates.flops_per_s);
        rates.operation_s = 0.0;
        rates.lookup_bytes_per_s = rate(
            tables.looked_up_bytes,
            times.lookup_s,
            rates.lookup_bytes_per_s,
        );
        rates.update_bytes_per_s = rate(
            tables.updated_bytes,
            times.update_s,
            rates.update_bytes_per_s,
        );
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
}

impl OperationTimes {
    /// Of ranks that did the same.
    pub fn mean(ranks: &[Self]) -> Self {
        let mean =
            |of: fn(&Self) -> f64| ranks.iter().map(of).sum::<f64>() / ranks.len().max(1) as f64;
        Self {
            dense_s: mean(|own| own.dense_s),
            lookup_s: mean(|own| own.lookup_s),
            update_s: mean(|own| own.update_s),
        }
    }
}
