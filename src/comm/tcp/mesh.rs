//! A stream between each two ranks of a group: the higher one connects, both say hello, and strangers are refused.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::sockopt;

use super::hello::{HELLO_BYTES, Hello, Token};
use crate::comm::{CommError, Observer};

/// Who has not said hello for so long is no rank.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a rank waits before it tells for whom.
const WATCH: Duration = Duration::from_millis(100);

/// A host that has not answered for so long, while something was sent to it, is gone; the first question comes after
/// `KEEP_IDLE` without any traffic. Ranks that compute answer, since their systems do.
const SILENCE: Duration = Duration::from_secs(30);
const KEEP_IDLE: Duration = Duration::from_secs(10);
const KEEP_INTERVAL: Duration = Duration::from_secs(5);

/// A rank on its way into a group.
pub(super) struct Meeting<'a> {
    pub(super) rank: usize,
    /// The world's number of each rank of the group.
    pub(super) world: &'a [usize],
    pub(super) token: Token,
    /// What the ranks meet for.
    pub(super) collective: &'static str,
    pub(super) sequence: u64,
    pub(super) timeout: Duration,
    pub(super) observer: Arc<dyn Observer>,
}

/// A stream whose other end has not said hello in whole.
struct Guest {
    stream: TcpStream,
    text: Vec<u8>,
    since: Instant,
    /// The rank that this one has connected to.
    host: Option<usize>,
}

struct Mesh<'a> {
    meeting: &'a Meeting<'a>,
    began: Instant,
    streams: Vec<Option<TcpStream>>,
    guests: Vec<Guest>,
    reported: Vec<usize>,
}

/// Connects this rank with all others, which listen at `addresses`. Returns the streams by rank; none to itself.
pub(super) fn connect(
    meeting: &Meeting<'_>,
    listener: &TcpListener,
    addresses: &[SocketAddr],
) -> Result<Vec<Option<TcpStream>>, CommError> {
    let mut mesh = Mesh {
        meeting,
        began: Instant::now(),
        streams: meeting.world.iter().map(|_| None).collect(),
        guests: Vec::new(),
        reported: Vec::new(),
    };
    for (host, address) in addresses.iter().enumerate().take(meeting.rank) {
        mesh.call_on(host, *address)?;
    }
    let listening = listener.set_nonblocking(true);
    listening.map_err(|error| meeting.refusal(format!("cannot listen: {error}")))?;
    while !mesh.missing().is_empty() {
        mesh.wait(listener)?;
        mesh.accept(listener);
        mesh.hear(addresses)?;
    }
    Ok(mesh.streams)
}

impl Meeting<'_> {
    fn hello(&self, to: usize) -> Hello {
        Hello {
            token: self.token,
            size: self.world.len() as u32,
            from: self.rank as u32,
            to: to as u32,
        }
    }

    pub(super) fn refusal(&self, problem: String) -> CommError {
        let rank = self.world[self.rank];
        CommError::Connect { rank, problem }
    }

    pub(super) fn too_late(&self, missing: Vec<usize>, waited: Duration) -> CommError {
        CommError::Timeout {
            collective: self.collective,
            sequence: self.sequence,
            missing,
            waited,
        }
    }

    pub(super) fn called_off(&self, missing: Vec<usize>, reason: String) -> CommError {
        CommError::CalledOff {
            collective: self.collective,
            sequence: self.sequence,
            missing,
            reason,
        }
    }
}

impl Mesh<'_> {
    fn call_on(&mut self, host: usize, address: SocketAddr) -> Result<(), CommError> {
        let meeting = self.meeting;
        let left = meeting.timeout.saturating_sub(self.began.elapsed());
        let stream = TcpStream::connect_timeout(&address, left.max(Duration::from_millis(1)));
        let said = stream.and_then(|mut stream| {
            stream.write_all(&meeting.hello(host).encode())?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        let stream = said.map_err(|error| {
            meeting.refusal(format!(
                "cannot reach rank {} at {address}: {error}; all hosts must reach each other on any port, and \
                 MASTER_ADDR must name rank 0 for all of them",
                meeting.world[host]
            ))
        })?;
        self.guests.push(Guest::new(stream, Some(host)));
        Ok(())
    }

    /// The ranks of the group that are not connected.
    fn missing(&self) -> Vec<usize> {
        let is_missing = |rank: &usize| *rank != self.meeting.rank && self.streams[*rank].is_none();
        (0..self.streams.len()).filter(is_missing).collect()
    }

    /// Waits until somebody comes or says something, or for a while.
    fn wait(&mut self, listener: &TcpListener) -> Result<(), CommError> {
        let meeting = self.meeting;
        let waited = self.began.elapsed();
        let missing: Vec<usize> = (self.missing().into_iter())
            .map(|rank| meeting.world[rank])
            .collect();
        if waited >= meeting.timeout {
            return Err(meeting.too_late(missing, waited));
        }
        if waited >= WATCH {
            if let Some(reason) = meeting.observer.called_off() {
                return Err(meeting.called_off(missing, reason));
            }
            if missing != self.reported {
                meeting.observer.waiting_for(&missing);
                self.reported = missing;
            }
        }
        let guests = self.guests.iter();
        let mut polled: Vec<PollFd<'_>> = guests
            .map(|guest| PollFd::new(&guest.stream, PollFlags::IN))
            .collect();
        polled.push(PollFd::new(listener, PollFlags::IN));
        let limit = WATCH.min(meeting.timeout.saturating_sub(waited));
        let limit = Timespec {
            tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        // Interrupted or not, it looks again.
        let _ = rustix::event::poll(&mut polled, Some(&limit));
        Ok(())
    }

    fn accept(&mut self, listener: &TcpListener) {
        // Strangers must not use up all there is.
        let most = 2 * self.streams.len() + 16;
        while self.guests.len() < most
            && let Ok((stream, _)) = listener.accept()
        {
            if stream.set_nonblocking(true).is_ok() {
                self.guests.push(Guest::new(stream, None));
            }
        }
    }

    /// Hears who the guests are.
    fn hear(&mut self, addresses: &[SocketAddr]) -> Result<(), CommError> {
        for mut guest in std::mem::take(&mut self.guests) {
            match guest.read() {
                Ok(None) if guest.host.is_some() || guest.since.elapsed() < PATIENCE => {
                    self.guests.push(guest);
                }
                heard => {
                    let text = heard.and_then(|text| text.ok_or(ErrorKind::TimedOut.into()));
                    let admitted = text
                        .map_err(|error| error.to_string())
                        .and_then(|text| self.admit(&guest, &text));
                    match (admitted, guest.host) {
                        (Ok(rank), _) => self.streams[rank] = Some(guest.stream),
                        (Err(problem), None) => {
                            tracing::warn!(%problem, "somebody who is no rank of this group is refused");
                        }
                        (Err(problem), Some(host)) => {
                            return Err(self.meeting.refusal(format!(
                                "what answers at {}, where rank {} listens, is refused: {problem}",
                                addresses[host], self.meeting.world[host]
                            )));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes sure that a guest is a rank that is awaited; answers one that has called.
    fn admit(&self, guest: &Guest, text: &[u8; HELLO_BYTES]) -> Result<usize, String> {
        let meeting = self.meeting;
        let rank = meeting.hello(meeting.rank).admit(text)?;
        let expected = guest.host.map_or(rank > meeting.rank, |host| rank == host);
        if !expected || self.streams[rank].is_some() {
            return Err(format!("rank {rank} is not expected, or is there already"));
        }
        let mut stream = &guest.stream;
        let prepared = prepare(stream, meeting.timeout).and_then(|()| match guest.host {
            Some(_) => Ok(()),
            // So few bytes have room.
            None => stream.write_all(&meeting.hello(rank).encode()),
        });
        prepared.map_err(|error| error.to_string())?;
        Ok(rank)
    }
}

impl Guest {
    fn new(stream: TcpStream, host: Option<usize>) -> Self {
        Self {
            stream,
            text: Vec::new(),
            since: Instant::now(),
            host,
        }
    }

    /// Reads on; returns what it has said, once that is all. Not a byte more is read.
    fn read(&mut self) -> io::Result<Option<[u8; HELLO_BYTES]>> {
        let mut text = [0; HELLO_BYTES];
        loop {
            if let Ok(text) = <[u8; HELLO_BYTES]>::try_from(&*self.text) {
                return Ok(Some(text));
            }
            match self.stream.read(&mut text[self.text.len()..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    let start = self.text.len();
                    self.text.extend_from_slice(&text[start..start + count]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Lets small messages leave at once, and finds out when the other host vanishes.
fn prepare(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    let silence = SILENCE.min(timeout).max(Duration::from_secs(1));
    let silence_ms = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEP_IDLE.min(silence))?;
    sockopt::set_tcp_keepintvl(stream, KEEP_INTERVAL.min(silence))?;
    sockopt::set_tcp_user_timeout(stream, silence_ms)?;
    Ok(())
}
