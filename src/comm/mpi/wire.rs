//! Messages between the processes of a job.

use std::time::Duration;

use super::job::Member;
use super::memory::{Link, Memory};
use crate::comm::CommError;
use crate::comm::messaging::{self, Engine, Heard, MESSAGE_TAG, Refusal, Transport};

/// How long a rank spins, and then lets others run, before it sleeps. Data move only while both sides ask.
const SPIN: Duration = Duration::from_micros(20);
const YIELD: Duration = Duration::from_micros(200);

/// Naps grow with the time that nothing happened, by this factor, between these bounds.
const NAP_SHARE: u32 = 8;
const NAP_MIN: Duration = Duration::from_micros(50);
const NAP_MAX: Duration = Duration::from_millis(2);

/// A communicator of MPI, with the messages that are under way.
pub(in crate::comm) struct Wire {
    pub(super) link: Link,
    pub(super) member: Member,
    /// A message that is being received.
    incoming: Option<(usize, Memory<()>)>,
    /// Messages that are being sent.
    outgoing: Vec<Memory<()>>,
}

impl Wire {
    pub(super) fn new(link: Link, member: Member) -> Self {
        Self {
            link,
            member,
            incoming: None,
            outgoing: Vec::new(),
        }
    }
}

impl Transport for Wire {
    /// With its head, a message of so many bytes still fits what MPI sends at once, without asking the receiver (4 KiB
    /// over the shared memory of Open MPI).
    const INLINE_BYTES: usize = 3840;

    /// Nothing may be under way when MPI ends.
    const WAITS_FOR_FAREWELLS: bool = true;

    const RUNS_WHERE_CALLED: bool = false;

    type Memory<L: Copy + Send> = Memory<L>;

    fn say(&mut self, to: usize, text: Vec<u8>) -> Result<(), Refusal> {
        let range = 0..text.len();
        let mut memory = messaging::Memory::of_bytes(text);
        messaging::Memory::send(&mut memory, self, range, (to, MESSAGE_TAG), ())?;
        self.outgoing.push(memory);
        Ok(())
    }

    fn push(&mut self) -> Result<bool, Refusal> {
        let mut over = Vec::new();
        for memory in &mut self.outgoing {
            memory.test(&mut over)?;
        }
        self.outgoing.retain(|memory| !memory.is_over());
        Ok(self.outgoing.is_empty())
    }

    fn hear(&mut self) -> Result<Option<Heard>, Refusal> {
        // MPI may look for what has come only after it has said that there is nothing.
        for _ in 0..2 {
            let incoming = match self.incoming.take() {
                Some(incoming) => Some(incoming),
                None => self.link.probe(MESSAGE_TAG)?,
            };
            let Some((from, mut memory)) = incoming else {
                continue;
            };
            memory.test(&mut Vec::new())?;
            if !memory.is_over() {
                self.incoming = Some((from, memory));
                return Ok(None);
            }
            let text = messaging::Memory::into_bytes(memory);
            return Ok(Some(Heard::Message { from, text }));
        }
        Ok(None)
    }

    /// MPI has to be asked again and again, at first at once, later now and then.
    fn pause(&mut self, idle: Duration, spins: bool) {
        if spins && idle < SPIN {
            std::hint::spin_loop();
        } else if idle < YIELD {
            std::thread::yield_now();
        } else {
            std::thread::sleep((idle / NAP_SHARE).clamp(NAP_MIN, NAP_MAX));
        }
    }

    fn is_abandoned(&self) -> bool {
        self.member.is_abandoned()
    }

    fn split(engine: &mut Engine<Self>, members: &[usize]) -> Result<Option<Self>, CommError> {
        super::group::split(engine, members)
    }
}
