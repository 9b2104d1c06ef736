//! A rank that another host's launcher started for this one, node 0.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::gathering::Gathering;
use super::wire::{Errand, Outcome, SignalRank, Task};
use crate::control::{line_of, next_line};
use crate::diagnosis::Exit;
use crate::lock::lock;
use crate::output::Feed;
use crate::rank_order::RankOrder;

/// How long a launcher may take to start a rank.
const START_PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may take a signal: one that does not is noticed by its host's silence.
const SIGNAL_PATIENCE: Duration = Duration::from_millis(200);

/// The connection that the rank lives by: when it ends, so does the rank.
pub(crate) struct RemoteRank {
    node: usize,
    /// `None` where the launcher did not answer.
    stream: Option<TcpStream>,
    exit: Arc<Mutex<Option<Exit>>>,
}

impl RemoteRank {
    /// Has a rank started. A launcher that does not answer is no error here: its host is lost, and so is the rank.
    ///
    /// # Errors
    /// When the launcher refuses, or the order has no line.
    pub(crate) fn start(
        hosts: &Gathering<'_>,
        node: usize,
        order: RankOrder,
        feed: Feed,
    ) -> io::Result<Self> {
        let shell = hosts.seats[node].shell;
        let errand = Errand {
            token: hosts.roster.token().to_owned(),
            task: Task::Rank(order),
        };
        // A word that is not Unicode ends here.
        let line = line_of(&errand)?;
        let exit = Arc::new(Mutex::new(None));
        let ask = || {
            if hosts.lost().contains(&node) {
                // Another of its ranks has waited for it already.
                return Err(io::ErrorKind::NotConnected.into());
            }
            let stream = TcpStream::connect_timeout(&shell, START_PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(START_PATIENCE))?;
            stream.set_write_timeout(Some(SIGNAL_PATIENCE))?;
            (&stream).write_all(&line)?;
            let mut lines = BufReader::new(stream.try_clone()?);
            let answer = next_line::<Outcome>(&mut lines)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            stream.set_read_timeout(None)?;
            Ok::<_, io::Error>((stream, lines, answer))
        };
        let stream = match ask() {
            Ok((stream, lines, Outcome::Started)) => {
                let exit = Arc::clone(&exit);
                let name = thread::Builder::new().name("remote rank".into());
                name.spawn(move || follow(lines, node, feed, &exit))?;
                Some(stream)
            }
            Ok((_, _, Outcome::Refused(reason))) => {
                let problem = format!("node {node} at {shell} refuses: {reason}");
                return Err(io::Error::other(problem));
            }
            other => {
                let problem = match other {
                    Err(error) => error,
                    Ok(_) => io::Error::other("it answers otherwise than agreed"),
                };
                tracing::warn!(node, %shell, %problem, "a launcher starts no rank");
                *lock(&exit) = Some(Exit::Lost(node));
                feed.end();
                None
            }
        };
        Ok(Self { node, stream, exit })
    }

    /// How it ended.
    pub(crate) fn exit(&self) -> Option<Exit> {
        *lock(&self.exit)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let signal = signal.as_raw();
        if let (Some(mut stream), Ok(line)) =
            (self.stream.as_ref(), line_of(&SignalRank { signal }))
        {
            let _ = stream.write_all(&line);
        }
    }

    /// Gives it up.
    pub(crate) fn lose(&mut self) {
        lock(&self.exit).get_or_insert(Exit::Lost(self.node));
        if let Some(stream) = &self.stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for RemoteRank {
    fn drop(&mut self) {
        if self.exit().is_none() {
            self.signal(Signal::KILL);
        }
        if let Some(stream) = &self.stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Hands on what the rank says, until it has ended or is lost.
fn follow(
    mut lines: BufReader<TcpStream>,
    node: usize,
    mut feed: Feed,
    exit: &Mutex<Option<Exit>>,
) {
    let found = loop {
        match next_line::<Outcome>(&mut lines) {
            Ok(Some(Outcome::Out(text))) => feed.out.feed(text.as_bytes()),
            Ok(Some(Outcome::Err(text))) => feed.err.feed(text.as_bytes()),
            Ok(Some(Outcome::Exit(exit))) => break exit,
            _ => break Exit::Lost(node),
        }
    };
    // First what it said, then that it has ended.
    feed.end();
    lock(exit).get_or_insert(found);
}
