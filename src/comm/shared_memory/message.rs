//! Messages whose memory changes hands.
//!
//! A message lies in a segment of its own, which its sender gives away with it: the receiver reads it there, and may
//! write its next message to the same memory. Whoever had a segment keeps it mapped, so that one that returns costs
//! nothing.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::segment::{MAX_SEGMENT_BYTES, Segment, SegmentFile};

/// Bytes of a new segment.
const FIRST_BYTES: u64 = 64 << 10;

/// Which segment: that of the rank that made it, and its file number there. The maker keeps the file open as long as
/// the communicator lives, so no other segment gets that number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SegmentId {
    pub(super) maker: u32,
    pub(super) fd: u32,
}

/// A segment as this rank has it.
struct Mapped {
    file: SegmentFile,
    segment: Segment,
}

impl Mapped {
    fn new(file: SegmentFile) -> io::Result<Self> {
        let segment = file.map()?;
        Ok(Self { file, segment })
    }

    /// Makes room for so many bytes, and for more, so that a growing message rarely needs it again.
    fn reserve(&mut self, bytes: usize) -> io::Result<()> {
        let old = self.file.bytes()?;
        let wanted = (bytes as u64 + bytes as u64 / 2).next_multiple_of(4096);
        if wanted > MAX_SEGMENT_BYTES {
            return Err(io::Error::other(
                "the message would exceed its bound of 1 TiB",
            ));
        }
        self.file.extend(old, wanted.saturating_sub(old))?;
        self.segment = self.file.map()?;
        Ok(())
    }

    /// Sees the bytes that another rank may have added.
    fn follow(&mut self, bytes: u64) -> io::Result<()> {
        if bytes > self.segment.bytes() as u64 {
            self.segment = self.file.map()?;
        }
        if bytes > self.segment.bytes() as u64 {
            let mapped = self.segment.bytes();
            return Err(io::Error::other(format!(
                "a message of {bytes} bytes in a segment of {mapped}"
            )));
        }
        Ok(())
    }
}

/// The segments of messages, as one rank of a communicator knows them.
pub(super) struct MessagePool {
    rank: u32,
    segments: Mutex<Segments>,
}

#[derive(Default)]
struct Segments {
    /// Those that are this rank's, and in no message.
    free: Vec<(SegmentId, Mapped)>,
    /// Those that another rank has at the moment.
    away: HashMap<SegmentId, Mapped>,
}

impl MessagePool {
    pub(super) fn new(rank: usize) -> Self {
        Self {
            rank: rank as u32,
            segments: Mutex::default(),
        }
    }

    /// An empty message.
    pub(super) fn message(self: &Arc<Self>) -> io::Result<SharedMessage> {
        let free = self.lock().free.pop();
        let (id, mapped) = match free {
            Some(free) => free,
            None => {
                let file = SegmentFile::create("streamrec-message", FIRST_BYTES)?;
                let (maker, fd) = (self.rank, file.number());
                (SegmentId { maker, fd }, Mapped::new(file)?)
            }
        };
        Ok(self.with(id, mapped, 0))
    }

    /// The message of so many bytes that another rank has handed over; `pid` is the process of the rank that made the
    /// segment.
    pub(super) fn take_over(
        self: &Arc<Self>,
        id: SegmentId,
        pid: u32,
        bytes: u64,
    ) -> io::Result<SharedMessage> {
        let known = self.lock().away.remove(&id);
        let mut mapped = match known {
            Some(mapped) => mapped,
            None => Mapped::new(SegmentFile::open(pid, id.fd)?)?,
        };
        mapped.follow(bytes)?;
        Ok(self.with(id, mapped, bytes as usize))
    }

    fn with(self: &Arc<Self>, id: SegmentId, mapped: Mapped, len: usize) -> SharedMessage {
        SharedMessage {
            pool: Arc::clone(self),
            id,
            mapped: Some(mapped),
            len,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Segments> {
        // Lists of segments are valid whatever their last holder did.
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message in a segment that is this rank's alone. Dropped, it leaves the segment for the next one.
pub(in crate::comm) struct SharedMessage {
    pool: Arc<MessagePool>,
    id: SegmentId,
    /// There until the message is handed over or dropped.
    mapped: Option<Mapped>,
    len: usize,
}

impl SharedMessage {
    pub(in crate::comm) fn bytes(&self) -> &[u8] {
        match &self.mapped {
            // SAFETY: The segment is this message's alone: another rank gave it up with the message that it handed
            // over, in a collective that has ended, and this rank gives it up with this message.
            Some(mapped) => unsafe { mapped.segment.slice(0, self.len) },
            None => &[],
        }
    }

    pub(in crate::comm) fn clear(&mut self) {
        self.len = 0;
    }

    /// # Errors
    /// When there is no memory; the message is as before.
    pub(in crate::comm) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(mapped) = &mut self.mapped else {
            return Err(io::Error::other("the message was handed over"));
        };
        let end = self.len.saturating_add(bytes.len());
        if end > mapped.segment.bytes() {
            mapped.reserve(end)?;
        }
        // SAFETY: As in `bytes`; within this process, `&mut self` excludes others.
        unsafe { mapped.segment.slice_mut(self.len, bytes.len()) }.copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    /// Whether it is of this pool, so that other ranks know its segment.
    pub(super) fn is_of(&self, pool: &Arc<MessagePool>) -> bool {
        Arc::ptr_eq(&self.pool, pool)
    }

    /// Gives the message up: the segment and the bytes in it, to be announced to the rank that
    /// [takes it over](MessagePool::take_over).
    pub(super) fn hand_over(mut self) -> (SegmentId, u64) {
        if let Some(mapped) = self.mapped.take() {
            self.pool.lock().away.insert(self.id, mapped);
        }
        (self.id, self.len as u64)
    }
}

impl Drop for SharedMessage {
    fn drop(&mut self) {
        if let Some(mapped) = self.mapped.take() {
            self.pool.lock().free.push((self.id, mapped));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools() -> [Arc<MessagePool>; 2] {
        [0, 1].map(|rank| Arc::new(MessagePool::new(rank)))
    }

    fn move_to(pool: &Arc<MessagePool>, message: SharedMessage) -> SharedMessage {
        let (id, bytes) = message.hand_over();
        pool.take_over(id, std::process::id(), bytes).unwrap()
    }

    #[test]
    fn memory_goes_to_and_fro_and_grows_on_either_side() {
        let [here, there] = pools();
        let mut message = here.message().unwrap();
        for round in 0..6u8 {
            message.clear();
            let bytes = vec![round; 10_000 << round];
            message.append(&bytes[..1]).unwrap();
            message.append(&bytes[1..]).unwrap();
            let segment = message.id;
            let pool = if round % 2 == 0 { &there } else { &here };
            message = move_to(pool, message);
            assert!(message.is_of(pool));
            assert_eq!((message.id, message.bytes()), (segment, bytes.as_slice()));
        }
    }

    #[test]
    fn what_is_dropped_serves_the_next_message() {
        let [here, there] = pools();
        let message = move_to(&there, here.message().unwrap());
        let segment = message.id;
        drop(message);
        assert_eq!(there.message().unwrap().id, segment);
        assert_ne!(here.message().unwrap().id, segment);
    }

    #[test]
    fn more_bytes_than_the_segment_has_are_refused() {
        let [here, there] = pools();
        let (id, _) = here.message().unwrap().hand_over();
        assert!(there.take_over(id, std::process::id(), 1 << 30).is_err());
        let unknown = SegmentId { maker: 0, fd: 9999 };
        assert!(there.take_over(unknown, std::process::id(), 1).is_err());
    }
}
