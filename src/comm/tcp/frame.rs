//! How messages and data follow one another in the stream between two ranks.
//!
//! ```text
//! 16 bytes: tag u32 | MAGIC u32 | bytes u64, little-endian   then the bytes
//! ```

use crate::comm::messaging::{MESSAGE_OVERHEAD, MESSAGE_TAG};

/// Data with a message up to this size travel in it: those of the float32 that a sum needs no chunks for. What a rank
/// has said and a busy one has not yet taken fits into any socket's buffer.
pub(super) const INLINE_BYTES: usize = 16 * 1024;

/// No message is larger.
const MESSAGE_BYTES_MAX: u64 = (INLINE_BYTES + MESSAGE_OVERHEAD) as u64;

/// No piece of data is larger.
const DATA_BYTES_MAX: u64 = i32::MAX as u64;

pub(super) const HEAD_BYTES: usize = 16;

const MAGIC: u32 = u32::from_le_bytes(*b"SRTF");

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) tag: i32,
    pub(super) bytes: u64,
}

impl Head {
    pub(super) fn encode(self) -> [u8; HEAD_BYTES] {
        let mut text = [0; HEAD_BYTES];
        text[..4].copy_from_slice(&self.tag.to_le_bytes());
        text[4..8].copy_from_slice(&MAGIC.to_le_bytes());
        text[8..].copy_from_slice(&self.bytes.to_le_bytes());
        text
    }

    pub(super) fn decode(text: &[u8; HEAD_BYTES]) -> Result<Self, String> {
        let word = |start: usize| {
            u32::from_le_bytes([
                text[start],
                text[start + 1],
                text[start + 2],
                text[start + 3],
            ])
        };
        let (tag, magic) = (word(0) as i32, word(4));
        let bytes = u64::from(word(12)) << 32 | u64::from(word(8));
        if magic != MAGIC {
            return Err(format!(
                "expected the head of a frame, got {text:02x?}: do all ranks run the same program?"
            ));
        }
        let limit = match tag {
            MESSAGE_TAG => MESSAGE_BYTES_MAX,
            _ => DATA_BYTES_MAX,
        };
        if bytes == 0 || bytes > limit {
            return Err(format!(
                "expected 1 to {limit} bytes with tag {tag}, got {bytes}"
            ));
        }
        Ok(Self { tag, bytes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn heads_survive_their_bytes(tag: i32, bytes in 1..=MESSAGE_BYTES_MAX) {
            let head = Head { tag, bytes };
            prop_assert_eq!(Head::decode(&head.encode()), Ok(head));
        }

        #[test]
        fn what_is_not_a_head_is_refused_and_what_is_keeps_to_the_limits(text: [u8; HEAD_BYTES], honest: bool) {
            let mut text = text;
            if honest {
                text[4..8].copy_from_slice(&MAGIC.to_le_bytes());
            }
            match Head::decode(&text) {
                Ok(head) => {
                    prop_assert!(head.bytes <= DATA_BYTES_MAX);
                    prop_assert_eq!(head.encode(), text);
                }
                Err(problem) => prop_assert!(problem.starts_with("expected ")),
            }
        }
    }
}
