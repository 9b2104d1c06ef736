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

use super::job::Member;
use super::memory::{Link, Memory, Refusal};
use super::message::{Arrival, INLINE_BYTES, Message};
use super::wait::Wait;
use crate::comm::call::{Call, Kind};
use crate::comm::failure::{Failure, Reason};
use crate::comm::{CommError, Settings};

/// The tag of messages; data have others.
const MESSAGE_TAG: i32 = 1;

/// How long a rank that has failed tries to tell the others.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Tells the communicators of this process apart.
static TOKENS: AtomicU64 = AtomicU64::new(1);

/// One rank of a group.
pub(super) struct Engine {
    pub(super) rank: usize,
    /// The world's number of each rank of the group.
    pub(super) world: Arc<[usize]>,
    pub(super) settings: Settings,
    pub(super) link: Link,
    pub(super) member: Member,
    pub(super) token: u64,
    /// The number of allocations so far.
    pub(super) allocations: u64,
    /// The messages of each rank for the collective under way and the next.
    peers: Vec<Peer>,
    /// A message that is being received.
    incoming: Option<(usize, Memory<()>)>,
    /// Messages that are being sent.
    outgoing: Vec<Memory<()>>,
    /// What the last exchange sent, for the next to receive into: fresh memory costs more than the transfer.
    pub(super) spare: Vec<Vec<u8>>,
    kind: Kind,
    sequence: u64,
    /// What another rank told.
    heard: Option<Failure>,
    /// Whether every rank has a core of its own.
    spins: bool,
    /// Whether it is a communicator of ours, of which ranks take leave.
    pub(super) is_ours: bool,
    /// The failure after which nothing works any more.
    failure: Option<CommError>,
}

#[derive(Default)]
struct Peer {
    arrivals: VecDeque<Arrival>,
    has_left: bool,
    /// When it said that it waits for others itself.
    waits: Option<Instant>,
}

/// What a collective waits for, once all ranks have come to it.
pub(super) trait Work {
    /// Goes on as far as it can without waiting; returns whether anything happened.
    fn advance(&mut self, engine: &Engine) -> Result<bool, Refusal>;

    fn is_done(&self) -> bool;

    /// The ranks that have yet to send something, ascending.
    fn missing(&self) -> Vec<usize>;
}

impl Engine {
    pub(super) fn new(
        rank: usize,
        world: Arc<[usize]>,
        link: Link,
        member: Member,
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
            link,
            member,
            token: TOKENS.fetch_add(1, Ordering::Relaxed),
            allocations: 0,
            peers,
            incoming: None,
            outgoing: Vec::new(),
            spare: Vec::new(),
            kind: Kind::Connect,
            sequence: 0,
            heard: None,
            spins,
            is_ours: true,
            failure: None,
        }
    }

    pub(super) fn size(&self) -> usize {
        self.world.len()
    }

    pub(super) fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let own = self.rank;
        (0..self.size()).filter(move |rank| *rank != own)
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
        self.kind = kind;
        self.sequence += 1;
        self.settings.observer.enter(kind.name(), self.sequence);
        let result = trace_span!("collective", kind = kind.name()).in_scope(|| body(self));
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
        let mut wait = Wait::new(false);
        while told.is_ok() && !self.outgoing.is_empty() && wait.waited() < LAST_WORDS {
            if self.member.is_abandoned() || self.push().is_err() {
                return;
            }
            wait.rest(false);
        }
    }

    fn say(&mut self, rank: usize, message: &Message) -> Result<(), Refusal> {
        let mut memory = Memory::of_bytes(message.encode());
        let (range, to) = (0..memory.len(), rank as i32);
        memory.send(self.link, range, (to, MESSAGE_TAG), ())?;
        self.outgoing.push(memory);
        Ok(())
    }

    /// Lets messages go out.
    fn push(&mut self) -> Result<(), Refusal> {
        let mut over = Vec::new();
        for memory in &mut self.outgoing {
            memory.poll(&mut over)?;
        }
        self.outgoing.retain(|memory| !memory.is_idle());
        Ok(())
    }

    /// Takes the messages that have come; returns whether there were any.
    fn listen(&mut self) -> Result<bool, CommError> {
        let (mut moved, mut misses) = (false, 0);
        self.push().map_err(|refusal| self.refused(refusal))?;
        // MPI may look for what has come only after it has said that there is nothing.
        while misses < 2 {
            let incoming = match self.incoming.take() {
                Some(incoming) => Some(incoming),
                None => (self.link.probe(MESSAGE_TAG)).map_err(|refusal| self.refused(refusal))?,
            };
            let Some((from, mut memory)) = incoming else {
                misses += 1;
                continue;
            };
            misses = 0;
            memory
                .poll(&mut Vec::new())
                .map_err(|refusal| self.refused(refusal))?;
            if !memory.is_idle() {
                self.incoming = Some((from, memory));
                return Ok(moved);
            }
            moved |= self.hear(from, &memory.into_bytes())?;
        }
        Ok(moved)
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
                inline: (data.len() <= INLINE_BYTES).then(|| data.to_vec()),
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
        let mut wait = Wait::new(self.spins);
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
                return Ok(());
            }
            self.check_others(missing)?;
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
    pub(super) fn complete(&mut self, work: &mut impl Work) -> Result<(), CommError> {
        let mut wait = Wait::new(self.spins);
        loop {
            let moved = work
                .advance(self)
                .map_err(|refusal| self.refused(refusal))?;
            if work.is_done() {
                return Ok(());
            }
            let moved = self.listen()? || moved;
            // Who has left had done its part.
            self.check_others(|_| Vec::new())?;
            self.keep_waiting(&mut wait, moved, |_| work.missing())?;
        }
    }

    /// An error where another rank told of one, or one of those that are missing has left.
    fn check_others(&self, missing: impl FnOnce(&Self) -> Vec<usize>) -> Result<(), CommError> {
        if self.member.is_abandoned() {
            return Err(CommError::Abandoned);
        }
        if let Some(failure) = &self.heard {
            return Err(failure.error(&self.world));
        }
        if !self.peers.iter().any(|peer| peer.has_left) {
            return Ok(());
        }
        let mut lost = missing(self);
        lost.retain(|rank| self.peers[*rank].has_left);
        if lost.is_empty() {
            return Ok(());
        }
        Err(CommError::Lost {
            collective: self.kind.name(),
            sequence: self.sequence,
            ranks: self.of_world(&lost),
        })
    }

    /// Rests a little, unless the time is over. Who is missing may itself wait for another, in this collective or the
    /// one before; so a rank that loses patience first asks who does.
    fn keep_waiting(
        &mut self,
        wait: &mut Wait,
        moved: bool,
        missing: impl Fn(&Self) -> Vec<usize>,
    ) -> Result<(), CommError> {
        let observer = Arc::clone(&self.settings.observer);
        let called_off = wait.tell(&observer, || self.of_world(&missing(self)));
        if let Some(reason) = called_off {
            return Err(CommError::CalledOff {
                collective: self.kind.name(),
                sequence: self.sequence,
                missing: self.of_world(&missing(self)),
                reason,
            });
        }
        let timeout = self.settings.timeout;
        let waited = wait.idle();
        if !moved && waited >= timeout {
            let answers = (timeout / 4).min(Duration::from_secs(1));
            match wait.asked {
                None => {
                    wait.asked = Some(Instant::now());
                    let mut asked = missing(self).into_iter();
                    asked
                        .try_for_each(|rank| self.say(rank, &Message::Ask))
                        .map_err(|refusal| self.refused(refusal))?;
                }
                Some(asked) if asked.elapsed() >= answers => {
                    return Err(CommError::Timeout {
                        collective: self.kind.name(),
                        sequence: self.sequence,
                        missing: self.of_world(&self.without_waiting(missing(self), asked)),
                        waited,
                    });
                }
                Some(_) => {}
            }
        }
        wait.rest(moved);
        Ok(())
    }

    /// Those of the missing ranks that have not answered that they wait themselves; all, if all have.
    fn without_waiting(&self, missing: Vec<usize>, asked: Instant) -> Vec<usize> {
        let waits = |rank: &usize| self.peers[*rank].waits.is_some_and(|when| when >= asked);
        let silent: Vec<usize> = missing
            .iter()
            .copied()
            .filter(|rank| !waits(rank))
            .collect();
        if silent.is_empty() { missing } else { silent }
    }

    /// The numbers in the world of ranks of the group, ascending.
    fn of_world(&self, ranks: &[usize]) -> Vec<usize> {
        let mut ranks: Vec<usize> = ranks.iter().map(|rank| self.world[*rank]).collect();
        ranks.sort_unstable();
        ranks
    }

    pub(super) fn refused(&self, refusal: Refusal) -> CommError {
        CommError::Transport {
            collective: self.kind.name(),
            sequence: self.sequence,
            problem: refusal.0,
        }
    }

    pub(super) fn corrupt(&self, rank: usize, problem: String) -> CommError {
        CommError::Corrupt {
            collective: self.kind.name(),
            rank: self.world[rank],
            problem,
        }
    }

    /// Says farewell, and waits for that of the others, so that nothing is under way when MPI ends.
    fn leave(&mut self) {
        if self.member.is_abandoned() || !self.is_ours {
            return;
        }
        self.say_to_all(&Message::Left);
        let mut wait = Wait::new(false);
        let have_left = |engine: &Self| (engine.others()).all(|rank| engine.peers[rank].has_left);
        while self.failure.is_none()
            && !(have_left(self) && self.outgoing.is_empty())
            && wait.waited() < self.settings.timeout
        {
            if self.member.is_abandoned() || self.heard.is_some() || self.listen().is_err() {
                return;
            }
            wait.rest(false);
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.leave();
    }
}
