//! A launcher of another host than node 0's: it joins, runs what node 0 asks for, and leaves when the job is over.

use std::io::{self, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::shell::Shell;
use super::wire::{Answer, Join, VERSION, Word};
use super::{BEAT, NodesError, SILENCE, addresses_of};
use crate::control::{line_of, next_line};
use crate::cores::CorePlan;
use crate::signals::Interrupts;

/// Time between two attempts to reach node 0.
const RETRY: Duration = Duration::from_millis(300);

/// Which host this is, and of which job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// This host, from 1.
    pub node: usize,
    /// Hosts of the job.
    pub nodes: usize,
    /// Node 0's address and port.
    pub endpoint: String,
    /// Ranks on this host.
    pub ranks: usize,
    /// The address by which others reach this host; that of the connection to node 0 if absent.
    pub address: Option<Ipv4Addr>,
    /// How long to try to reach node 0, at the start and after it was lost.
    pub patience: Duration,
    /// Whether each rank that node 0 starts here is pinned to its own share of the allowed cores.
    pub pin_cores: bool,
}

/// How a connection to node 0 ended.
enum End {
    /// The job is over.
    Over(i32),
    /// Node 0 is gone; a signal may have come that it did not answer any more.
    Lost(Option<i32>),
    /// Node 0 never took this host in, but may do so yet.
    Outside(io::Error),
}

/// Serves a job until it is over; returns its exit code. SIGTERM and SIGINT are passed on to node 0, and end this where
/// there is none.
///
/// # Errors
/// When node 0 cannot be reached, or refuses this host.
pub fn serve_node(membership: &Membership) -> Result<i32, NodesError> {
    let mut interrupts =
        Interrupts::watch().map_err(|source| membership.unreachable(source, Duration::ZERO))?;
    let mut outside_since = Instant::now();
    loop {
        let end = match connect(&membership.endpoint) {
            Ok(stream) => {
                // Commands of a job whose node 0 is gone end with the shell.
                let shell = membership.shell(&stream)?;
                membership.join(&stream, &shell, &mut interrupts)?
            }
            Err(error) => End::Outside(error),
        };
        let waited = outside_since.elapsed();
        let signal = match end {
            End::Over(code) => return Ok(code),
            End::Lost(signal) => {
                tracing::warn!(
                    "node 0 is gone; what it ran here is ended, and this host joins again when it is back"
                );
                outside_since = Instant::now();
                signal
            }
            End::Outside(error) if waited > membership.patience => {
                return Err(membership.unreachable(error, waited));
            }
            End::Outside(_) => None,
        };
        if let Some(signal) = signal.or_else(|| interrupts.take()) {
            return Ok(128 + signal);
        }
        thread::sleep(RETRY);
    }
}

fn connect(endpoint: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the name has no address");
    for address in addresses_of(endpoint)? {
        match TcpStream::connect_timeout(&address, SILENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Membership {
    fn unreachable(&self, source: io::Error, waited: Duration) -> NodesError {
        NodesError::Join {
            node: self.node,
            endpoint: self.endpoint.clone(),
            waited,
            source,
        }
    }

    fn shell(&self, stream: &TcpStream) -> Result<Shell, NodesError> {
        let own = stream.local_addr().map(|address| address.ip());
        let ip = match (self.address, own) {
            (Some(ip), _) => IpAddr::V4(ip),
            (None, Ok(ip)) => ip,
            (None, Err(error)) => return Err(self.unreachable(error, Duration::ZERO)),
        };
        let cores = CorePlan::new(self.ranks, self.pin_cores);
        TcpListener::bind((ip, 0))
            .and_then(|listener| Shell::start(listener, cores))
            .map_err(|source| NodesError::Shell {
                node: self.node,
                address: ip.to_string(),
                source,
            })
    }

    /// From the join to the end of the connection.
    fn join(
        &self,
        stream: &TcpStream,
        shell: &Shell,
        interrupts: &mut Interrupts,
    ) -> Result<End, NodesError> {
        let join = Join {
            version: VERSION,
            node: self.node,
            nodes: self.nodes,
            ranks: self.ranks,
            shell: shell.address(),
        };
        let mut lines = BufReader::new(stream);
        let mut ask = || {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(SILENCE))?;
            stream.set_write_timeout(Some(Duration::from_millis(200)))?;
            (&mut &*stream).write_all(&line_of(&join)?)?;
            next_line::<Answer>(&mut lines)
        };
        match ask() {
            Ok(Some(Answer::Welcome { token })) => shell.trust(&token),
            Ok(Some(Answer::Taken)) => {
                let problem = format!("a launcher with --node-rank {} is there already", self.node);
                return Ok(End::Outside(io::Error::other(problem)));
            }
            Ok(Some(Answer::Refused { reason })) => {
                return Err(NodesError::Refused {
                    node: self.node,
                    endpoint: self.endpoint.clone(),
                    reason,
                });
            }
            // It went while we asked, or is something else.
            Ok(None) => return Ok(End::Outside(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => return Ok(End::Outside(error)),
        }
        tracing::info!(node = self.node, endpoint = self.endpoint, shell = %shell.address(), "joined the job");
        let done = &AtomicBool::new(false);
        Ok(thread::scope(|scope| {
            let beats = scope.spawn(|| beat(stream, interrupts, done));
            let over = hear(&mut lines);
            done.store(true, Ordering::Relaxed);
            let signal = beats.join().unwrap_or_else(|panic| resume_unwind(panic));
            over.map_or(End::Lost(signal), End::Over)
        }))
    }
}

/// Gives signs of life, and passes signals on; returns the last one.
fn beat(stream: &TcpStream, interrupts: &mut Interrupts, done: &AtomicBool) -> Option<i32> {
    let (mut beaten, mut last) = (Instant::now(), None);
    while !done.load(Ordering::Relaxed) {
        let signal = interrupts.take();
        last = signal.or(last);
        let word = match signal {
            Some(signal) => Some(Word::Stop(signal)),
            None => (beaten.elapsed() >= BEAT).then_some(Word::Beat),
        };
        if let Some(line) = word.and_then(|word| line_of(&word).ok()) {
            beaten = Instant::now();
            // The other side notices what does not arrive, as we notice its silence.
            let _ = (&mut &*stream).write_all(&line);
        }
        thread::sleep(Duration::from_millis(50));
    }
    last
}

/// Listens to node 0 until the job is over, with an exit code, or node 0 is gone.
fn hear(lines: &mut BufReader<&TcpStream>) -> Option<i32> {
    loop {
        match next_line::<Word>(lines) {
            Ok(Some(Word::Over(code))) => return Some(code),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}
