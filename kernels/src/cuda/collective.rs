//! What the devices of several ranks do together, described as launches and products are.
//!
//! Every rank of a job describes the same collectives in the same order, with the same lengths and types; only
//! addresses differ, and in [`Collective::AllToAll`] the lengths. Those of a [`Group`] are among its ranks, and each group
//! does them at the same place among those of all.

use std::fmt;

use super::launch::Address;

/// The type of what a collective carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// `f32`
    F32,
    /// `bf16`
    Bf16,
    /// IEEE binary16
    F16,
    /// `f64`
    F64,
    /// `u32`
    U32,
    /// `u64`
    U64,
    /// Bytes.
    U8,
}

impl Element {
    /// Bytes of one.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::U64 => 8,
            Self::F32 | Self::U32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::U8 => 1,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "fp16",
            Self::F64 => "f64",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::U8 => "bytes",
        }
    }
}

/// Which ranks do something together: all of a job, or some of a mesh of data-parallel by tensor-parallel ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// All ranks.
    World,
    /// Those that have the same part of every layer, and samples of their own.
    DataParallel,
    /// Those that have the same samples, and share layers.
    TensorParallel,
}

/// How the elements of all ranks become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    /// Their sum, rounded to their type after each addition.
    Sum,
    /// The largest.
    Max,
}

/// One collective of the ranks of a group. A result is the same, to the bit, on every rank that gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Collective {
    /// `[len]` of each rank become their reduction, in place.
    AllReduce {
        /// What is reduced.
        at: Address,
        /// Elements.
        len: usize,
        /// Their type.
        element: Element,
        /// How.
        reduce: Reduce,
    },
    /// `from: [len]` of every rank come to each, `to: [ranks, len]`, in the order of the ranks.
    AllGather {
        /// This rank's.
        from: Address,
        /// All ranks'.
        to: Address,
        /// Elements of one rank.
        len: usize,
        /// Their type.
        element: Element,
    },
    /// `from: [ranks, len]` of all ranks are reduced; each gets the row of its own number, `to: [len]`.
    ReduceScatter {
        /// What is reduced.
        from: Address,
        /// This rank's part.
        to: Address,
        /// Elements of one rank.
        len: usize,
        /// Their type.
        element: Element,
        /// How.
        reduce: Reduce,
    },
    /// `[len]` of one rank come to all.
    Broadcast {
        /// What is sent, or overwritten.
        at: Address,
        /// Elements.
        len: usize,
        /// Their type.
        element: Element,
        /// Whose they are.
        root: usize,
    },
    /// `sends[r]` elements of `from`, one rank's behind the other's, go to rank r, `receives[r]` come from it.
    AllToAll {
        /// What is sent.
        from: Address,
        /// What comes.
        to: Address,
        /// Elements for each rank.
        sends: Vec<usize>,
        /// Elements of each rank.
        receives: Vec<usize>,
        /// Their type.
        element: Element,
    },
}

impl Collective {
    /// What it is called in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::AllReduce { .. } => "all_reduce",
            Self::AllGather { .. } => "all_gather",
            Self::ReduceScatter { .. } => "reduce_scatter",
            Self::Broadcast { .. } => "broadcast",
            Self::AllToAll { .. } => "all_to_all",
        }
    }

    /// The memory that it reads and does not write, and that which it writes: addresses and bytes, on `ranks` ranks.
    pub fn memory(&self, ranks: usize) -> [Option<(Address, usize)>; 2] {
        match self {
            Self::AllReduce {
                at, len, element, ..
            }
            | Self::Broadcast {
                at, len, element, ..
            } => [None, Some((*at, len * element.bytes()))],
            Self::AllGather {
                from,
                to,
                len,
                element,
            } => {
                let bytes = len * element.bytes();
                [Some((*from, bytes)), Some((*to, ranks * bytes))]
            }
            Self::ReduceScatter {
                from,
                to,
                len,
                element,
                ..
            } => {
                let bytes = len * element.bytes();
                [Some((*from, ranks * bytes)), Some((*to, bytes))]
            }
            Self::AllToAll {
                from,
                to,
                sends,
                receives,
                element,
            } => {
                let bytes = |counts: &[usize]| counts.iter().sum::<usize>() * element.bytes();
                [Some((*from, bytes(sends))), Some((*to, bytes(receives)))]
            }
        }
    }
}

/// What must be the same on every rank: `all_reduce of 512 f32 (sum)`.
impl fmt::Display for Collective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, how) = (self.name(), |reduce: &Reduce| match reduce {
            Reduce::Sum => "sum",
            Reduce::Max => "max",
        });
        match self {
            Self::AllReduce {
                len,
                element,
                reduce,
                ..
            }
            | Self::ReduceScatter {
                len,
                element,
                reduce,
                ..
            } => write!(f, "{name} of {len} {} ({})", element.name(), how(reduce)),
            Self::AllGather { len, element, .. } => write!(f, "{name} of {len} {}", element.name()),
            Self::Broadcast {
                len, element, root, ..
            } => write!(f, "{name} of {len} {} from rank {root}", element.name()),
            Self::AllToAll { element, .. } => write!(f, "{name} of {}", element.name()),
        }
    }
}

/// Collectives that were begun and not waited for yet.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what they write may be used once they are finished"]
pub struct Begun(pub usize);
