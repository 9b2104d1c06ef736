//! What a rank calls, so that ranks can compare.

use std::fmt;

use super::ReduceOp;

/// The kinds of collectives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Unknown = 0,
    Connect = 1,
    Allocate = 2,
    AllReduce = 3,
    Broadcast = 4,
    ReduceScatter = 5,
    AllGather = 6,
    AllGatherBytes = 7,
    AllToAllBytes = 8,
    Barrier = 9,
    Split = 10,
    Leave = 11,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::Unknown,
        Self::Connect,
        Self::Allocate,
        Self::AllReduce,
        Self::Broadcast,
        Self::ReduceScatter,
        Self::AllGather,
        Self::AllGatherBytes,
        Self::AllToAllBytes,
        Self::Barrier,
        Self::Split,
        Self::Leave,
    ];

    pub(super) fn from_number(number: u32) -> Self {
        Self::ALL
            .get(number as usize)
            .copied()
            .unwrap_or(Self::Unknown)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unknown => "an unknown collective",
            Self::Connect => "connect",
            Self::Allocate => "allocate",
            Self::AllReduce => "all_reduce",
            Self::Broadcast => "broadcast",
            Self::ReduceScatter => "reduce_scatter",
            Self::AllGather => "all_gather",
            Self::AllGatherBytes => "all_gather_bytes",
            Self::AllToAllBytes => "all_to_all_bytes",
            Self::Barrier => "barrier",
            Self::Split => "split",
            Self::Leave => "leave",
        }
    }
}

/// A collective with all that must be the same on every rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) kind: Kind,
    /// The reduction or the root.
    pub(super) argument: u32,
    /// The number of f32.
    pub(super) len: u64,
    /// The number of the buffer, in order of allocation from 1.
    pub(super) buffer: u64,
}

impl Call {
    /// A call without operands, or whose operands may differ by rank.
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            argument: 0,
            len: 0,
            buffer: 0,
        }
    }
}

pub(super) fn op_number(op: ReduceOp) -> u32 {
    match op {
        ReduceOp::Sum => 0,
        ReduceOp::Max => 1,
        ReduceOp::TreeSum => 2,
    }
}

impl fmt::Display for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            argument,
            len,
            buffer,
        } = self;
        let name = kind.name();
        match kind {
            Kind::AllReduce | Kind::ReduceScatter => {
                let op = ["sum", "max", "tree sum"][*argument as usize % 3];
                write!(formatter, "{name}({op}, buffer {buffer} of {len} f32)")
            }
            Kind::Broadcast => {
                write!(
                    formatter,
                    "{name}(root {argument}, buffer {buffer} of {len} f32)"
                )
            }
            Kind::AllGather => write!(formatter, "{name}(buffer {buffer} of {len} f32)"),
            Kind::Allocate => write!(formatter, "{name}({len} f32)"),
            _ => write!(formatter, "{name}()"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_survive_their_numbers() {
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
            assert_eq!(Kind::from_number(number as u32), kind);
        }
        assert_eq!(Kind::from_number(99), Kind::Unknown);
    }

    #[test]
    fn calls_read_like_the_source() {
        let call = Call {
            kind: Kind::AllReduce,
            argument: 1,
            len: 7,
            buffer: 2,
        };
        assert_eq!(call.to_string(), "all_reduce(max, buffer 2 of 7 f32)");
        assert_eq!(Call::new(Kind::Barrier).to_string(), "barrier()");
    }
}
