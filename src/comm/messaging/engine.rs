//! What the communication thread of a rank owns, and the steps that all collectives share.
//!
//! ```text
//! meet: a message to each rank, with the call and what is small ▸ one from each ▸ compare ─► the rest of the data
//! ```
//! A rank that fails tells all others, and whoever drops its communicator says so too. Both are noticed while waiting
//! for anything.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::trace_span;

use super::message::{Arrival, Message};
use super::wait::Wait;
use super::{Heard, Refusal, Transport};
use crate::comm::call::{Call, Kind};
use crate::comm::failure::{Failure, Reason};
use crate::comm::{CommError, Settings};

/// How long a rank that has failed tries to tell the others.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Tells the communicators of this process apart.
static TOKENS: AtomicU64 = AtomicU64::new(1);

/// One rank of a group.
pub(in crate::comm) struct Engine<T: Transport> {
    pub(in crate::comm) rank: usize,
    /// The world's number of each rank of the group.
    pub(in crate::comm) world: Arc<[usize]>,
    pub(in crate::comm) settings: Settings,
    pub(in crate::comm) transport: T,
    pub(super) token: u64,
    /// The number of allocations so far.
    pub(super) allocations: u64,
    /// The messages of each rank for the collective under way and the next.
    pub(super) peers: Vec<Peer>,
    /// What the last exchange sent, for the next to receive into: fresh memory costs more than the transfer.
    pub(super) spare: Vec<Vec<u8>>,
    pub(super) kind: Kind,
    pub(super) sequence: u64,
    /// What another rank told.
    heard: Option<Failure>,
    /// Whether every rank has a core of its own.
    pub(super) spins: bool,
    /// Whether this rank takes leave when it drops the engine.
    pub(in crate::comm) takes_leave: bool,
    /// The failure after which nothing works any more.
    failure: Option<CommError>,
}

#[derive(Default)]
pub(super) struct Peer {
    arrivals: VecDeque<Arrival>,
    /// It has said that it leaves.
    has_left: bool,
    /// Nothing comes from it any more.
    has_closed: bool,
    /// When it said that it waits for others itself.
    pub(super) waits: Option<Instant>,
}

/// What a collective waits for, once all ranks have come to it.
pub(in crate::comm) trait Work<T: Transport> {
    /// Goes on as far as it can without waiting; returns whether anything happened.
    fn advance(&mut self, engine: &mut Engine<T>) -> Result<bool, Refusal>;

    fn is_done(&self) -> bool;

    /// The ranks that have yet to send something, ascending.
    fn missing(&self) -> Vec<usize>;

    /// Gives up.
    fn abandon(&mut self, _engine: &mut Engine<T>) {}
}

impl<T: Transport> Engine<T> {
    pub(in crate::comm) fn new(
        rank: usize,
        world: Arc<[usize]>,
        transport: T,
        settings: Settings,
    ) -> Self {
        // With more ranks than cores, spinning would only keep the awaited rank from running.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spins = world.len() <= cores;
        let peers = world.iter().map(|_| Peer::default()).collect();
        Self {
            rank,
            world,
            settings,
            transport,
            token: TOKENS.fetch_add(1, Ordering::Relaxed),
            allocations: 0,
            peers,
            spare: Vec::new(),
            kind: Kind::Connect,
            sequence: 0,
            heard: None,
            spins,
            takes_leave: true,
            failure: None,
        }
    }

    /// A new engine that has met the others.
    pub(in crate::comm) fn join(
        rank: usize,
        world: Arc<[usize]>,
        transport: T,
        settings: Settings,
    ) -> Result<Self, CommError> {
        let mut engine = Self::new(rank, world, transport, settings);
        engine.run(Kind::Connect, |engine| engine.greet(Kind::Connect))?;
        Ok(engine)
    }

    pub(in crate::comm) fn size(&self) -> usize {
        self.world.len()
    }

    /// The number of the collective under way, or of the last one.
    pub(in crate::comm) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(in crate::comm) fn others(&self) -> impl Iterator<Item = usize> + use<T> {
        let own = self.rank;
        (0..self.size()).filter(move |rank| *rank != own)
    }

    /// Runs one collective. An error poisons the communicator, on all ranks.
    pub(in crate::comm) fn run<R>(
        &mut self,
        kind: Kind,
        body: impl FnOnce(&mut Self) -> Result<R, CommError>,
    ) -> Result<R, CommError> {
        if let Some(cause) = &self.failure {
            let cause = Box::new(cause.clone());
            return Err(CommError::Poisoned { cause });
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

    /// Tells the others, unless they told this rank, see the same themselves or are told by whoever started all.
    fn poison(&mut self, error: &CommError) {
        self.failure = Some(error.clone());
        let silent = matches!(
            error,
            CommError::Mismatch { .. } | CommError::CalledOff { .. } | CommError::Abandoned
        );
        if self.heard.is_some() || silent {
            return;
        }
        let own = |group: &Self, ranks: &[usize]| -> Vec<usize> {
            let place = |rank: &usize| group.world.iter().position(|other| other == rank);
            ranks.iter().filter_map(place).collect()
        };
        let (reason, ranks, waited) = match error {
            CommError::Timeout {
                missing, waited, ..
            } => (Reason::Timeout, own(self, missing), *waited),
            CommError::Lost { ranks, .. } => (Reason::Lost, own(self, ranks), Duration::ZERO),
            _ => (Reason::Failed, vec![self.rank], Duration::ZERO),
        };
        let failure = Failure {
            reason,
            kind: self.kind,
            sequence: self.sequence,
            ranks,
            waited,
        };
        self.say_to_all(&Message::Failed(failure));
    }

    /// Says something to all, with little patience: for what nobody answers.
    fn say_to_all(&mut self, message: &Message) {
        let told = self.others().try_for_each(|rank| self.say(rank, message));
        let mut wait = Wait::new();
        while told.is_ok() && wait.waited() < LAST_WORDS {
            if self.transport.is_abandoned() || !matches!(self.transport.push(), Ok(false)) {
                return;
            }
            self.rest(&mut wait, false);
        }
    }

    pub(super) fn say(&mut self, rank: usize, message: &Message) -> Result<(), Refusal> {
        self.transport.say(rank, message.encode())
    }

    /// Takes the messages that have come; returns whether there were any.
    fn listen(&mut self) -> Result<bool, CommError> {
        let mut moved = false;
        let pushed = self.transport.push();
        pushed.map_err(|refusal| self.refused(refusal))?;
        loop {
            let heard = self.transport.hear();
            match heard.map_err(|refusal| self.refused(refusal))? {
                Some(Heard::Message { from, text }) => moved |= self.hear(from, &text)?,
                Some(Heard::Closed { from }) => {
                    self.peers[from].has_closed = true;
                    moved = true;
                }
                None => return Ok(moved),
            }
        }
    }

    /// Takes note of a message; returns whether its sender gets on.
    fn hear(&mut self, from: usize, text: &[u8]) -> Result<bool, CommError> {
        match Message::decode(text, self.size()) {
            Ok(Message::Call(arrival)) => self.peers[from].arrivals.push_back(arrival),
            Ok(Message::Left) => self.peers[from].has_left = true,
            Ok(Message::Failed(failure)) => {
                self.heard.get_or_insert(failure);
                return Ok(false);
            }
            Ok(Message::Ask) => {
                // This rank listens only while it waits.
                let answered = self.say(from, &Message::Wait);
                answered.map_err(|refusal| self.refused(refusal))?;
                return Ok(false);
            }
            Ok(Message::Wait) => {
                self.peers[from].waits = Some(Instant::now());
                return Ok(false);
            }
            Err(problem) => return Err(self.corrupt(from, problem)),
        }
        Ok(true)
    }

    /// Meets all ranks in a call without data.
    pub(in crate::comm) fn greet(&mut self, kind: Kind) -> Result<(), CommError> {
        self.meet(Call::new(kind), |_| &[])?;
        Ok(())
    }

    /// Tells every rank this rank's call and what it has for it, and waits for theirs; checks that all made the same
    /// call. `data(r)` are those for rank r. Returns what each rank has for this one, with an empty one of its own.
    pub(super) fn meet<'a>(
        &mut self,
        call: Call,
        data: impl Fn(usize) -> &'a [u8],
    ) -> Result<Vec<Arrival>, CommError> {
        for rank in self.others() {
            let data = data(rank);
            let arrival = Arrival {
                sequence: self.sequence,
                call,
                bytes: data.len() as u64,
                inline: (data.len() <= T::INLINE_BYTES).then(|| data.to_vec()),
            };
            self.say(rank, &Message::Call(arrival))
                .map_err(|refusal| self.refused(refusal))?;
        }
        self.gather_arrivals()?;
        let mut arrivals = Vec::with_capacity(self.size());
        for rank in 0..self.size() {
            let own = Arrival {
                sequence: self.sequence,
                call,
                bytes: 0,
                inline: None,
            };
            arrivals.push(self.peers[rank].arrivals.pop_front().unwrap_or(own));
        }
        self.compare(&arrivals)?;
        Ok(arrivals)
    }

    fn gather_arrivals(&mut self) -> Result<(), CommError> {
        let mut wait = Wait::new();
        let missing = |engine: &Self| -> Vec<usize> {
            let has_come = |rank: &usize| engine.peers[*rank].arrivals.is_empty();
            engine.others().filter(has_come).collect()
        };
        loop {
            let moved = self.listen()?;
            // A rank that comes when the others have given up finds their calls, and that they failed.
            let is_over =
                (self.heard.as_ref()).is_some_and(|failure| failure.sequence <= self.sequence);
            let mut others = self.others();
            if !is_over && others.all(|rank| !self.peers[rank].arrivals.is_empty()) {
                // The others must not wait for this rank's call until it comes to the next.
                let pushed = self.transport.push();
                if pushed.map_err(|refusal| self.refused(refusal))? {
                    return Ok(());
                }
            }
            self.check_others(missing, |peer| peer.has_left || peer.has_closed)?;
            self.keep_waiting(&mut wait, moved, missing)?;
        }
    }

    fn compare(&self, arrivals: &[Arrival]) -> Result<(), CommError> {
        let first = arrivals[0].call;
        for (rank, arrival) in arrivals.iter().enumerate() {
            if arrival.call != first {
                return Err(CommError::Mismatch {
                    sequence: self.sequence,
                    rank: self.world[0],
                    call: first.to_string(),
                    other_rank: self.world[rank],
                    other_call: arrival.call.to_string(),
                });
            }
            if arrival.sequence != self.sequence {
                let problem = format!(
                    "expected collective number {}, got {}",
                    self.sequence, arrival.sequence
                );
                return Err(self.corrupt(rank, problem));
            }
        }
        Ok(())
    }

    /// Does what all ranks have met for.
    pub(in crate::comm) fn complete(&mut self, work: &mut impl Work<T>) -> Result<(), CommError> {
        let completed = self.drive(work);
        if completed.is_err() {
            work.abandon(self);
        }
        completed
    }

    fn drive(&mut self, work: &mut impl Work<T>) -> Result<(), CommError> {
        let mut wait = Wait::new();
        loop {
            let moved = work
                .advance(self)
                .map_err(|refusal| self.refused(refusal))?;
            if work.is_done() {
                return Ok(());
            }
            let moved = self.listen()? || moved;
            // Who has left had done its part.
            self.check_others(|_| work.missing(), |peer| peer.has_closed)?;
            self.keep_waiting(&mut wait, moved, |_| work.missing())?;
        }
    }

    /// An error where another rank told of one, or one of those that are missing `is_gone`.
    fn check_others(
        &self,
        missing: impl FnOnce(&Self) -> Vec<usize>,
        is_gone: impl Fn(&Peer) -> bool,
    ) -> Result<(), CommError> {
        if self.transport.is_abandoned() {
            return Err(CommError::Abandoned);
        }
        if let Some(failure) = &self.heard {
            return Err(failure.error(&self.world));
        }
        if !self.peers.iter().any(&is_gone) {
            return Ok(());
        }
        let mut lost = missing(self);
        lost.retain(|rank| is_gone(&self.peers[*rank]));
        if lost.is_empty() {
            return Ok(());
        }
        Err(CommError::Lost {
            collective: self.kind.name(),
            sequence: self.sequence,
            ranks: self.of_world(&lost),
        })
    }

    /// The ranks of the world that have ended, or left this communicator, as far as they can be heard.
    pub(super) fn ended(&mut self) -> Vec<usize> {
        loop {
            self.transport.pause(Duration::ZERO, true);
            match self.listen() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    if self.failure.is_none() {
                        self.poison(&error);
                    }
                    break;
                }
            }
        }
        let is_gone = |rank: &usize| self.peers[*rank].has_left || self.peers[*rank].has_closed;
        let ended: Vec<usize> = self.others().filter(is_gone).collect();
        self.of_world(&ended)
    }

    /// The numbers in the world of ranks of the group, ascending.
    pub(super) fn of_world(&self, ranks: &[usize]) -> Vec<usize> {
        let mut ranks: Vec<usize> = ranks.iter().map(|rank| self.world[*rank]).collect();
        ranks.sort_unstable();
        ranks
    }

    pub(in crate::comm) fn refused(&self, refusal: Refusal) -> CommError {
        if let Some(rank) = refusal.corrupt {
            return self.corrupt(rank, refusal.problem);
        }
        CommError::Transport {
            collective: self.kind.name(),
            sequence: self.sequence,
            problem: refusal.problem,
        }
    }

    pub(in crate::comm) fn corrupt(&self, rank: usize, problem: String) -> CommError {
        CommError::Corrupt {
            collective: self.kind.name(),
            rank: self.world[rank],
            problem,
        }
    }

    /// Says farewell, or what is wrong; where the transport needs that, waits for the farewell of the others.
    fn leave(&mut self) {
        if self.transport.is_abandoned() || !self.takes_leave {
            return;
        }
        // Whoever hears of a failure from nobody else must not think that this rank is to blame.
        let farewell = self.heard.clone().map_or(Message::Left, Message::Failed);
        self.say_to_all(&farewell);
        if !T::WAITS_FOR_FAREWELLS {
            return;
        }
        let mut wait = Wait::new();
        while self.failure.is_none() && wait.waited() < self.settings.timeout {
            let mut others = self.others();
            let is_over = others.all(|rank| self.peers[rank].has_left);
            if is_over && matches!(self.transport.push(), Ok(true)) {
                return;
            }
            if self.transport.is_abandoned() || self.heard.is_some() || self.listen().is_err() {
                return;
            }
            self.rest(&mut wait, false);
        }
    }
}

impl<T: Transport> Drop for Engine<T> {
    fn drop(&mut self) {
        self.leave();
    }
}
