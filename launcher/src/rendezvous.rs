//! Where ranks meet: a tiny key-value store over TCP, hosted in the process of rank 0.
//!
//! Ranks use it once, at start, to exchange small strings (a process id, a file descriptor, an NCCL id). The protocol
//! is specified in `docs/formats/rendezvous.md`.
//!
//! ```
//! use std::time::Duration;
//! use streamrec_launcher::{RankEnvironment, Store, free_port};
//!
//! let environment = RankEnvironment { master_port: free_port()?, ..RankEnvironment::single() };
//! let store = Store::join(&environment, Duration::from_secs(10))?;
//! store.set("segment/0", b"fd 7 of process 812")?;
//! assert_eq!(store.get("segment/0", Duration::from_secs(1))?, b"fd 7 of process 812");
//! store.barrier("segments are mapped", Duration::from_secs(1))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod frame;
mod host;

use std::io;
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs,
};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

pub use error::RendezvousError;
pub use frame::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

use crate::environment::RankEnvironment;
use crate::lock::lock;
use frame::{Hello, Request, Response};
use host::Host;

/// How long a client waits for an answer beyond the time it gave the host to wait.
const ANSWER_GRACE: Duration = Duration::from_secs(5);
/// Pause between two attempts to reach the host.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// A rank's connection to the store. Rank 0's also hosts the store: when it drops, later requests of other ranks
/// fail, so end with a [`barrier`](Self::barrier). Requests of one `Store` run one after another.
pub struct Store {
    address: String,
    own_address: IpAddr,
    host_address: IpAddr,
    // Before `host`: the client hangs up before its own host closes.
    stream: Mutex<TcpStream>,
    _host: Option<Host>,
}

impl Store {
    /// Meets the other ranks of the job: rank 0 starts the host, every rank connects, retrying until `timeout`.
    /// It does not wait for other ranks; [`barrier`](Self::barrier) does.
    ///
    /// # Errors
    /// When nobody told the address of rank 0, the port is in use, rank 0 is not reached in time, or the host refuses the rank (another world size, or
    /// a rank that is already there).
    pub fn join(environment: &RankEnvironment, timeout: Duration) -> Result<Self, RendezvousError> {
        if environment.master_addr.is_empty() {
            let rank = environment.rank;
            return Err(RendezvousError::NoAddress { rank });
        }
        let host = (environment.rank == 0)
            .then(|| Host::start(environment))
            .transpose()?;
        // Rank 0 may not be able to resolve its own public name.
        let hosts_others = host.is_some() && !is_loopback(&environment.master_addr);
        let address = match &host {
            Some(_) if hosts_others => {
                format!("127.0.0.1:{}", environment.master_port)
            }
            _ => format!(
                "{}:{}",
                bracketed(&environment.master_addr),
                environment.master_port
            ),
        };
        let stream = connect(&address, environment, timeout)?;
        let ends = stream
            .local_addr()
            .and_then(|own| Ok((own.ip(), stream.peer_addr()?.ip())));
        let (own, host_address) = ends.map_err(|source| RendezvousError::Lost {
            address: address.clone(),
            source,
        })?;
        Ok(Self {
            address,
            own_address: match hosts_others {
                true => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                false => own,
            },
            host_address,
            stream: Mutex::new(stream),
            _host: host,
        })
    }

    /// The address of this host on the way to rank 0, at which other ranks reach it too; on rank 0 of a job that may
    /// span hosts, all of its addresses (`::`).
    pub fn own_address(&self) -> IpAddr {
        self.own_address
    }

    /// The address at which this rank reaches rank 0.
    pub fn host_address(&self) -> IpAddr {
        self.host_address
    }

    /// Sets `key` to `value`, replacing an earlier value.
    ///
    /// # Errors
    /// When key or value is too large, the store is full, or rank 0 is lost.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), RendezvousError> {
        bounded("value", value.len(), VALUE_BYTES_MAX)?;
        let request = Request::Set {
            key: checked(key)?,
            value: value.to_vec(),
        };
        self.ask(&request, Duration::ZERO)?;
        Ok(())
    }

    /// The value of `key`; waits up to `timeout` until a rank sets it.
    ///
    /// # Errors
    /// When no rank sets it in time, or rank 0 is lost.
    pub fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, RendezvousError> {
        match self.ask(
            &Request::Get {
                key: checked(key)?,
                timeout,
            },
            timeout,
        )? {
            Response::Value(value) => Ok(value),
            _ => Err(RendezvousError::NotSet {
                key: key.to_owned(),
                waited: timeout,
            }),
        }
    }

    /// Waits until every rank of the world waits at the barrier of this name. Names may be used again, also by a rank
    /// whose time was over.
    ///
    /// # Errors
    /// When some ranks do not come in time (the error lists them), or rank 0 is lost.
    pub fn barrier(&self, name: &str, timeout: Duration) -> Result<(), RendezvousError> {
        match self.ask(
            &Request::Barrier {
                name: checked(name)?,
                timeout,
            },
            timeout,
        )? {
            Response::TimedOut(missing) => Err(RendezvousError::MissingRanks {
                name: name.to_owned(),
                missing,
                waited: timeout,
            }),
            _ => Ok(()),
        }
    }

    fn ask(&self, request: &Request, wait: Duration) -> Result<Response, RendezvousError> {
        let stream = lock(&self.stream);
        match exchange(&stream, &request.encode(), wait) {
            Ok(Response::Refused(reason)) => Err(RendezvousError::Refused {
                address: self.address.clone(),
                reason,
            }),
            Ok(response) => Ok(response),
            Err(source) => {
                // Half an answer may be under way: nothing that follows could be trusted.
                let _ = stream.shutdown(Shutdown::Both);
                Err(RendezvousError::Lost {
                    address: self.address.clone(),
                    source,
                })
            }
        }
    }
}

fn exchange(mut stream: &TcpStream, request: &[u8], wait: Duration) -> io::Result<Response> {
    stream.set_read_timeout(Some(wait.saturating_add(ANSWER_GRACE)))?;
    frame::write(&mut stream, request)?;
    Response::decode(&frame::read(&mut stream)?)
}

fn checked(key: &str) -> Result<String, RendezvousError> {
    bounded("key", key.len(), KEY_BYTES_MAX)?;
    Ok(key.to_owned())
}

fn bounded(what: &'static str, bytes: usize, limit: usize) -> Result<(), RendezvousError> {
    if bytes <= limit {
        Ok(())
    } else {
        Err(RendezvousError::TooLarge { what, bytes, limit })
    }
}

/// Connects and introduces this rank, until it is admitted, refused, or out of time.
fn connect(
    address: &str,
    environment: &RankEnvironment,
    timeout: Duration,
) -> Result<TcpStream, RendezvousError> {
    let hello = Hello::of(environment).encode();
    let started = Instant::now();
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        let last = match dial(address, left)
            .and_then(|stream| Ok((exchange(&stream, &hello, left)?, stream)))
        {
            Ok((Response::Done, stream)) => return Ok(stream),
            Ok((Response::Refused(reason), _)) => {
                return Err(RendezvousError::Refused {
                    address: address.to_owned(),
                    reason,
                });
            }
            Ok((Response::OtherJob(job), _)) => format!("another job is there: {job}"),
            Ok(_) => "an answer that does not fit the introduction".to_owned(),
            Err(error) => error.to_string(),
        };
        let waited = started.elapsed();
        if waited + RETRY_PAUSE >= timeout {
            return Err(RendezvousError::Unreachable {
                rank: environment.rank,
                address: address.to_owned(),
                waited,
                last,
            });
        }
        thread::sleep(RETRY_PAUSE);
    }
}

fn dial(address: &str, left: Duration) -> io::Result<TcpStream> {
    // Names are resolved on every attempt: those of a cluster may appear later than its processes.
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(
            &address,
            left.clamp(Duration::from_millis(1), ANSWER_GRACE),
        ) {
            // A connection to a free port of the ephemeral range can meet itself.
            Ok(stream) if stream.local_addr()? == stream.peer_addr()? => {}
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// IPv6 addresses stand in brackets before a port.
fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

/// A port on which nobody listens now, from below the ephemeral range, so that no outgoing connection takes it before
/// rank 0 does.
///
/// # Errors
/// When many ports in a row are taken.
pub fn free_port() -> io::Result<u16> {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 10_000;
    let clock = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |time| time.subsec_nanos());
    let start = clock ^ std::process::id().wrapping_mul(0x9e37_79b9);
    let mut last = None;
    for step in 0..256_u32 {
        // Below 30 000, so it fits.
        let port = (FIRST + start.wrapping_add(step * 37) % COUNT) as u16;
        match TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))) {
            Ok(_) => return Ok(port),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(10);

    fn world(world_size: usize) -> Vec<RankEnvironment> {
        let master_port = free_port().unwrap();
        (0..world_size)
            .map(|rank| RankEnvironment {
                rank,
                world_size,
                master_port,
                ..RankEnvironment::single()
            })
            .collect()
    }

    fn on_all_ranks<T: Send>(
        ranks: &[RankEnvironment],
        run: impl Fn(&RankEnvironment, &Store) -> T + Sync,
    ) -> Vec<T> {
        thread::scope(|scope| {
            let threads: Vec<_> = ranks
                .iter()
                .map(|rank| {
                    let run = &run;
                    scope.spawn(move || run(rank, &Store::join(rank, LONG).unwrap()))
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        })
    }

    #[test]
    fn every_rank_reads_what_every_rank_wrote() {
        let all = on_all_ranks(&world(4), |environment, store| {
            store
                .set(
                    &format!("pid/{}", environment.rank),
                    environment.rank.to_string().as_bytes(),
                )
                .unwrap();
            let values: Vec<_> = (0..4)
                .map(|rank| store.get(&format!("pid/{rank}"), LONG).unwrap())
                .collect();
            store.barrier("read", LONG).unwrap();
            values
        });
        assert_eq!(
            all,
            vec![vec![b"0".to_vec(), b"1".to_vec(), b"2".to_vec(), b"3".to_vec()]; 4]
        );
    }

    #[test]
    fn a_barrier_holds_every_round_until_the_last_rank_comes() {
        let arrived = Mutex::new(vec![0; 10]);
        on_all_ranks(&world(3), |_, store| {
            for round in 0..10 {
                lock(&arrived)[round] += 1;
                store.barrier("round", LONG).unwrap();
                assert_eq!(lock(&arrived)[round], 3);
            }
        });
    }

    #[test]
    fn a_rank_whose_time_is_over_may_come_again_without_falling_a_round_behind() {
        on_all_ranks(&world(3), |environment, store| {
            for round in 0..20 {
                // Ranks come late in turn, and the others give up and come again.
                if round % 3 == environment.rank {
                    thread::sleep(Duration::from_millis(8));
                }
                let started = Instant::now();
                while store.barrier("round", Duration::from_millis(2)).is_err() {
                    assert!(
                        started.elapsed() < LONG,
                        "rank {} fell behind",
                        environment.rank
                    );
                }
            }
        });
    }

    #[test]
    fn a_barrier_names_the_ranks_that_did_not_come() {
        let ranks = world(4);
        let store = Store::join(&ranks[0], LONG).unwrap();
        let other = Store::join(&ranks[2], LONG).unwrap();
        let missing = |store: &Store| match store.barrier("start", SOON).unwrap_err() {
            RendezvousError::MissingRanks { missing, .. } => missing,
            other => panic!("{other}"),
        };
        assert_eq!(missing(&store), [1, 2, 3]);
        thread::scope(|scope| {
            let first = scope.spawn(|| missing(&store));
            let second = scope.spawn(|| missing(&other));
            assert_eq!(
                (first.join().unwrap(), second.join().unwrap()),
                (vec![1, 3], vec![1, 3])
            );
        });
    }

    #[test]
    fn a_key_that_nobody_sets_is_named() {
        let store = Store::join(&world(1)[0], LONG).unwrap();
        assert!(
            store
                .get("never", SOON)
                .unwrap_err()
                .to_string()
                .contains("\"never\"")
        );
    }

    #[test]
    fn ranks_know_how_others_reach_them() {
        let ranks = world(2);
        let addresses = |store: &Store| [store.own_address(), store.host_address()];
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let host = Store::join(&ranks[0], LONG).unwrap();
        assert_eq!(addresses(&host), [here; 2]);
        assert_eq!(addresses(&Store::join(&ranks[1], LONG).unwrap()), [here; 2]);
        // The unspecified address stands for a name of this host that is not one of the loopback.
        let first = RankEnvironment {
            master_addr: "0.0.0.0".to_owned(),
            ..world(1).remove(0)
        };
        let host = Store::join(&first, LONG).unwrap();
        assert!(host.own_address().is_unspecified());
    }

    #[test]
    fn a_port_in_use_is_named_with_the_next_step() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let environment = RankEnvironment {
            master_port: port,
            ..RankEnvironment::single()
        };
        let message = Store::join(&environment, SOON).err().unwrap().to_string();
        assert!(
            message.contains(&port.to_string()) && message.contains("MASTER_PORT"),
            "{message}"
        );
    }

    #[test]
    fn a_rank_waits_for_a_late_host_and_gives_up_on_one_that_never_comes() {
        let ranks = world(2);
        thread::scope(|scope| {
            let early = scope.spawn(|| Store::join(&ranks[1], LONG).map(|_| ()));
            thread::sleep(SOON);
            let _store = Store::join(&ranks[0], LONG).unwrap();
            early.join().unwrap().unwrap();
        });
        let message = Store::join(&world(2)[1], SOON).err().unwrap().to_string();
        assert!(
            message.contains("rank 1") && message.contains("MASTER_ADDR"),
            "{message}"
        );
    }

    #[test]
    fn strangers_are_refused() {
        let ranks = world(2);
        let _host = Store::join(&ranks[0], LONG).unwrap();
        let refused = |environment: RankEnvironment| {
            Store::join(&environment, SOON).err().unwrap().to_string()
        };
        assert!(
            refused(RankEnvironment {
                rank: 2,
                world_size: 3,
                ..ranks[1].clone()
            })
            .contains("world of 3")
        );
        let _first = Store::join(&ranks[1], LONG).unwrap();
        assert!(refused(ranks[1].clone()).contains("rank 1"));
        let later = RankEnvironment {
            restart_count: 1,
            ..ranks[1].clone()
        };
        assert!(refused(later).contains("another job"));
    }

    #[test]
    fn values_over_the_limit_are_refused_before_they_travel() {
        let store = Store::join(&world(1)[0], LONG).unwrap();
        assert!(matches!(
            store.set("big", &vec![0; VALUE_BYTES_MAX + 1]),
            Err(RendezvousError::TooLarge { what: "value", .. })
        ));
        store.set("fits", &vec![7; VALUE_BYTES_MAX]).unwrap();
        assert_eq!(store.get("fits", LONG).unwrap().len(), VALUE_BYTES_MAX);
    }

    #[test]
    fn requests_fail_once_rank_0_has_left() {
        let ranks = world(2);
        let host = Store::join(&ranks[0], LONG).unwrap();
        let store = Store::join(&ranks[1], LONG).unwrap();
        drop(host);
        assert!(matches!(
            store.get("x", SOON),
            Err(RendezvousError::Lost { .. })
        ));
    }
}
