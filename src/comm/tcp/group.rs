//! How groups come about: the world through a bootstrap, its parts by splitting.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use super::Route;
use super::hello::Token;
use super::mesh::{self, Meeting};
use super::sockets::Sockets;
use crate::comm::call::Kind;
use crate::comm::messaging::{Engine, MAX_RANKS};
use crate::comm::{Bootstrap, BootstrapError, CommError, Settings};

/// Where rank 0 puts the token and the addresses of all, or who is missing.
const RANKS_KEY: &str = "tcp/ranks";

/// How long a rank waits for one value before it looks whether the job goes on.
const SLICE: Duration = Duration::from_millis(200);

/// Rank 0 may find out a little later who is missing.
const GRACE: Duration = Duration::from_secs(1);

/// Where rank 0 says that ranks are missing, in place of a token.
const MISSING: &str = "missing";

fn address_key(rank: usize) -> String {
    format!("tcp/address/{rank}")
}

/// Connects `rank` of a world of `size` ranks.
pub(super) fn connect(
    rank: usize,
    size: usize,
    bootstrap: &dyn Bootstrap,
    route: Route,
    settings: Settings,
) -> Result<Engine<Sockets>, CommError> {
    if rank >= size || size > MAX_RANKS {
        let problem = format!("expected a rank below the size, {size}, at most {MAX_RANKS}");
        return Err(CommError::Connect { rank, problem });
    }
    let world: Vec<usize> = (0..size).collect();
    let refused = |error| CommError::Connect {
        rank,
        problem: format!("cannot listen at {}: {error}", route.own),
    };
    let listener = listen(route.own).map_err(refused)?;
    let own = listener.local_addr().map_err(refused)?;
    let token = Token::new().map_err(refused)?;
    let meeting = Meeting {
        rank,
        world: &world,
        token,
        collective: Kind::Connect.name(),
        sequence: 1,
        timeout: settings.timeout,
        observer: settings.observer.clone(),
    };
    meeting.observer.enter(meeting.collective, meeting.sequence);
    let roll = Roll {
        meeting,
        bootstrap,
        began: Instant::now(),
    };
    let met = match rank {
        0 => roll.call(own),
        _ => roll.answer(own, route.first),
    };
    let met = met.and_then(|(token, addresses)| {
        let meeting = Meeting {
            token,
            ..roll.meeting
        };
        let streams = mesh::connect(&meeting, &listener, &addresses)?;
        let addresses = addresses.iter().map(SocketAddr::ip).collect();
        Sockets::new(streams, own.ip(), addresses).map_err(refused)
    });
    settings.observer.leave();
    Engine::join(rank, world.into(), met?, settings)
}

/// How the ranks of the world find out where the others listen.
struct Roll<'a> {
    meeting: Meeting<'a>,
    bootstrap: &'a dyn Bootstrap,
    began: Instant,
}

impl Roll<'_> {
    /// Rank 0 gathers all addresses and tells them.
    fn call(&self, own: SocketAddr) -> Result<(Token, Vec<SocketAddr>), CommError> {
        let size = self.meeting.world.len();
        let mut addresses = vec![own];
        let mut missing = Vec::new();
        for rank in 1..size {
            let key = address_key(rank);
            let told = self.get(&key, self.meeting.timeout, || (rank..size).collect())?;
            match told {
                Some(address) => addresses.push(parsed(&self.meeting, &address)?),
                None => missing.push(rank),
            }
        }
        if missing.is_empty() {
            let lines: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let token = self.meeting.token;
            self.put(RANKS_KEY, &format!("{token}\n{}", lines.join("\n")))?;
            return Ok((token, addresses));
        }
        let ranks: Vec<String> = missing.iter().map(ToString::to_string).collect();
        self.put(RANKS_KEY, &format!("{MISSING}\n{}", ranks.join("\n")))?;
        Err(self.meeting.too_late(missing, self.began.elapsed()))
    }

    /// The others tell theirs. Rank 0 may not know by which address they reach it: that is `first`.
    fn answer(
        &self,
        own: SocketAddr,
        first: IpAddr,
    ) -> Result<(Token, Vec<SocketAddr>), CommError> {
        let Meeting {
            rank,
            timeout,
            world,
            ..
        } = self.meeting;
        self.put(&address_key(rank), &own.to_string())?;
        let grace = (timeout / 4).min(GRACE);
        let told = self.get(RANKS_KEY, timeout.saturating_add(grace), || vec![0])?;
        let told = told.ok_or_else(|| self.meeting.too_late(vec![0], self.began.elapsed()))?;
        let mut lines = told.lines();
        let head = lines.next().unwrap_or_default();
        if head == MISSING {
            let missing = lines.filter_map(|line| line.parse().ok()).collect();
            return Err(self.meeting.too_late(missing, self.began.elapsed()));
        }
        let refusal = |problem: String| self.meeting.refusal(problem);
        let token = head.parse().map_err(refusal)?;
        let mut addresses = lines
            .map(|line| parsed(&self.meeting, line))
            .collect::<Result<Vec<_>, _>>()?;
        if addresses.len() != world.len() {
            let (told, expected) = (addresses.len(), world.len());
            return Err(refusal(format!(
                "expected addresses of {expected} ranks, but rank 0 tells {told}"
            )));
        }
        if addresses[0].ip().is_unspecified() {
            addresses[0].set_ip(first);
        }
        Ok((token, addresses))
    }

    fn put(&self, key: &str, value: &str) -> Result<(), CommError> {
        let rank = self.meeting.rank;
        let put = self.bootstrap.put(key, value);
        put.map_err(|source| CommError::Bootstrap { rank, source })
    }

    /// A value, if somebody stores it until `timeout` after the beginning.
    fn get(
        &self,
        key: &str,
        timeout: Duration,
        missing: impl Fn() -> Vec<usize>,
    ) -> Result<Option<String>, CommError> {
        let rank = self.meeting.rank;
        let observer = &self.meeting.observer;
        let mut has_reported = false;
        loop {
            let left = timeout.saturating_sub(self.began.elapsed());
            match self.bootstrap.get(key, left.min(SLICE)) {
                Ok(value) => return Ok(Some(value)),
                Err(BootstrapError::Timeout { .. }) if left <= SLICE => return Ok(None),
                Err(BootstrapError::Timeout { .. }) => {}
                Err(source) => return Err(CommError::Bootstrap { rank, source }),
            }
            if let Some(reason) = observer.called_off() {
                return Err(self.meeting.called_off(missing(), reason));
            }
            if !std::mem::replace(&mut has_reported, true) {
                observer.waiting_for(&missing());
            }
        }
    }
}

fn parsed(meeting: &Meeting<'_>, text: &str) -> Result<SocketAddr, CommError> {
    let address = text.parse();
    address.map_err(|_| meeting.refusal(format!("expected an address and a port, got `{text}`")))
}

/// A port of the system's choice. Where all addresses are meant, those of IPv4 only if there are no others.
fn listen(own: IpAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::new(own, 0)) {
        Err(_) if own.is_unspecified() => TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)),
        bound => bound,
    }
}

/// Makes the streams of all groups; returns those of `members`.
pub(super) fn split(
    engine: &mut Engine<Sockets>,
    members: &[usize],
) -> Result<Option<Sockets>, CommError> {
    engine.run(Kind::Split, |engine| {
        let world: Vec<usize> = members.iter().map(|rank| engine.world[*rank]).collect();
        let position = members.iter().position(|rank| *rank == engine.rank);
        let rank = position.unwrap_or(0);
        let own = engine.transport.own;
        let refused = |error| CommError::Connect {
            rank: world[rank],
            problem: format!("cannot listen at {own}: {error}"),
        };
        let listener = listen(own).map_err(refused)?;
        let port = listener.local_addr().map_err(refused)?.port();
        let token = Token::new().map_err(refused)?;
        let told = engine.share(Kind::Split, format!("{port} {token}").into_bytes())?;
        if members.len() == 1 {
            return Ok(None);
        }
        let mut token = token;
        let mut addresses = Vec::new();
        for (place, member) in members.iter().enumerate() {
            let text = String::from_utf8_lossy(&told[*member]);
            let corrupt =
                |problem: &str| engine.corrupt(*member, format!("{problem}, got `{text}`"));
            let (port, theirs) = text
                .split_once(' ')
                .ok_or_else(|| corrupt("expected a port and a token"))?;
            let port = port.parse().map_err(|_| corrupt("expected a port"))?;
            if place == 0 {
                token = theirs
                    .parse()
                    .map_err(|problem: String| corrupt(&problem))?;
            }
            addresses.push(SocketAddr::new(engine.transport.addresses[*member], port));
        }
        let meeting = Meeting {
            rank,
            world: &world,
            token,
            collective: Kind::Split.name(),
            sequence: engine.sequence(),
            timeout: engine.settings.timeout,
            observer: engine.settings.observer.clone(),
        };
        let streams = mesh::connect(&meeting, &listener, &addresses)?;
        let addresses = addresses.iter().map(SocketAddr::ip).collect();
        let sockets = Sockets::new(streams, own, addresses);
        sockets.map(Some).map_err(refused)
    })
}
