//! The control page of a communicator: who has arrived where, with which call, and what failed.
//!
//! ```text
//! ┌────────┬──────┬─────────┬────────┬────────┬─────┐
//! │ header │ bell │ failure │ slot 0 │ slot 1 │ ... │   one segment, of the group's rank 0
//! └────────┴──────┴─────────┴────────┴────────┴─────┘
//! ```
//! Only rank r writes slot r. All fields are atomics.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rustix::thread::futex;

use super::address::{Address, boot_id, fresh_token};
use super::segment::{Atomics, Segment, SegmentFile};
use crate::comm::call::{Call, Kind};
use crate::comm::failure::{Failure, Reason};

/// The largest group: a bound for the record of missing ranks.
pub(super) const MAX_RANKS: usize = 1024;

/// Tells a control page from other memory; its last digits are the version of the layout.
const MAGIC: u64 = 0x5354_5245_434d_0001;

#[repr(C, align(128))]
struct Header {
    magic: AtomicU64,
    token: AtomicU64,
    size: AtomicU64,
    bell: Bell,
    failure: FailureRecord,
}

// SAFETY: All fields are atomics, or structs or arrays of atomics.
unsafe impl Atomics for Header {}

/// What sleeping ranks wait on.
#[repr(C, align(128))]
struct Bell {
    /// Counts rings; the futex word.
    rings: AtomicU32,
    /// The number of ranks that may be asleep: without any, ringing needs no system call.
    sleepers: AtomicU32,
}

#[repr(C, align(128))]
struct FailureRecord {
    /// 0 nothing, 1 being written, 2 complete.
    state: AtomicU32,
    reason: AtomicU32,
    kind: AtomicU32,
    sequence: AtomicU64,
    waited_us: AtomicU64,
    ranks: [AtomicU64; MAX_RANKS / 64],
}

#[repr(C, align(128))]
struct Slot {
    /// The number of barriers that the rank has come to.
    arrived: AtomicU64,
    /// 1 once the rank has dropped the communicator.
    left: AtomicU32,
    /// The process of the rank; 0 until it has joined.
    pid: AtomicU32,
    /// The file number of the rank's mailbox in that process.
    mailbox: AtomicU32,
    /// The calls of even and odd sequence numbers. A rank cannot be two collectives ahead of
    /// another, so a call is not overwritten before all have read it.
    calls: [CallRecord; 2],
}

// SAFETY: All fields are atomics, or structs or arrays of atomics.
unsafe impl Atomics for Slot {}

#[repr(C)]
#[derive(Default)]
struct CallRecord {
    kind: AtomicU32,
    argument: AtomicU32,
    len: AtomicU64,
    buffer: AtomicU64,
    offset: AtomicU64,
    bytes: AtomicU64,
}

/// Where a rank has put its message for a collective: in its mailbox. For an allocation,
/// `offset` is the file number of its new segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// A mapped control page.
pub(super) struct Control {
    segment: Segment,
    size: usize,
}

impl Control {
    /// Makes the page of a group of `size` ranks. The file must stay open until all have joined.
    pub(super) fn create(size: usize) -> std::io::Result<(Self, SegmentFile, Address)> {
        let bytes = size_of::<Header>() + size * size_of::<Slot>();
        let file = SegmentFile::create("streamrec-control", bytes as u64)?;
        let control = Self {
            segment: file.map()?,
            size,
        };
        let address = Address::of_own(file.number(), fresh_token()?)?;
        let header = control.header();
        header.token.store(address.token, Ordering::Relaxed);
        header.size.store(size as u64, Ordering::Relaxed);
        header.magic.store(MAGIC, Ordering::Release);
        Ok((control, file, address))
    }

    /// Opens the page that another rank made for a group of `size` ranks.
    pub(super) fn open(address: &Address, size: usize) -> Result<Self, String> {
        let here = boot_id().map_err(|error| error.to_string())?;
        if address.boot_id != here {
            return Err(
                "rank 0 is on another host, but shared memory reaches one host only; \
                        use another communicator"
                    .to_owned(),
            );
        }
        let Address { pid, fd, token, .. } = *address;
        let segment = SegmentFile::open(pid, fd).and_then(|file| file.map()).map_err(|error| {
            format!(
                "cannot open the control page of rank 0, /proc/{pid}/fd/{fd}: {error}; ranks must \
                 share a host, a user and a process namespace"
            )
        })?;
        let control = Self { segment, size };
        let expected = size_of::<Header>() + size * size_of::<Slot>();
        let stale = control.segment.bytes() < size_of::<Header>() || {
            let header = control.header();
            header.magic.load(Ordering::Acquire) != MAGIC
                || header.token.load(Ordering::Relaxed) != token
        };
        if stale {
            return Err(
                "the address of rank 0 is stale, or rank 0 runs another version; \
                        restart the job with a fresh rendezvous"
                    .to_owned(),
            );
        }
        let theirs = control.header().size.load(Ordering::Relaxed);
        if theirs != size as u64 || control.segment.bytes() < expected {
            return Err(format!(
                "this rank expects {size} ranks, but rank 0 expects {theirs}"
            ));
        }
        Ok(control)
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn token(&self) -> u64 {
        self.header().token.load(Ordering::Relaxed)
    }

    fn header(&self) -> &Header {
        self.segment.atomics(0)
    }

    fn slot(&self, rank: usize) -> &Slot {
        self.segment
            .atomics(size_of::<Header>() + rank * size_of::<Slot>())
    }

    /// Takes the slot of `rank`; `false` if another process or thread has it.
    pub(super) fn join(&self, rank: usize, mailbox: u32) -> bool {
        let slot = self.slot(rank);
        let free =
            slot.pid
                .compare_exchange(0, std::process::id(), Ordering::AcqRel, Ordering::Relaxed);
        if free.is_ok() {
            slot.mailbox.store(mailbox, Ordering::Release);
        }
        free.is_ok()
    }

    /// The process and the mailbox of a rank that has arrived once.
    pub(super) fn process(&self, rank: usize) -> (u32, u32) {
        let slot = self.slot(rank);
        (
            slot.pid.load(Ordering::Acquire),
            slot.mailbox.load(Ordering::Acquire),
        )
    }

    /// Publishes the call of `rank` with this sequence number; its next arrival makes it visible.
    pub(super) fn publish(&self, rank: usize, sequence: u64, call: &Call, note: Note) {
        let record = &self.slot(rank).calls[(sequence % 2) as usize];
        record.kind.store(call.kind as u32, Ordering::Relaxed);
        record.argument.store(call.argument, Ordering::Relaxed);
        record.len.store(call.len, Ordering::Relaxed);
        record.buffer.store(call.buffer, Ordering::Relaxed);
        record.offset.store(note.offset, Ordering::Relaxed);
        record.bytes.store(note.bytes, Ordering::Relaxed);
    }

    /// The call of a rank that has arrived.
    pub(super) fn call(&self, rank: usize, sequence: u64) -> (Call, Note) {
        let record = &self.slot(rank).calls[(sequence % 2) as usize];
        let call = Call {
            kind: Kind::from_number(record.kind.load(Ordering::Relaxed)),
            argument: record.argument.load(Ordering::Relaxed),
            len: record.len.load(Ordering::Relaxed),
            buffer: record.buffer.load(Ordering::Relaxed),
        };
        let note = Note {
            offset: record.offset.load(Ordering::Relaxed),
            bytes: record.bytes.load(Ordering::Relaxed),
        };
        (call, note)
    }

    /// Comes to barrier number `phase`; the last to come wakes the others.
    pub(super) fn arrive(&self, rank: usize, phase: u64) {
        // Sequentially consistent, as is the check: of two ranks that come at the same time, at
        // least one sees both.
        self.slot(rank).arrived.store(phase, Ordering::SeqCst);
        if self.is_complete(phase) {
            self.ring();
        }
    }

    pub(super) fn has_arrived(&self, rank: usize, phase: u64) -> bool {
        self.slot(rank).arrived.load(Ordering::SeqCst) >= phase
    }

    /// Whether all ranks have come to barrier number `phase`. What they wrote before is visible.
    pub(super) fn is_complete(&self, phase: u64) -> bool {
        (0..self.size).all(|rank| self.has_arrived(rank, phase))
    }

    /// Marks the rank as gone and wakes those that wait for it.
    pub(super) fn leave(&self, rank: usize) {
        self.slot(rank).left.store(1, Ordering::SeqCst);
        self.ring();
    }

    pub(super) fn has_left(&self, rank: usize) -> bool {
        self.slot(rank).left.load(Ordering::SeqCst) != 0
    }

    /// The bell's count, to be read before looking for what [`ring`](Self::ring) announces.
    pub(super) fn rings(&self) -> u32 {
        self.header().bell.rings.load(Ordering::SeqCst)
    }

    pub(super) fn ring(&self) {
        let bell = &self.header().bell;
        bell.rings.fetch_add(1, Ordering::SeqCst);
        if bell.sleepers.load(Ordering::SeqCst) != 0 {
            // A failure would only delay the sleepers: they wake by themselves now and then.
            let _ = futex::wake(&bell.rings, futex::Flags::empty(), i32::MAX as u32);
        }
    }

    /// Sleeps until the bell has rung more than `rings` times, or for `limit`, or less.
    pub(super) fn sleep(&self, rings: u32, limit: Duration) {
        let bell = &self.header().bell;
        let limit = futex::Timespec {
            tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        bell.sleepers.fetch_add(1, Ordering::SeqCst);
        // Whatever the reason for waking is: the caller looks for itself.
        let _ = futex::wait(&bell.rings, futex::Flags::empty(), rings, Some(&limit));
        bell.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Records the first failure, and wakes all ranks; later ones change nothing.
    pub(super) fn fail(&self, failure: &Failure) {
        let record = &self.header().failure;
        let first = record
            .state
            .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed);
        if first.is_err() {
            return;
        }
        record
            .reason
            .store(failure.reason as u32, Ordering::Relaxed);
        record.kind.store(failure.kind as u32, Ordering::Relaxed);
        record.sequence.store(failure.sequence, Ordering::Relaxed);
        let waited_us = u64::try_from(failure.waited.as_micros()).unwrap_or(u64::MAX);
        record.waited_us.store(waited_us, Ordering::Relaxed);
        for rank in &failure.ranks {
            record.ranks[rank / 64].fetch_or(1 << (rank % 64), Ordering::Relaxed);
        }
        record.state.store(2, Ordering::SeqCst);
        self.ring();
    }

    /// The first failure, if there is one.
    pub(super) fn failure(&self) -> Option<Failure> {
        let record = &self.header().failure;
        if record.state.load(Ordering::SeqCst) != 2 {
            return None;
        }
        let is_set = |rank: &usize| {
            record.ranks[rank / 64].load(Ordering::Relaxed) & (1 << (rank % 64)) != 0
        };
        Some(Failure {
            reason: Reason::from_number(record.reason.load(Ordering::Relaxed)),
            kind: Kind::from_number(record.kind.load(Ordering::Relaxed)),
            sequence: record.sequence.load(Ordering::Relaxed),
            ranks: (0..self.size).filter(is_set).collect(),
            waited: Duration::from_micros(record.waited_us.load(Ordering::Relaxed)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_see_the_same_failure() {
        let (control, _file, address) = Control::create(130).unwrap();
        let other = Control::open(&address, 130).unwrap();
        assert_eq!(other.failure(), None);
        let failure = Failure {
            reason: Reason::Timeout,
            kind: Kind::AllGather,
            sequence: 9,
            ranks: vec![0, 63, 64, 129],
            waited: Duration::from_millis(5),
        };
        control.fail(&failure);
        let later = Failure {
            ranks: vec![5],
            ..failure.clone()
        };
        control.fail(&later);
        assert_eq!(other.failure(), Some(failure));
    }

    #[test]
    fn a_control_page_of_another_world_is_refused() {
        let (_control, _file, address) = Control::create(2).unwrap();
        let refusal = |address: &Address, size| Control::open(address, size).err().unwrap();
        assert!(refusal(&address, 3).contains("expects 3 ranks, but rank 0 expects 2"));
        let stale = Address {
            token: address.token ^ 1,
            ..address.clone()
        };
        assert!(refusal(&stale, 2).contains("stale"));
        let elsewhere = Address {
            boot_id: "other".to_owned(),
            ..address
        };
        assert!(refusal(&elsewhere, 2).contains("another host"));
    }

    #[test]
    fn a_rank_can_be_taken_once() {
        let (control, _file, _address) = Control::create(2).unwrap();
        assert!(control.join(1, 5));
        assert!(!control.join(1, 6));
        assert_eq!(control.process(1), (std::process::id(), 5));
    }
}
