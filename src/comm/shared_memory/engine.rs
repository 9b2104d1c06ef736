//! What the communication thread of a rank owns, and the steps that all collectives share.
//!
//! ```text
//! post (optional) ─► meet: publish the call ▸ barrier ▸ compare ─► work ─► barrier (optional)
//! ```

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tracing::trace_span;

use super::Settings;
use super::barrier::{Barrier, Interruption};
use super::control::{Control, Note};
use super::mailbox::Mailbox;
use super::message::{MessagePool, SegmentId};
use crate::comm::CommError;
use crate::comm::call::{Call, Kind};
use crate::comm::failure::{Failure, Reason};

/// One rank of a group.
pub(super) struct Engine {
    pub(super) rank: usize,
    /// The world's number of each rank of the group.
    pub(super) world: Arc<[usize]>,
    pub(super) settings: Settings,
    pub(super) control: Arc<Control>,
    /// By rank; the own one is written, the others are read.
    pub(super) mailboxes: Vec<Mailbox>,
    pub(super) messages: Arc<MessagePool>,
    /// Segments of messages, with the ranks that have opened them; the same on all ranks.
    pub(super) opened: HashSet<(SegmentId, usize)>,
    /// The number of allocations so far.
    pub(super) allocations: u64,
    barrier: Barrier,
    /// The collective under way, or the last one.
    kind: Kind,
    sequence: u64,
    /// The failure after which nothing works any more.
    failure: Option<CommError>,
}

impl Engine {
    /// Joins the group of a control page as its `rank`. Waits for all ranks.
    pub(super) fn join(
        control: Control,
        rank: usize,
        world: Arc<[usize]>,
        settings: Settings,
    ) -> Result<Self, CommError> {
        let own = Mailbox::create(settings.segment_bytes as u64).map_err(|error| {
            memory_error("make a mailbox", settings.segment_bytes as u64, error)
        })?;
        if !control.join(rank, own.number()) {
            let problem = format!("another process or thread has connected as rank {rank}");
            return Err(CommError::Connect {
                rank: world[rank],
                problem,
            });
        }
        let control = Arc::new(control);
        let observer = Arc::clone(&settings.observer);
        let barrier = Barrier::new(
            Arc::clone(&control),
            rank,
            Arc::clone(&world),
            settings.timeout,
            observer,
        );
        let mut engine = Self {
            rank,
            world,
            settings,
            control,
            mailboxes: Vec::new(),
            messages: Arc::new(MessagePool::new(rank)),
            opened: HashSet::new(),
            allocations: 0,
            barrier,
            kind: Kind::Connect,
            sequence: 0,
            failure: None,
        };
        engine.run(Kind::Connect, |engine| engine.connect(own))?;
        Ok(engine)
    }

    fn connect(&mut self, own: Mailbox) -> Result<(), CommError> {
        self.meet(Call::new(Kind::Connect), Note::default())?;
        let mut own = Some(own);
        for rank in 0..self.size() {
            let (pid, fd) = self.control.process(rank);
            let mailbox = match own.take_if(|_| rank == self.rank) {
                Some(own) => own,
                None => Mailbox::open(pid, fd).map_err(|error| CommError::Connect {
                    rank: self.world[self.rank],
                    problem: format!(
                        "cannot open the mailbox of rank {}, /proc/{pid}/fd/{fd}: {error}",
                        self.world[rank]
                    ),
                })?,
            };
            self.mailboxes.push(mailbox);
        }
        self.synchronize()
    }

    pub(super) fn size(&self) -> usize {
        self.control.size()
    }

    /// Runs one collective. An error poisons the communicator, on all ranks.
    pub(super) fn run<T>(
        &mut self,
        kind: Kind,
        body: impl FnOnce(&mut Self) -> Result<T, CommError>,
    ) -> Result<T, CommError> {
        if let Some(cause) = &self.failure {
            let cause = Box::new(cause.clone());
            return Err(CommError::Poisoned { cause });
        }
        if let Some(failure) = self.control.failure() {
            // The others failed before this rank came: it reports what they do.
            let error = failure.error(&self.world);
            self.failure = Some(error.clone());
            return Err(error);
        }
        self.kind = kind;
        self.sequence += 1;
        self.settings.observer.enter(kind.name(), self.sequence);
        let result =
            trace_span!(parent: None, "collective", kind = kind.name()).in_scope(|| body(self));
        self.settings.observer.leave();
        if let Err(error) = &result {
            self.poison(error);
        }
        result
    }

    /// Goes on to the next collective inside of one, as all ranks do.
    pub(super) fn begin_next(&mut self) {
        self.sequence += 1;
    }

    /// After this nothing works any more, on any rank.
    pub(super) fn poison(&mut self, error: &CommError) {
        self.failure = Some(error.clone());
        // All ranks see a mismatch themselves, and each is called off; a recorded failure stays the first.
        let known = matches!(
            error,
            CommError::Mismatch { .. } | CommError::CalledOff { .. }
        );
        if !known {
            self.record(Reason::Failed, vec![self.rank], Duration::ZERO);
        }
    }

    /// Publishes this rank's call, waits for all ranks, and checks that all made the same call.
    /// Returns the notes of all ranks.
    pub(super) fn meet(&mut self, call: Call, note: Note) -> Result<Vec<Note>, CommError> {
        self.control.publish(self.rank, self.sequence, &call, note);
        self.synchronize()?;
        let (first, _) = self.control.call(0, self.sequence);
        let mut notes = Vec::with_capacity(self.size());
        for rank in 0..self.size() {
            let (theirs, note) = self.control.call(rank, self.sequence);
            if theirs != first {
                return Err(CommError::Mismatch {
                    sequence: self.sequence,
                    rank: self.world[0],
                    call: first.to_string(),
                    other_rank: self.world[rank],
                    other_call: theirs.to_string(),
                });
            }
            notes.push(note);
        }
        Ok(notes)
    }

    /// Waits until all ranks have come here too.
    pub(super) fn synchronize(&mut self) -> Result<(), CommError> {
        let interruption = match self.barrier.wait() {
            Ok(()) => return Ok(()),
            Err(interruption) => interruption,
        };
        Err(match interruption {
            Interruption::Failed(failure) => failure.error(&self.world),
            Interruption::Lost(ranks) => self.record(Reason::Lost, ranks, Duration::ZERO),
            Interruption::TimedOut { missing, waited } => {
                self.record(Reason::Timeout, missing, waited)
            }
            Interruption::CalledOff { missing, reason } => CommError::CalledOff {
                collective: self.kind.name(),
                sequence: self.sequence,
                missing: missing.iter().map(|rank| self.world[*rank]).collect(),
                reason,
            },
        })
    }

    /// The ranks of the world that have ended, or left this communicator.
    pub(super) fn ended(&mut self) -> Vec<usize> {
        let ended = self.barrier.ended().into_iter();
        ended.map(|rank| self.world[rank]).collect()
    }

    /// Tells all ranks of a failure, unless they know of an earlier one.
    fn record(&self, reason: Reason, ranks: Vec<usize>, waited: Duration) -> CommError {
        let failure = Failure {
            reason,
            kind: self.kind,
            sequence: self.sequence,
            ranks,
            waited,
        };
        self.control.fail(&failure);
        failure.error(&self.world)
    }

    /// Posts the concatenated parts as this rank's message for the collective under way.
    pub(super) fn post(&mut self, parts: &[&[u8]]) -> Result<Note, CommError> {
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        self.mailboxes[self.rank]
            .post(self.sequence, parts)
            .map_err(|error| memory_error("grow the mailbox", bytes, error))
    }

    /// Lets `read` see the message of `rank` for the collective under way.
    pub(super) fn with_message<T>(
        &mut self,
        rank: usize,
        note: Note,
        read: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<T, CommError> {
        // SAFETY: The note comes from `meet`, so all ranks have arrived at the collective under
        // way. The slice ends with `read`, before this rank goes to the next.
        let message = unsafe { self.mailboxes[rank].message(note) };
        let result = message.map_err(|error| error.to_string()).and_then(read);
        result.map_err(|problem| CommError::Corrupt {
            collective: self.kind.name(),
            rank: self.world[rank],
            problem,
        })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.control.leave(self.rank);
    }
}

pub(super) fn memory_error(action: &'static str, bytes: u64, error: io::Error) -> CommError {
    CommError::Memory {
        action,
        bytes,
        source: Arc::new(error),
    }
}
