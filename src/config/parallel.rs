//! `[parallel]`: how ranks share the work, and communicate.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How ranks share the work and talk to one another.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ParallelConfig {
    /// What carries data between ranks.
    pub backend: Backend,
    /// Ranks of a tensor-parallel group: they read the same batch and share layers. The world is
    /// data-parallel groups times this.
    pub tp: usize,
    /// How gradients are added up.
    pub reduction: Reduction,
    /// Layers that a tensor-parallel group shares in another way than the plan would, by name.
    pub layers: BTreeMap<String, Partition>,
    /// Where embedding tables lie.
    pub embeddings: EmbeddingsConfig,
    /// A rank that waits longer than this in a collective gives up and names the missing ranks.
    pub timeout_s: f64,
    /// Size of the first gradient bucket: small, so that reduction begins early.
    pub first_bucket_bytes: usize,
    /// Size of every other gradient bucket.
    pub bucket_bytes: usize,
}

/// What carries data between ranks. Results are the same to the bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// MPI where `mpirun` started the ranks and the program was built with it; else shared memory on one host, and TCP
    /// over several.
    #[default]
    Auto,
    /// Memory that the ranks of one host share.
    SharedMemory,
    /// TCP, over one host or several.
    Tcp,
    /// Open MPI or MPICH, over one host or several; needs a program that was built with the feature `mpi`.
    Mpi,
}

/// How gradients are added up over ranks and micro-batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// As they come: the model depends on the number of ranks in the last bits of its sums.
    #[default]
    Fast,
    /// In a fixed tree over micro-shards of the global batch: the model does not depend on the number
    /// of data-parallel ranks (1, 2, 4 or 8), to the bit.
    Invariant,
}

/// How the ranks of a tensor-parallel group share the weights of a layer
/// (Shoeybi et al., "Megatron-LM", <https://arxiv.org/abs/1909.08053>, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Partition {
    /// Every rank holds and computes everything.
    #[default]
    Replicated,
    /// Each rank holds some outputs: rows of the weight, elements of the bias.
    Column,
    /// Each rank holds some inputs: columns of the weight. Partial sums are added up.
    Row,
    /// A low-rank product: each rank holds some of the columns between V and W.
    Rank,
}

impl fmt::Display for Partition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Replicated => "replicated",
            Self::Column => "column-parallel",
            Self::Row => "row-parallel",
            Self::Rank => "V column-parallel, W row-parallel",
        })
    }
}

/// Where embedding tables lie, and what ranks exchange of them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddingsConfig {
    /// The placement of every table that `tables` does not name.
    pub placement: Placement,
    /// Likewise, what travels.
    pub exchange: Exchange,
    /// The numbers of vectors and rows on their way to where they are used.
    pub vectors: Payload,
    /// The numbers of gradients on their way back.
    pub gradients: Payload,
    /// Exceptions, by the name of the table.
    pub tables: BTreeMap<String, TableConfig>,
}

impl EmbeddingsConfig {
    /// Whether any table's placement is left to the planner.
    pub fn is_auto(&self) -> bool {
        let own = self.tables.values().filter_map(|table| table.placement);
        std::iter::once(self.placement)
            .chain(own)
            .any(|placement| placement == Placement::Auto)
    }

    /// The placement that is asked of a table; `None` leaves it to the planner.
    pub fn pinned(&self, table: &str) -> Option<Placement> {
        let own = self.tables.get(table).and_then(|own| own.placement);
        Some(own.unwrap_or(self.placement)).filter(|placement| *placement != Placement::Auto)
    }
}

/// One table's exception.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TableConfig {
    /// Where it lies.
    pub placement: Option<Placement>,
    /// What travels.
    pub exchange: Option<Exchange>,
    /// The rank that holds it, where it is table-wise; else the plan chooses.
    pub rank: Option<usize>,
}

/// Where the rows and columns of an embedding table lie. Shards spread over all ranks of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// All of it on every rank.
    #[default]
    Replicated,
    /// As the planner chooses when training begins. Without a plan, as on one rank, it is replicated.
    Auto,
    /// All of it on one rank.
    TableWise,
    /// Some rows on each rank.
    RowWise,
    /// Some columns on each rank.
    ColumnWise,
}

impl fmt::Display for Placement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Replicated => "replicated",
            Self::Auto => "auto",
            Self::TableWise => "table-wise",
            Self::RowWise => "row-wise",
            Self::ColumnWise => "column-wise",
        })
    }
}

/// What ranks exchange of a table that is not replicated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exchange {
    /// All ids travel, pooled vectors return.
    #[default]
    Pooled,
    /// Each id travels once, rows return and are pooled where they are used.
    Unique,
}

impl fmt::Display for Exchange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Pooled => "pooled",
            Self::Unique => "unique",
        })
    }
}

/// How numbers travel between ranks; they are float32 before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// As they are.
    #[default]
    Fp32,
    /// Rounded to bfloat16: 8 bits of precision, the range of float32.
    Bf16,
    /// Rounded to IEEE binary16: 11 bits of precision; each message is scaled to its range by a power of two.
    Fp16,
}

impl Payload {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::Fp32 => 4,
            Self::Bf16 | Self::Fp16 => 2,
        }
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
        })
    }
}

impl Default for ParallelConfig {
    fn default() -> Self {
        Self {
            backend: Backend::default(),
            tp: 1,
            reduction: Reduction::default(),
            layers: BTreeMap::new(),
            embeddings: EmbeddingsConfig::default(),
            timeout_s: 300.0,
            first_bucket_bytes: 1 << 20,
            bucket_bytes: 25 << 20,
        }
    }
}

impl ParallelConfig {
    fn check_invariant(&self, errors: &mut Vec<String>) {
        if self.tp > 1 {
            errors.push(format!(
                "`parallel.reduction`: \"invariant\" goes with `parallel.tp` = 1, got {}: row-parallel \
                 products add in another order; set one of them otherwise",
                self.tp
            ));
        }
        let payloads = [
            ("vectors", self.embeddings.vectors),
            ("gradients", self.embeddings.gradients),
        ];
        for (name, payload) in payloads {
            if payload != Payload::Fp32 {
                errors.push(format!(
                    "`parallel.embeddings.{name}`: \"{payload}\" rounds what travels and nothing else, and \
                     `parallel.reduction` is \"invariant\"; leave it out"
                ));
            }
        }
        for (name, table) in &self.embeddings.tables {
            if table.exchange == Some(Exchange::Pooled) {
                errors.push(format!(
                    "`parallel.embeddings.tables.{name}.exchange`: \"pooled\" adds in another order, and \
                     `parallel.reduction` is \"invariant\"; leave it out, so that each id travels once"
                ));
            }
        }
    }

    pub(super) fn check(&self, errors: &mut Vec<String>) {
        if self.tp == 0 {
            errors.push("`parallel.tp`: expected at least 1, got 0".into());
        }
        if self.reduction == Reduction::Invariant {
            self.check_invariant(errors);
        }
        if self.timeout_s <= 0.0 || Duration::try_from_secs_f64(self.timeout_s).is_err() {
            errors.push(format!(
                "`parallel.timeout_s`: expected seconds above 0 that a clock can count, got {}",
                self.timeout_s
            ));
        }
        for (name, bytes) in [
            ("first_bucket_bytes", self.first_bucket_bytes),
            ("bucket_bytes", self.bucket_bytes),
        ] {
            if bytes < 4 {
                errors.push(format!(
                    "`parallel.{name}`: expected at least 4, got {bytes}"
                ));
            }
        }
    }
}
