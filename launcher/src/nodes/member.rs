//! A launcher of another host than node 0's: it joins, runs what mpirun asks for, and leaves when the job is over.

use std::io::{self, BufReader, Write};
use std::net::{IpAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::shell::Shell;
use super::wire::{Answer, Join, VERSION, Word};
use super::{BEAT, NodesError, SILENCE};
use crate::control::{line_of, next_line};
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
    pub address: Option<IpAddr>,
    /// How long to try to reach node 0, at the start and after it was lost.
    pub patience: Duration,
}

/// How a connection to node 0 ended.
enum End {
    /// The job is over.
    Over(i32),
    /// Node 0 is gone.
    Lost,
}

/// Serves a job until it is over; returns its exit code. SIGTERM and SIGINT are passed on to node 0.
///
/// # Errors
/// When node 0 cannot be reached, or refuses this host.
pub fn serve_node(membership: &Membership) -> Result<i32, NodesError> {
    let mut interrupts =
        Interrupts::watch().map_err(|source| membership.unreachable(source, Duration::ZERO))?;
    loop {
        let stream = membership.reach(&mut interrupts)?;
        let shell = membership.shell(&stream)?;
        let ended = membership.join(&stream, &shell, &mut interrupts)?;
        // Commands of a job whose node 0 is gone end with the shell.
        drop(shell);
        match ended {
            End::Over(code) => return Ok(code),
            End::Lost => tracing::warn!(
                "node 0 is gone; its commands are ended, and this host joins again when it is back"
            ),
        }
    }
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

    fn reach(&self, interrupts: &mut Interrupts) -> Result<TcpStream, NodesError> {
        let began = Instant::now();
        loop {
            let connect = || {
                let mut addresses = self.endpoint.to_socket_addrs()?;
                let address = addresses.next();
                let address = address.ok_or_else(|| io::Error::other("the name has no address"))?;
                TcpStream::connect_timeout(&address, SILENCE)
            };
            let error = match connect() {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            let waited = began.elapsed();
            if waited > self.patience || interrupts.take().is_some() {
                return Err(self.unreachable(error, waited));
            }
            thread::sleep(RETRY);
        }
    }

    fn shell(&self, stream: &TcpStream) -> Result<Shell, NodesError> {
        let own = stream.local_addr().map(|address| address.ip());
        let ip = match (self.address, own) {
            (Some(ip), _) | (None, Ok(ip)) => ip,
            (None, Err(error)) => return Err(self.unreachable(error, Duration::ZERO)),
        };
        TcpListener::bind((ip, 0))
            .and_then(Shell::start)
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
            Ok(Some(Answer::Refused { reason })) => {
                return Err(NodesError::Refused {
                    node: self.node,
                    endpoint: self.endpoint.clone(),
                    reason,
                });
            }
            // It went while we asked.
            Ok(None) | Err(_) => return Ok(End::Lost),
        }
        tracing::info!(node = self.node, endpoint = self.endpoint, shell = %shell.address(), "joined the job");
        let done = &AtomicBool::new(false);
        Ok(thread::scope(|scope| {
            scope.spawn(|| {
                beat(stream, interrupts, done);
            });
            let end = hear(&mut lines);
            done.store(true, Ordering::Relaxed);
            end
        }))
    }
}

/// Gives signs of life, and passes signals on.
fn beat(stream: &TcpStream, interrupts: &mut Interrupts, done: &AtomicBool) {
    let mut beaten = Instant::now();
    while !done.load(Ordering::Relaxed) {
        let word = match interrupts.take() {
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
}

fn hear(lines: &mut BufReader<&TcpStream>) -> End {
    loop {
        match next_line::<Word>(lines) {
            Ok(Some(Word::Over(code))) => return End::Over(code),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return End::Lost,
        }
    }
}
