//! The exchange of messages between all ranks.
//!
//! A message in shared memory is handed over: the first round says where it lies, and no byte of it is copied. Others go
//! through the mailboxes, in rounds, each a collective of its own: what a rank posts is read while it is still in the
//! cache, and mailboxes stay small. What a rank keeps for itself stays where it is, and what comes is written over what
//! was sent: fresh memory for large messages costs as much as the copy.

use super::control::Note;
use super::engine::{Engine, memory_error};
use super::message::SegmentId;
use super::segment::MAX_SEGMENT_BYTES;
use crate::comm::call::{Call, Kind};
use crate::comm::typed::values_of;
use crate::comm::{CommError, Message};

/// Bytes that a rank posts in a round: large enough to hide the cost of meeting, small enough to be read from the cache.
const ROUND_BYTES: usize = 1 << 20;

const KIND: Kind = Kind::AllToAllBytes;

/// What a rank announces to another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Announcement {
    bytes: u64,
    /// Where they lie, if the memory is handed over.
    segment: Option<SegmentId>,
}

impl Announcement {
    /// Words of an announcement among ranks.
    const WORDS: usize = 2;

    /// The bytes; the segment, whose maker counts from 1.
    fn words(self) -> [u64; Self::WORDS] {
        let segment = self.segment.map_or(0, |SegmentId { maker, fd }| {
            u64::from(maker + 1) << 32 | u64::from(fd)
        });
        [self.bytes, segment]
    }

    fn of_words([bytes, segment]: [u64; Self::WORDS], ranks: usize) -> Result<Self, String> {
        if bytes > MAX_SEGMENT_BYTES {
            return Err(format!(
                "expected at most {MAX_SEGMENT_BYTES} bytes, got {bytes}"
            ));
        }
        let maker = (segment >> 32) as u32;
        if maker as usize > ranks {
            return Err(format!("a segment of rank {}, of {ranks} ranks", maker - 1));
        }
        let fd = segment as u32;
        let segment = maker.checked_sub(1).map(|maker| SegmentId { maker, fd });
        Ok(Self { bytes, segment })
    }

    /// The bytes that go through the mailbox.
    fn posted(&self) -> u64 {
        match self.segment {
            Some(_) => 0,
            None => self.bytes,
        }
    }
}

impl Engine {
    /// The first round's message holds the announcements of all parts; that of each round, one part for each rank.
    pub(super) fn all_to_all_bytes(
        &mut self,
        mut messages: Vec<Message>,
    ) -> Result<Vec<Message>, CommError> {
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
            let mut messages = engine.exchange(messages)?;
            messages[rank] = own;
            Ok(messages)
        })
    }

    /// Gives each message to its receiver; returns what each rank has sent to this one.
    fn exchange(&mut self, messages: Vec<Message>) -> Result<Vec<Message>, CommError> {
        let (own, mut copied): (Vec<_>, Vec<_>) = messages
            .into_iter()
            .map(|message| self.announce(message))
            .unzip();
        let notes = self.post_round(&copied, &own, 0)?;
        let mut all = Vec::with_capacity(self.size());
        for (sender, note) in notes.iter().enumerate() {
            let size = self.size();
            all.push(self.with_message(sender, *note, |text| announcements(text, size))?);
        }
        self.copy_rounds(&mut copied, &own, &all, notes)?;
        let rank = self.rank;
        let received = copied.into_iter().zip(&all);
        let received = received.map(|(copied, theirs)| {
            let Announcement { bytes, segment } = theirs[rank];
            match segment {
                Some(id) => self.take_over(id, bytes),
                None => Ok(copied.into()),
            }
        });
        let received = received.collect::<Result<Vec<_>, _>>()?;
        if self.note_openings(&all) {
            self.synchronize()?;
        }
        Ok(received)
    }

    /// Whether some rank has just opened a segment of another for the first time. All ranks find the same, and wait for
    /// it: whoever goes on may leave, and takes the files of its segments along.
    fn note_openings(&mut self, all: &[Vec<Announcement>]) -> bool {
        let mut opens = false;
        for (receiver, announced) in all.iter().flat_map(|theirs| theirs.iter().enumerate()) {
            if let Some(id) = announced.segment
                && id.maker as usize != receiver
            {
                opens |= self.opened.insert((id, receiver));
            }
        }
        opens
    }

    /// Hands a message over, or leaves its bytes to be copied.
    fn announce(&self, message: Message) -> (Announcement, Vec<u8>) {
        let copied = match message.into_shared() {
            // Other ranks know the segments of this communicator alone.
            Ok(shared) if shared.is_of(&self.messages) => {
                let (id, bytes) = shared.hand_over();
                let segment = Some(id);
                return (Announcement { bytes, segment }, Vec::new());
            }
            Ok(shared) => shared.bytes().to_vec(),
            Err(copied) => copied,
        };
        let (bytes, segment) = (copied.len() as u64, None);
        (Announcement { bytes, segment }, copied)
    }

    fn take_over(&self, id: SegmentId, bytes: u64) -> Result<Message, CommError> {
        let (pid, _) = self.control.process(id.maker as usize);
        let taken = self.messages.take_over(id, pid, bytes);
        let taken = taken.map_err(|error| memory_error("take over a message", bytes, error));
        taken.map(Message::shared)
    }

    /// Replaces each of the messages that are copied by what its receiver has sent to this rank.
    fn copy_rounds(
        &mut self,
        messages: &mut [Vec<u8>],
        own: &[Announcement],
        all: &[Vec<Announcement>],
        mut notes: Vec<Note>,
    ) -> Result<(), CommError> {
        let rank = self.rank;
        let limit = part_limit(self.size());
        for (message, theirs) in messages.iter_mut().zip(all) {
            let len = theirs[rank].posted() as usize;
            message.resize(message.len().max(len), 0);
        }
        let posted = all.iter().flatten().map(Announcement::posted);
        let rounds = posted.max().unwrap_or(0).div_ceil(limit).max(1);
        for round in 0..rounds {
            if round > 0 {
                self.begin_next();
                notes = self.post_round(messages, own, round)?;
            }
            for (sender, message) in messages.iter_mut().enumerate() {
                let theirs = &all[sender];
                // What was sent from there went out with this round or before.
                let start = (round * limit).min(theirs[rank].posted()) as usize;
                let received = &mut message[start..];
                self.with_message(sender, notes[sender], |text| {
                    let part = part_for(rank, theirs, round, limit, text)?;
                    received[..part.len()].copy_from_slice(part);
                    Ok(())
                })?;
            }
        }
        for (message, theirs) in messages.iter_mut().zip(all) {
            message.truncate(theirs[rank].posted() as usize);
        }
        Ok(())
    }

    /// Posts this rank's parts of a round and meets the others; in the first one, its announcements too.
    fn post_round(
        &mut self,
        messages: &[Vec<u8>],
        own: &[Announcement],
        round: u64,
    ) -> Result<Vec<Note>, CommError> {
        let limit = part_limit(own.len());
        let head: Vec<u64> = match round {
            0 => own.iter().flat_map(|own| own.words()).collect(),
            _ => Vec::new(),
        };
        let mut parts: Vec<&[u8]> = vec![bytemuck::cast_slice(&head)];
        for (message, own) in messages.iter().zip(own) {
            let start = (round * limit).min(own.posted()) as usize;
            parts.push(&message[start..][..part_len(own.posted(), round, limit) as usize]);
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

/// The announcements at the beginning of the first round's message.
fn announcements(message: &[u8], ranks: usize) -> Result<Vec<Announcement>, String> {
    let head = message.get(..head_bytes(ranks));
    let words: Vec<u64> = head.and_then(values_of).ok_or_else(|| {
        format!(
            "expected what {ranks} ranks get, got {} bytes",
            message.len()
        )
    })?;
    let words = words.as_chunks().0.iter();
    words
        .map(|words| Announcement::of_words(*words, ranks))
        .collect()
}

fn head_bytes(ranks: usize) -> usize {
    ranks * Announcement::WORDS * size_of::<u64>()
}

/// What a message of a round, whose sender made these announcements, holds for `rank`.
fn part_for<'a>(
    rank: usize,
    announced: &[Announcement],
    round: u64,
    limit: u64,
    message: &'a [u8],
) -> Result<&'a [u8], String> {
    let head = match round {
        0 => head_bytes(announced.len()),
        _ => 0,
    };
    let len = |announced: &Announcement| part_len(announced.posted(), round, limit);
    let before: u64 = announced[..rank].iter().map(len).sum();
    let start = head + before as usize;
    let end = start + len(&announced[rank]) as usize;
    message
        .get(start..end)
        .ok_or_else(|| format!("part {start}..{end} is beyond {} bytes", message.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::{Communicator, Settings, SharedMemory};

    #[test]
    fn rounds_make_up_a_message() {
        let lens = |size| [0, 1, 2, 3].map(|round| part_len(size, round, 10));
        assert_eq!(lens(25), [10, 10, 5, 0]);
        assert_eq!(lens(20), [10, 10, 0, 0]);
        assert_eq!(lens(0), [0; 4]);
        assert_eq!(lens(u64::MAX), [10; 4]);
    }

    #[test]
    fn announcements_come_back() {
        let segment = SegmentId {
            maker: 0,
            fd: u32::MAX,
        };
        for segment in [None, Some(segment)] {
            let announcement = Announcement { bytes: 5, segment };
            let words = announcement.words();
            assert_eq!(Announcement::of_words(words, 1).unwrap(), announcement);
        }
        assert!(Announcement::of_words([5, 2 << 32], 1).is_err());
    }

    #[test]
    fn a_rank_may_leave_as_soon_as_it_has_what_was_sent_to_it() {
        for _ in 0..300 {
            let ranks = SharedMemory::connect_threads(3, &Settings::default()).unwrap();
            std::thread::scope(|scope| {
                for rank in ranks {
                    scope.spawn(move || {
                        let message = |to: u8| {
                            let mut message = rank.message();
                            message.extend_from_slice(&[rank.rank() as u8, to]);
                            message
                        };
                        let messages = (0..3).map(message).collect();
                        let received = rank.all_to_all_bytes(messages).wait().unwrap();
                        for (from, message) in received.iter().enumerate() {
                            assert_eq!(message[..], [from as u8, rank.rank() as u8]);
                        }
                    });
                }
            });
        }
    }

    #[test]
    fn impossible_messages_are_refused() {
        let mut message = bytemuck::cast_slice::<u64, u8>(&[1, 0, 2, 0]).to_vec();
        message.extend([10, 20, 21]);
        let own = announcements(&message, 2).unwrap();
        assert_eq!(part_for(0, &own, 0, 64, &message).unwrap(), [10]);
        assert_eq!(part_for(1, &own, 0, 64, &message).unwrap(), [20, 21]);
        assert_eq!(part_for(1, &own, 1, 1, &[21]).unwrap(), [21]);
        message.pop();
        let refusal = part_for(1, &own, 0, 64, &message).unwrap_err();
        assert!(refusal.contains("beyond 34 bytes"), "{refusal}");
        let refusal = announcements(&message[..31], 2).unwrap_err();
        assert!(refusal.contains("2 ranks"), "{refusal}");
        let message = bytemuck::cast_slice::<u64, u8>(&[u64::MAX, 0, 0, 0]);
        let refusal = announcements(message, 2).unwrap_err();
        assert!(refusal.contains("at most"), "{refusal}");
    }
}
