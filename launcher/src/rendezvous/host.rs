//! The side of the rendezvous that rank 0 hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::frame::{self, Hello, Request, Response};
use super::{RendezvousError, is_loopback};
use crate::environment::RankEnvironment;
use crate::lock::lock;
use crate::server::Server;

/// Most bytes of keys and values together.
const STORE_BYTES_MAX: usize = 64 << 20;
/// Most keys and barriers.
const NAMES_MAX: usize = 1 << 16;
/// A connection that does not introduce itself, or does not take its answer, is closed after this time.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves the store until dropped.
pub(super) struct Host {
    shared: Arc<Shared>,
    _server: Server,
}

struct Shared {
    /// Rank 0's own introduction, which others must match.
    job: Hello,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    values: BTreeMap<String, Vec<u8>>,
    stored_bytes: usize,
    barriers: BTreeMap<String, Barrier>,
    present: BTreeSet<usize>,
    closing: bool,
}

#[derive(Default)]
struct Barrier {
    /// How often it has opened: a rank waits for the next opening.
    opened: u64,
    /// The ranks that wait now: it opens when all do.
    waiting: BTreeSet<usize>,
    /// The ranks that have come since it last opened. One whose time is over no longer waits, as it may
    /// come again, but is named as missing only when none has stayed away.
    came: BTreeSet<usize>,
}

impl Host {
    pub(super) fn start(environment: &RankEnvironment) -> Result<Self, RendezvousError> {
        let port = environment.master_port;
        let listener = listen(&environment.master_addr, port)?;
        let shared = Arc::new(Shared {
            job: Hello::of(environment),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        // Twice the world: a stranger must not keep a rank out.
        let limit = 2 * environment.world_size + 16;
        let server = Server::start(listener, limit, {
            let shared = Arc::clone(&shared);
            move |stream| {
                if let Err(error) = shared.serve(&stream) {
                    tracing::debug!(%error, "a rendezvous connection ended");
                }
            }
        })
        .map_err(|source| RendezvousError::Host { port, source })?;
        Ok(Self {
            shared,
            _server: server,
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        lock(&self.shared.state).closing = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn serve(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let hello = Hello::decode(&frame::read(&mut stream)?)?;
        let rank = hello.rank;
        let welcome = self.admit(&hello);
        frame::write(&mut stream, &welcome.encode())?;
        if welcome != Response::Done {
            return Ok(());
        }
        stream.set_read_timeout(None)?;
        let ended = self.answer_all(rank, stream);
        lock(&self.state).present.remove(&rank);
        ended
    }

    fn answer_all(&self, rank: usize, mut stream: &TcpStream) -> io::Result<()> {
        loop {
            let frame = match frame::read(&mut stream) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                frame => frame?,
            };
            let response = match Request::decode(&frame) {
                Ok(request) => self.answer(rank, request),
                Err(error) => Response::Refused(error.to_string()),
            };
            frame::write(&mut stream, &response.encode())?;
        }
    }

    fn admit(&self, hello: &Hello) -> Response {
        let job = &self.job;
        if (&hello.run_id, hello.restart_count) != (&job.run_id, job.restart_count) {
            return Response::OtherJob(format!(
                "attempt {} of run {}",
                job.restart_count, job.run_id
            ));
        }
        if hello.world_size != job.world_size || hello.rank >= job.world_size {
            return Response::Refused(format!(
                "rank {} of a world of {} does not belong to this world of {}; WORLD_SIZE must be the same everywhere",
                hello.rank, hello.world_size, job.world_size
            ));
        }
        if !lock(&self.state).present.insert(hello.rank) {
            return Response::Refused(format!(
                "rank {} is already here; each rank starts once",
                hello.rank
            ));
        }
        Response::Done
    }

    fn answer(&self, rank: usize, request: Request) -> Response {
        match request {
            Request::Set { key, value } => self.set(key, value),
            Request::Get { key, timeout } => self.get(&key, timeout),
            Request::Barrier { name, timeout } => self.barrier(rank, &name, timeout),
        }
    }

    fn set(&self, key: String, value: Vec<u8>) -> Response {
        let mut state = lock(&self.state);
        let old_bytes = state
            .values
            .get(&key)
            .map_or(0, |old| key.len() + old.len());
        let bytes = state.stored_bytes - old_bytes + key.len() + value.len();
        let is_full = state.values.len() >= NAMES_MAX && !state.values.contains_key(&key);
        if bytes > STORE_BYTES_MAX || is_full {
            return Response::Refused(format!(
                "the store is full ({STORE_BYTES_MAX} bytes or {NAMES_MAX} keys)"
            ));
        }
        state.stored_bytes = bytes;
        state.values.insert(key, value);
        self.changed.notify_all();
        Response::Done
    }

    fn get(&self, key: &str, timeout: Duration) -> Response {
        let state = self.wait(timeout, |state| !state.values.contains_key(key));
        match state.values.get(key) {
            Some(value) => Response::Value(value.clone()),
            None if state.closing => leaving(),
            None => Response::TimedOut(Vec::new()),
        }
    }

    fn barrier(&self, rank: usize, name: &str, timeout: Duration) -> Response {
        let mut state = lock(&self.state);
        if state.barriers.len() >= NAMES_MAX && !state.barriers.contains_key(name) {
            return Response::Refused(format!("more than {NAMES_MAX} barriers; use a name again"));
        }
        let barrier = state.barriers.entry(name.to_owned()).or_default();
        let before = barrier.opened;
        barrier.waiting.insert(rank);
        barrier.came.insert(rank);
        if barrier.waiting.len() == self.job.world_size {
            *barrier = Barrier {
                opened: before + 1,
                ..Barrier::default()
            };
            self.changed.notify_all();
            return Response::Done;
        }
        drop(state);
        let is_shut = |barrier: &Barrier| barrier.opened == before;
        let mut state = self.wait(timeout, |state| {
            state.barriers.get(name).is_some_and(is_shut)
        });
        let closing = state.closing;
        match state
            .barriers
            .get_mut(name)
            .filter(|barrier| is_shut(barrier))
        {
            None => Response::Done,
            Some(_) if closing => leaving(),
            Some(barrier) => {
                let world = self.job.world_size;
                let absent = |from: &BTreeSet<usize>| {
                    (0..world).filter(|rank| !from.contains(rank)).collect()
                };
                let mut missing: Vec<_> = absent(&barrier.came);
                if missing.is_empty() {
                    missing = absent(&barrier.waiting);
                }
                barrier.waiting.remove(&rank);
                Response::TimedOut(missing)
            }
        }
    }

    /// Waits while `unready` holds, but not beyond `timeout` or the end of the host.
    fn wait(&self, timeout: Duration, unready: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        self.changed
            .wait_timeout_while(lock(&self.state), timeout, |state| {
                unready(state) && !state.closing
            })
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }
}

fn leaving() -> Response {
    Response::Refused("rank 0 is leaving".to_owned())
}

/// Listens on loopback for one host; otherwise on every interface, as a service name need not be one of ours.
fn listen(master_addr: &str, port: u16) -> Result<TcpListener, RendezvousError> {
    let hosts: &[IpAddr] = match master_addr.parse::<IpAddr>() {
        Ok(host) if host.is_loopback() => &[host],
        _ if is_loopback(master_addr) => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
        // Both versions of IP where the host has both.
        _ => &[
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        ],
    };
    let mut refusal = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for &host in hosts {
        match TcpListener::bind(SocketAddr::new(host, port)) {
            Ok(listener) => return Ok(listener),
            Err(source) if source.kind() == io::ErrorKind::AddrInUse => {
                return Err(RendezvousError::PortInUse { host, port, source });
            }
            Err(source) => refusal = source,
        }
    }
    Err(RendezvousError::Host {
        port,
        source: refusal,
    })
}
