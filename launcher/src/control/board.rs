//! The launcher's side of the control connections: the latest report of each rank.

use std::io::{self, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Order, Report, line_of, next_line};
use crate::lock::lock;
use crate::server::Server;

/// Collects the reports of one job's ranks until dropped.
pub(crate) struct Board {
    state: Arc<Mutex<State>>,
    server: Server,
}

struct State {
    run_id: String,
    restart_count: u32,
    ranks: Vec<Option<Sight>>,
}

/// A rank as last seen.
struct Sight {
    report: Report,
    heard: Instant,
    progressed: Instant,
    stream: TcpStream,
}

/// A copy of what is known of a rank at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub report: Report,
    /// Time since its last report.
    pub silent_for: Duration,
    /// Time since its progress last changed.
    pub stalled_for: Duration,
}

impl Board {
    /// Listens at an address of this host, which `nproc` ranks can reach.
    pub(crate) fn start(ip: IpAddr, run_id: &str, nproc: usize) -> io::Result<Self> {
        let listener = TcpListener::bind((ip, 0))?;
        let state = Arc::new(Mutex::new(State {
            run_id: run_id.to_owned(),
            restart_count: 0,
            ranks: vec![],
        }));
        let server = Server::start(listener, 2 * nproc + 16, {
            let state = Arc::clone(&state);
            move |stream| {
                if let Err(error) = follow(&state, &stream) {
                    tracing::debug!(%error, "a control connection ended");
                }
            }
        })?;
        Ok(Self { state, server })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Forgets the ranks of earlier attempts: only reports with this restart count are believed from now on.
    pub(crate) fn begin(&self, restart_count: u32, nproc: usize) {
        let mut state = lock(&self.state);
        state.restart_count = restart_count;
        state.ranks = (0..nproc).map(|_| None).collect();
    }

    /// What is known of each rank; `None` for one that never reported.
    pub(crate) fn look(&self) -> Vec<Option<Seen>> {
        let now = Instant::now();
        let see = |sight: &Sight| Seen {
            report: sight.report.clone(),
            silent_for: now.saturating_duration_since(sight.heard),
            stalled_for: now.saturating_duration_since(sight.progressed),
        };
        lock(&self.state)
            .ranks
            .iter()
            .map(|sight| sight.as_ref().map(see))
            .collect()
    }

    /// Starts all clocks anew: after the launcher itself slept, old times say nothing about the ranks.
    pub(crate) fn forgive(&self) {
        let now = Instant::now();
        for sight in lock(&self.state).ranks.iter_mut().flatten() {
            (sight.heard, sight.progressed) = (now, now);
        }
    }

    /// Tells every rank that the attempt is over.
    pub(crate) fn abort(&self, reason: &str) {
        let Ok(line) = line_of(&Order {
            abort: reason.to_owned(),
        }) else {
            return;
        };
        for sight in lock(&self.state).ranks.iter().flatten() {
            // A rank that is gone needs no order; the time-out keeps a stopped one from holding us up.
            let _ = (&sight.stream).write_all(&line);
        }
    }
}

/// Reads the reports of one connection. A connection speaks for the rank that its lines name.
fn follow(state: &Mutex<State>, stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(Duration::from_millis(100)))?;
    let mut lines = BufReader::new(stream);
    while let Some(report) = next_line::<Report>(&mut lines)? {
        let now = Instant::now();
        let mut state = lock(state);
        let expected = (state.run_id.as_str(), state.restart_count);
        if (report.run_id.as_str(), report.restart_count) != expected {
            return Err(io::Error::other("a report from another job or attempt"));
        }
        let rank = report.rank;
        let Some(slot) = state.ranks.get_mut(rank) else {
            return Err(io::Error::other(format!(
                "a report from rank {rank}, which does not exist"
            )));
        };
        match slot {
            Some(sight) => {
                if report.progress != sight.report.progress {
                    sight.progressed = now;
                }
                sight.heard = now;
                sight.report = report;
            }
            None => {
                *slot = Some(Sight {
                    report,
                    heard: now,
                    progressed: now,
                    stream: stream.try_clone()?,
                })
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::control::{LostLauncher, Reporter};
    use crate::environment::RankEnvironment;

    fn wait_until(board: &Board, ready: impl Fn(&[Option<Seen>]) -> bool) -> Vec<Option<Seen>> {
        let started = Instant::now();
        loop {
            let seen = board.look();
            if ready(&seen) {
                return seen;
            }
            assert!(
                started.elapsed() < Duration::from_secs(5),
                "never seen; last: {seen:?}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn reporter(board: &Board, rank: usize, restart_count: u32) -> Reporter {
        let environment = RankEnvironment {
            rank,
            world_size: 2,
            restart_count,
            run_id: "job".into(),
            ..RankEnvironment::single()
        };
        let beat = Duration::from_millis(10);
        Reporter::connect(board.address(), &environment, beat, LostLauncher::Continue).unwrap()
    }

    #[test]
    fn the_board_shows_each_rank_and_its_clocks() {
        let board = Board::start(Ipv4Addr::LOCALHOST.into(), "job", 2).unwrap();
        board.begin(0, 2);
        let rank = reporter(&board, 1, 0);
        rank.set_step(4);
        let seen = wait_until(&board, |seen| {
            seen[1]
                .as_ref()
                .is_some_and(|s| s.report.step == 4 && s.stalled_for > Duration::from_millis(50))
        });
        assert!(seen[0].is_none());
        assert!(seen[1].as_ref().unwrap().silent_for < seen[1].as_ref().unwrap().stalled_for);
        board.forgive();
        assert!(board.look()[1].as_ref().unwrap().stalled_for < Duration::from_millis(50));
    }

    #[test]
    fn reports_of_an_earlier_attempt_are_not_believed() {
        let board = Board::start(Ipv4Addr::LOCALHOST.into(), "job", 2).unwrap();
        board.begin(1, 2);
        let _late = reporter(&board, 0, 0);
        let _present = reporter(&board, 1, 1);
        let seen = wait_until(&board, |seen| seen[1].is_some());
        assert!(seen[0].is_none());
    }

    #[test]
    fn an_abort_reaches_the_ranks() {
        let board = Board::start(Ipv4Addr::LOCALHOST.into(), "job", 2).unwrap();
        board.begin(0, 2);
        let rank = reporter(&board, 0, 0);
        wait_until(&board, |seen| seen[0].is_some());
        board.abort("rank 1 was killed");
        let started = Instant::now();
        while rank.abort_reason().is_none() && started.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(rank.abort_reason(), Some("rank 1 was killed"));
    }
}
