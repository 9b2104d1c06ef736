//! What ranks tell one another ahead of their data: calls, failures, leave.
//!
//! ```text
//! 7 words of 64 bits: tag | sequence | kind, argument | len | buffer | bytes | waited   then bytes
//! ```
//! Both ends run the same program on machines of one byte order.

use std::time::Duration;

use crate::comm::call::{Call, Kind};
use crate::comm::failure::{Failure, Reason};
use crate::comm::typed::values_of;

/// Tells our messages from others; its last digits are the version of the layout, to which the tag is added.
const MAGIC: u64 = 0x5354_524d_5049_0100;
const WORDS: usize = 7;

/// No message between two ranks is larger (1 TiB): a bound for sizes that come from other processes.
const MAX_BYTES: u64 = 1 << 40;

/// The bytes of the words.
pub(super) const HEAD_BYTES: usize = WORDS * size_of::<u64>();

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// The sender has come to a collective.
    Call(Arrival),
    /// The sender's communicator has failed. Ranks are those of the group.
    Failed(Failure),
    /// The sender has dropped its communicator.
    Left,
    /// The sender has lost patience, and asks who waits as it does.
    Ask,
    /// The answer: the sender waits in a collective too, so it is not to blame.
    Wait,
}

/// A rank's call, and what it has for the receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) sequence: u64,
    pub(super) call: Call,
    /// The size of the data for the receiver.
    pub(super) bytes: u64,
    /// The data, if they fit into the message; else they follow.
    pub(super) inline: Option<Vec<u8>>,
}

impl Message {
    pub(super) fn encode(&self) -> Vec<u8> {
        let (words, rest): ([u64; WORDS], Vec<u8>) = match self {
            Self::Call(arrival) => {
                let Arrival {
                    sequence,
                    call,
                    bytes,
                    inline,
                } = arrival;
                let kind = u64::from(call.kind as u32) << 32 | u64::from(call.argument);
                let tag = MAGIC + u64::from(inline.is_some());
                let words = [tag, *sequence, kind, call.len, call.buffer, *bytes, 0];
                (words, inline.clone().unwrap_or_default())
            }
            Self::Failed(failure) => {
                let ranks: Vec<u64> = failure.ranks.iter().map(|rank| *rank as u64).collect();
                let kind = u64::from(failure.kind as u32) << 32 | failure.reason as u64;
                let waited = failure.waited.as_micros() as u64;
                let words = [MAGIC + 2, failure.sequence, kind, 0, 0, 0, waited];
                (words, bytemuck::cast_slice(&ranks).to_vec())
            }
            Self::Left => ([MAGIC + 3, 0, 0, 0, 0, 0, 0], Vec::new()),
            Self::Ask => ([MAGIC + 4, 0, 0, 0, 0, 0, 0], Vec::new()),
            Self::Wait => ([MAGIC + 5, 0, 0, 0, 0, 0, 0], Vec::new()),
        };
        let mut text = bytemuck::cast_slice(&words).to_vec();
        text.extend(rest);
        text
    }

    /// The message that `text` holds, to a rank of a group of `size`.
    pub(super) fn decode(text: &[u8], size: usize) -> Result<Self, String> {
        let head = text.split_at_checked(HEAD_BYTES);
        let (head, rest) =
            head.ok_or_else(|| format!("expected {WORDS} words, got {} bytes", text.len()))?;
        let words: Vec<u64> = values_of(head).unwrap_or_default();
        let [tag, sequence, kind, len, buffer, bytes, waited] = words[..] else {
            return Err(format!("expected {WORDS} words"));
        };
        let (kind, argument) = (Kind::from_number((kind >> 32) as u32), kind as u32);
        match tag.wrapping_sub(MAGIC) {
            has_data @ (0 | 1) => {
                if bytes > MAX_BYTES {
                    return Err(format!("expected at most {MAX_BYTES} bytes, got {bytes}"));
                }
                if has_data == 1 && bytes != rest.len() as u64 {
                    return Err(format!("expected {bytes} bytes, got {}", rest.len()));
                }
                let call = Call {
                    kind,
                    argument,
                    len,
                    buffer,
                };
                let inline = (has_data == 1).then(|| rest.to_vec());
                Ok(Self::Call(Arrival {
                    sequence,
                    call,
                    bytes,
                    inline,
                }))
            }
            2 => {
                let ranks: Vec<u64> = values_of(rest).unwrap_or_default();
                let ranks = ranks.into_iter().map(|rank| rank as usize);
                Ok(Self::Failed(Failure {
                    reason: Reason::from_number(argument),
                    kind,
                    sequence,
                    ranks: ranks.filter(|rank| *rank < size).collect(),
                    waited: Duration::from_micros(waited),
                }))
            }
            3 => Ok(Self::Left),
            4 => Ok(Self::Ask),
            5 => Ok(Self::Wait),
            _ => Err(format!(
                "it begins with {tag:#x}: do all ranks run the same program?"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call {
        Call {
            kind: Kind::Broadcast,
            argument: 3,
            len: 1 << 40,
            buffer: 7,
        }
    }

    #[test]
    fn messages_survive_their_bytes() {
        let arrival = |bytes, inline| {
            Message::Call(Arrival {
                sequence: 9,
                call: call(),
                bytes,
                inline,
            })
        };
        let failure = Failure {
            reason: Reason::Timeout,
            kind: Kind::AllReduce,
            sequence: 5,
            ranks: vec![1, 3],
            waited: Duration::from_millis(1500),
        };
        for message in [
            arrival(1 << 33, None),
            arrival(0, Some(vec![])),
            arrival(3, Some(vec![1, 2, 3])),
            Message::Failed(failure),
            Message::Left,
            Message::Ask,
            Message::Wait,
        ] {
            assert_eq!(Message::decode(&message.encode(), 4), Ok(message));
        }
    }

    #[test]
    fn impossible_messages_are_refused() {
        let refusal = |text: &[u8]| Message::decode(text, 4).unwrap_err();
        assert!(refusal(&[0; 55]).contains("got 55 bytes"));
        assert!(refusal(&[0; 56]).contains("same program"));
        let arrival = |bytes, inline| {
            let call = call();
            Message::Call(Arrival {
                sequence: 1,
                call,
                bytes,
                inline,
            })
        };
        assert!(refusal(&arrival(MAX_BYTES + 1, None).encode()).contains("at most"));
        assert!(refusal(&arrival(4, Some(vec![1])).encode()).contains("expected 4 bytes, got 1"));
    }
}
