//! The streams to all other ranks of a group.

use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::frame::{Head, INLINE_BYTES};
use super::memory::Memory;
use super::peer::{Next, Peer};
use crate::comm::CommError;
use crate::comm::messaging::{Engine, Heard, MESSAGE_TAG, Refusal, Transport};

/// How long a rank asks the system again and again before it sleeps: about what a wake-up costs.
const SPIN: Duration = Duration::from_micros(20);

/// How long it sleeps at most, to look whether its time is over.
const NAP: Duration = Duration::from_millis(20);

/// The streams of one rank of a group, by rank; none to itself.
pub(in crate::comm) struct Sockets {
    peers: Vec<Option<Peer>>,
    /// The address at which this rank listens when a group splits.
    pub(super) own: IpAddr,
    /// The addresses at which it reaches the others, by rank.
    pub(super) addresses: Vec<IpAddr>,
    tickets: u64,
    /// Who is heard next.
    next: usize,
}

impl Sockets {
    pub(super) fn new(
        streams: Vec<Option<TcpStream>>,
        own: IpAddr,
        addresses: Vec<IpAddr>,
    ) -> std::io::Result<Self> {
        let peers = streams.into_iter().map(|stream| stream.map(Peer::new));
        Ok(Self {
            peers: peers.map(Option::transpose).collect::<Result<_, _>>()?,
            own,
            addresses,
            tickets: 0,
            next: 0,
        })
    }

    pub(super) fn peer(&mut self, rank: usize) -> Option<&mut Peer> {
        self.peers[rank].as_mut()
    }

    pub(super) fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// Makes room for data in the stream to a rank.
    pub(super) fn announce(&mut self, to: usize, tag: i32, bytes: usize) -> u64 {
        let ticket = self.ticket();
        let bytes = bytes as u64;
        if let Some(peer) = self.peer(to) {
            peer.announce(ticket, Head { tag, bytes });
        }
        ticket
    }

    /// Asks the system which streams have bytes or room, for at most `limit`.
    fn watch(&mut self, limit: Duration) {
        let waits = |peer: &Peer| {
            let (reads, writes) = peer.waits();
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, reads);
            flags.set(PollFlags::OUT, writes);
            flags
        };
        let asked = self.peers.iter().enumerate();
        let asked = asked.filter_map(|(rank, peer)| Some((rank, peer.as_ref()?)));
        let (ranks, mut polled): (Vec<usize>, Vec<PollFd<'_>>) = asked
            .map(|(rank, peer)| (rank, waits(peer), peer))
            .filter(|(_, flags, _)| !flags.is_empty())
            .map(|(rank, flags, peer)| (rank, PollFd::new(peer.stream(), flags)))
            .unzip();
        let limit = Timespec {
            tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        // Interrupted or not: whoever waits looks again.
        let _ = rustix::event::poll(&mut polled, Some(&limit));
        let told: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        for (rank, flags) in ranks.into_iter().zip(told) {
            let is_over = flags.intersects(PollFlags::HUP | PollFlags::ERR);
            if let Some(peer) = self.peer(rank) {
                let (reads, writes) = peer.waits();
                let reads = reads && (is_over || flags.contains(PollFlags::IN));
                let writes = writes && (is_over || flags.contains(PollFlags::OUT));
                peer.woken(reads, writes);
            }
        }
    }
}

impl Transport for Sockets {
    const INLINE_BYTES: usize = INLINE_BYTES;

    const WAITS_FOR_FAREWELLS: bool = false;

    const RUNS_WHERE_CALLED: bool = true;

    type Memory<L: Copy + Send> = Memory<L>;

    fn say(&mut self, to: usize, text: Vec<u8>) -> Result<(), Refusal> {
        if let Some(peer) = self.peer(to) {
            let (tag, bytes) = (MESSAGE_TAG, text.len() as u64);
            let mut frame = Head { tag, bytes }.encode().to_vec();
            frame.extend(text);
            peer.say(frame);
        }
        Ok(())
    }

    fn push(&mut self) -> Result<bool, Refusal> {
        let mut are_out = true;
        for peer in self.peers.iter_mut().flatten() {
            are_out &= peer.push();
        }
        Ok(are_out)
    }

    fn hear(&mut self) -> Result<Option<Heard>, Refusal> {
        for _ in 0..self.peers.len() {
            let from = self.next;
            if let Some(peer) = self.peer(from) {
                let next = peer.next();
                match next.map_err(|problem| Refusal::corrupt(from, problem))? {
                    Next::Message(text) => return Ok(Some(Heard::Message { from, text })),
                    Next::End => return Ok(Some(Heard::Closed { from })),
                    Next::Data | Next::Nothing => {}
                }
            }
            self.next = (from + 1) % self.peers.len();
        }
        Ok(None)
    }

    fn pause(&mut self, idle: Duration, spins: bool) {
        self.watch(if spins && idle < SPIN {
            Duration::ZERO
        } else {
            NAP
        });
    }

    fn split(engine: &mut Engine<Self>, members: &[usize]) -> Result<Option<Self>, CommError> {
        super::group::split(engine, members)
    }
}
