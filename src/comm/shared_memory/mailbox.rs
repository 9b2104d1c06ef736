//! Messages of any size: each rank writes its own mailbox, and all read it.
//!
//! A mailbox has a region for even and one for odd sequence numbers. Since no rank is two
//! collectives ahead of another, a message is not overwritten before all have read it, and a
//! collective needs one barrier only. A region that is too small is abandoned for a larger one
//! at the end of the file.

use std::io;

use super::control::Note;
use super::segment::{ALIGNMENT, MAX_SEGMENT_BYTES, Segment, SegmentFile};

/// A rank's mailbox, seen from this process.
pub(super) struct Mailbox {
    file: SegmentFile,
    segment: Segment,
    /// Used by the owner.
    regions: [Region; 2],
}

#[derive(Clone, Copy)]
struct Region {
    offset: u64,
    bytes: u64,
}

impl Mailbox {
    /// Creates this rank's mailbox for messages of `bytes` each.
    pub(super) fn create(bytes: u64) -> io::Result<Self> {
        let bytes = bytes
            .clamp(ALIGNMENT, MAX_SEGMENT_BYTES / 4)
            .next_multiple_of(ALIGNMENT);
        let file = SegmentFile::create("streamrec-mailbox", 2 * bytes)?;
        let segment = file.map()?;
        let regions = [
            Region { offset: 0, bytes },
            Region {
                offset: bytes,
                bytes,
            },
        ];
        Ok(Self {
            file,
            segment,
            regions,
        })
    }

    /// Opens the mailbox of another rank.
    pub(super) fn open(pid: u32, fd: u32) -> io::Result<Self> {
        let file = SegmentFile::open(pid, fd)?;
        let segment = file.map()?;
        Ok(Self {
            file,
            segment,
            regions: [Region {
                offset: 0,
                bytes: 0,
            }; 2],
        })
    }

    /// The file number of the mailbox in this process.
    pub(super) fn number(&self) -> u32 {
        self.file.number()
    }

    /// Writes the concatenated `parts` as the message of the owner, this rank, for the collective
    /// with this sequence number. To be called before the rank arrives at it.
    pub(super) fn post(&mut self, sequence: u64, parts: &[&[u8]]) -> io::Result<Note> {
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        let parity = (sequence % 2) as usize;
        if self.regions[parity].bytes < bytes {
            self.regions[parity] = self.append(bytes)?;
        }
        let start = self.regions[parity].offset;
        let mut offset = start as usize;
        for part in parts {
            // SAFETY: The others read this region only between the arrival of all ranks at this
            // collective, which this rank has not come to yet, and their own arrival at the next;
            // for the collective two before this one, all have come to the next already. Within
            // this process, `&mut self` excludes others.
            unsafe { self.segment.slice_mut::<u8>(offset, part.len()) }.copy_from_slice(part);
            offset += part.len();
        }
        Ok(Note {
            offset: start,
            bytes,
        })
    }

    /// A new region for at least `bytes`, generous, so that growing messages rarely need another.
    fn append(&mut self, bytes: u64) -> io::Result<Region> {
        let start = self.file.bytes()?.next_multiple_of(ALIGNMENT);
        let bytes = bytes.saturating_add(bytes / 2).next_multiple_of(4096);
        if bytes > MAX_SEGMENT_BYTES - start {
            return Err(io::Error::other(
                "the mailbox would exceed its bound of 1 TiB",
            ));
        }
        self.file.extend(start, bytes)?;
        self.segment = self.file.map()?;
        Ok(Region {
            offset: start,
            bytes,
        })
    }

    /// The message that the owner announced with `note`.
    ///
    /// # Safety
    /// All ranks have arrived at the collective of the note, and the slice is dropped before
    /// this rank arrives at the next.
    pub(super) unsafe fn message(&mut self, note: Note) -> io::Result<&[u8]> {
        let end = note.offset.saturating_add(note.bytes);
        if end > self.segment.bytes() as u64 {
            self.segment = self.file.map()?;
        }
        if end > self.segment.bytes() as u64 {
            let bytes = self.segment.bytes();
            return Err(io::Error::other(format!(
                "it ends at byte {end} of {bytes}"
            )));
        }
        // SAFETY: The owner rewrites the region only after all ranks have arrived at the next
        // collective, which the caller has not.
        Ok(unsafe {
            self.segment
                .slice(note.offset as usize, note.bytes as usize)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_follows_a_growing_mailbox() {
        let mut own = Mailbox::create(64).unwrap();
        let mut theirs = Mailbox::open(std::process::id(), own.number()).unwrap();
        for sequence in 0..12u64 {
            let message = vec![sequence as u8; 3 << (2 * sequence).min(16)];
            let note = own.post(sequence, &[&message[..1], &message[1..]]).unwrap();
            // SAFETY: This thread alone reads and writes, one after the other.
            assert_eq!(unsafe { theirs.message(note) }.unwrap(), message);
        }
    }

    #[test]
    fn neighbouring_messages_do_not_touch() {
        let mut own = Mailbox::create(64).unwrap();
        let first = own.post(0, &[&[1; 500]]).unwrap();
        let second = own.post(1, &[&[2; 64]]).unwrap();
        // SAFETY: This thread alone reads and writes, one after the other.
        unsafe {
            assert_eq!(own.message(first).unwrap(), [1; 500]);
            assert_eq!(own.message(second).unwrap(), [2; 64]);
        }
    }

    #[test]
    fn a_note_beyond_the_end_is_an_error() {
        let mut own = Mailbox::create(64).unwrap();
        for note in [
            Note {
                offset: 0,
                bytes: 1 << 20,
            },
            Note {
                offset: u64::MAX,
                bytes: 2,
            },
        ] {
            // SAFETY: This thread alone has the mailbox.
            assert!(unsafe { own.message(note) }.is_err());
        }
    }
}
