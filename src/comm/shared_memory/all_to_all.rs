//! The exchange of messages between all ranks, through their mailboxes.
//!
//! Large messages go in rounds, each a collective of its own: what a rank posts is read while it is still in the cache,
//! and mailboxes stay small. What a rank keeps for itself stays where it is, and what comes is written over what was
//! sent: fresh memory for large messages costs as much as the copy.

use super::control::Note;
use super::engine::Engine;
use super::segment::MAX_SEGMENT_BYTES;
use crate::comm::CommError;
use crate::comm::call::{Call, Kind};
use crate::comm::typed::values_of;

/// Bytes that a rank posts in a round: large enough to hide the cost of meeting, small enough to be read from the cache.
const ROUND_BYTES: usize = 1 << 20;

const KIND: Kind = Kind::AllToAllBytes;

impl Engine {
    /// The first round's message holds the sizes of all parts, `[size]` u64; that of each round, one part for each rank.
    pub(super) fn all_to_all_bytes(
        &mut self,
        mut messages: Vec<Vec<u8>>,
    ) -> Result<Vec<Vec<u8>>, CommError> {
        self.run(KIND, |engine| {
            let (rank, size) = (engine.rank, engine.size());
            if messages.len() != size {
                let problem = format!(
                    "expected {size} messages, one a rank, got {}",
                    messages.len()
                );
                return Err(CommError::Argument {
                    collective: KIND.name(),
                    problem,
                });
            }
            let own = std::mem::take(&mut messages[rank]);
            engine.exchange(&mut messages)?;
            messages[rank] = own;
            Ok(messages)
        })
    }

    /// Replaces each message by what its receiver has sent to this rank.
    fn exchange(&mut self, messages: &mut [Vec<u8>]) -> Result<(), CommError> {
        let (rank, size) = (self.rank, self.size());
        let limit = part_limit(size);
        let sizes: Vec<u64> = messages
            .iter()
            .map(|message| message.len() as u64)
            .collect();
        let mut notes = self.post_round(messages, &sizes, 0)?;
        let mut all_sizes = Vec::with_capacity(size);
        for (sender, note) in notes.iter().enumerate() {
            let sizes = self.with_message(sender, *note, |text| sizes_of(text, size))?;
            all_sizes.push(sizes);
        }
        for (sender, message) in messages.iter_mut().enumerate() {
            let len = all_sizes[sender][rank] as usize;
            message.resize(message.len().max(len), 0);
        }
        let longest = all_sizes.iter().flatten().copied().max().unwrap_or(0);
        let rounds = longest.div_ceil(limit).max(1);
        for round in 0..rounds {
            if round > 0 {
                self.begin_next();
                notes = self.post_round(messages, &sizes, round)?;
            }
            for (sender, message) in messages.iter_mut().enumerate() {
                let theirs = &all_sizes[sender];
                // What was sent from there went out with this round or before.
                let start = (round * limit).min(theirs[rank]) as usize;
                let received = &mut message[start..];
                self.with_message(sender, notes[sender], |text| {
                    let part = part_for(rank, theirs, round, limit, text)?;
                    received[..part.len()].copy_from_slice(part);
                    Ok(())
                })?;
            }
        }
        for (sender, message) in messages.iter_mut().enumerate() {
            message.truncate(all_sizes[sender][rank] as usize);
        }
        Ok(())
    }

    /// Posts this rank's parts of a round, of messages of these `sizes`, and meets the others.
    fn post_round(
        &mut self,
        messages: &[Vec<u8>],
        sizes: &[u64],
        round: u64,
    ) -> Result<Vec<Note>, CommError> {
        let limit = part_limit(sizes.len());
        let head: &[u8] = if round == 0 {
            bytemuck::cast_slice(sizes)
        } else {
            &[]
        };
        let mut parts = vec![head];
        for (message, size) in messages.iter().zip(sizes) {
            let start = (round * limit).min(*size) as usize;
            parts.push(&message[start..][..part_len(*size, round, limit) as usize]);
        }
        let note = self.post(&parts)?;
        self.meet(Call::new(KIND), note)
    }
}

/// The most bytes of one part in a round.
fn part_limit(size: usize) -> u64 {
    // A rank sends itself nothing.
    (ROUND_BYTES / size.saturating_sub(1).max(1)).max(64) as u64
}

/// The bytes of a message of `size` that go in a round.
fn part_len(size: u64, round: u64, limit: u64) -> u64 {
    size.saturating_sub(round.saturating_mul(limit)).min(limit)
}

/// The sizes at the beginning of the first round's message.
fn sizes_of(message: &[u8], size: usize) -> Result<Vec<u64>, String> {
    let head = message.get(..size * size_of::<u64>());
    let sizes: Vec<u64> = head
        .and_then(values_of)
        .ok_or_else(|| format!("expected {size} sizes, got {} bytes", message.len()))?;
    match sizes.iter().find(|size| **size > MAX_SEGMENT_BYTES) {
        None => Ok(sizes),
        Some(size) => Err(format!(
            "expected at most {MAX_SEGMENT_BYTES} bytes, got {size}"
        )),
    }
}

/// What a message of a round, whose sender's messages have these `sizes`, holds for `rank`.
fn part_for<'a>(
    rank: usize,
    sizes: &[u64],
    round: u64,
    limit: u64,
    message: &'a [u8],
) -> Result<&'a [u8], String> {
    let head = if round == 0 { size_of_val(sizes) } else { 0 };
    let before: u64 = (sizes[..rank]
        .iter()
        .map(|size| part_len(*size, round, limit)))
    .sum();
    let start = head + before as usize;
    let end = start + part_len(sizes[rank], round, limit) as usize;
    message
        .get(start..end)
        .ok_or_else(|| format!("part {start}..{end} is beyond {} bytes", message.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_make_up_a_message() {
        let lens = |size| [0, 1, 2, 3].map(|round| part_len(size, round, 10));
        assert_eq!(lens(25), [10, 10, 5, 0]);
        assert_eq!(lens(20), [10, 10, 0, 0]);
        assert_eq!(lens(0), [0; 4]);
        assert_eq!(lens(u64::MAX), [10; 4]);
    }

    #[test]
    fn impossible_messages_are_refused() {
        let mut message = bytemuck::cast_slice::<u64, u8>(&[1, 2]).to_vec();
        message.extend([10, 20, 21]);
        let sizes = sizes_of(&message, 2).unwrap();
        assert_eq!(part_for(0, &sizes, 0, 64, &message).unwrap(), [10]);
        assert_eq!(part_for(1, &sizes, 0, 64, &message).unwrap(), [20, 21]);
        assert_eq!(part_for(1, &sizes, 1, 1, &[21]).unwrap(), [21]);
        message.pop();
        let refusal = part_for(1, &sizes, 0, 64, &message).unwrap_err();
        assert!(refusal.contains("beyond 18 bytes"), "{refusal}");
        assert!(sizes_of(&message[..15], 2).unwrap_err().contains("2 sizes"));
        let message = bytemuck::cast_slice::<u64, u8>(&[u64::MAX, 0]);
        assert!(sizes_of(message, 2).unwrap_err().contains("at most"));
    }
}
