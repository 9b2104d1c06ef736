//! The rank's side of the control connection.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{
    CONTROL_VARIABLE, Collective, ControlError, Ending, HEARTBEAT_VARIABLE, MESSAGE_BYTES_MAX,
    Order, Report, line_of, next_line,
};
use crate::environment::RankEnvironment;
use crate::lock::lock;

const HEARTBEAT: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(5);

/// What a rank does when its launcher is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LostLauncher {
    /// Exit the process with code 1 and a message: a rank must not outlive its launcher.
    #[default]
    Exit,
    /// Go on without being watched.
    Continue,
}

/// Tells the launcher that this rank lives and how far it is; a no-op without a launcher. Clones share one connection;
/// when the last one drops, the rank has said that it finished.
///
/// Two threads stand behind it: one sends the latest state every half second, one notices when the launcher is lost.
/// The methods only note the state: atomics, or a mutex that the sender takes for a few nanoseconds.
#[derive(Clone)]
pub struct Reporter(Option<Arc<Connection>>);

struct Connection {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    environment: RankEnvironment,
    address: SocketAddr,
    stream: Mutex<TcpStream>,
    heartbeat: Duration,
    step: AtomicU64,
    progress: AtomicU64,
    activity: Mutex<Activity>,
    /// Set once this rank has said its last line, and signalled to the sender.
    ended: Mutex<bool>,
    wake: Condvar,
    /// Asks the sender not to wait for the next heartbeat.
    hurry: AtomicBool,
    closing: AtomicBool,
    abort: OnceLock<String>,
}

#[derive(Default)]
struct Activity {
    phase: &'static str,
    /// What each of the rank's communicators is in, by [`Channel`].
    channels: Vec<Option<InCollective>>,
}

struct InCollective {
    name: &'static str,
    sequence: u64,
    waiting_for: Vec<usize>,
}

impl Activity {
    /// The collective to tell of: that of the first communicator that is in one, as the rank's main work goes
    /// through the first.
    fn collective(&self) -> Option<&InCollective> {
        self.channels.iter().flatten().next()
    }
}

/// One communicator of a rank, to its [`Reporter`]. Several are in collectives at a time.
#[derive(Clone)]
pub struct Channel {
    reporter: Reporter,
    number: usize,
}

impl Reporter {
    /// Connects to the launcher named by `STREAMREC_CONTROL`; a no-op reporter when it is not set.
    ///
    /// # Errors
    /// When the variable is malformed or the launcher does not answer.
    pub fn from_process(
        environment: &RankEnvironment,
        lost: LostLauncher,
    ) -> Result<Self, ControlError> {
        let Ok(value) = std::env::var(CONTROL_VARIABLE) else {
            return Ok(Self::disconnected());
        };
        let address = value.parse().map_err(|_| ControlError::Variable {
            name: CONTROL_VARIABLE,
            value: value.clone(),
            expected: "an address such as 127.0.0.1:4000",
        })?;
        let heartbeat =
            match std::env::var(HEARTBEAT_VARIABLE) {
                Err(_) => HEARTBEAT,
                Ok(value) => value.parse().map(Duration::from_millis).map_err(|_| {
                    ControlError::Variable {
                        name: HEARTBEAT_VARIABLE,
                        value,
                        expected: "a number of milliseconds",
                    }
                })?,
            };
        Self::connect(address, environment, heartbeat, lost)
    }

    /// Connects to a launcher's control address and sends a first report at once, then one each `heartbeat`.
    ///
    /// # Errors
    /// When the launcher does not answer.
    pub fn connect(
        address: SocketAddr,
        environment: &RankEnvironment,
        heartbeat: Duration,
        lost: LostLauncher,
    ) -> Result<Self, ControlError> {
        let failed = |source| ControlError::Connect {
            rank: environment.rank,
            address: address.to_string(),
            source,
        };
        let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(failed)?;
        // No time-out for writes: a launcher that is stopped (Ctrl-Z) must not take its ranks for lost.
        stream.set_nodelay(true).map_err(failed)?;
        let incoming = stream.try_clone().map_err(failed)?;
        let shared = Arc::new(Shared {
            environment: environment.clone(),
            address,
            stream: Mutex::new(stream),
            heartbeat,
            step: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            activity: Mutex::new(Activity {
                phase: "start",
                ..Activity::default()
            }),
            ended: Mutex::new(false),
            wake: Condvar::new(),
            hurry: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            abort: OnceLock::new(),
        });
        shared.send(None).map_err(failed)?;
        let mut connection = Connection {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
        };
        let sender = Arc::clone(&shared);
        let sender = thread::Builder::new()
            .name("report".into())
            .spawn(move || sender.beat(lost));
        connection.threads.push(sender.map_err(failed)?);
        let listener = thread::Builder::new()
            .name("orders".into())
            .spawn(move || shared.listen(incoming, lost));
        connection.threads.push(listener.map_err(failed)?);
        Ok(Self(Some(Arc::new(connection))))
    }

    /// A reporter that tells nobody.
    pub fn disconnected() -> Self {
        Self(None)
    }

    /// Notes that the rank gets on. Stages without steps (a compilation, a long read) call it now and then, or they
    /// are taken for stuck.
    pub fn tick(&self) {
        if let Some(shared) = self.shared() {
            shared.progress.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes the global step that begins.
    pub fn set_step(&self, step: u64) {
        if let Some(shared) = self.shared() {
            shared.step.store(step, Ordering::Relaxed);
            self.tick();
        }
    }

    /// Notes what the rank does now, such as `"forward"` or `"checkpoint"`.
    pub fn set_phase(&self, phase: &'static str) {
        if let Some(shared) = self.shared() {
            lock(&shared.activity).phase = phase;
            self.tick();
        }
    }

    /// A place of its own for a communicator.
    pub fn channel(&self) -> Channel {
        let number = self.shared().map_or(0, |shared| {
            let channels = &mut lock(&shared.activity).channels;
            channels.push(None);
            channels.len() - 1
        });
        Channel {
            reporter: self.clone(),
            number,
        }
    }

    /// Tells the launcher why this rank is about to exit with a failure. `lost` names the ranks whose loss is the
    /// reason, as a communicator reports them; it is empty when the fault is this rank's own.
    pub fn fail(&self, message: &str, lost: &[usize]) {
        if let Some(shared) = self.shared() {
            let message = message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)].to_owned();
            shared.end(Ending::Failed {
                message,
                lost: lost.to_vec(),
            });
        }
    }

    /// Why the launcher ends this attempt, once it does. A wait for other ranks may poll it: those it waits for
    /// will not come.
    pub fn abort_reason(&self) -> Option<&str> {
        self.shared()
            .and_then(|shared| shared.abort.get())
            .map(String::as_str)
    }

    fn shared(&self) -> Option<&Shared> {
        self.0.as_ref().map(|connection| connection.shared.as_ref())
    }
}

impl Channel {
    /// A place for another communicator of the same rank.
    pub fn another(&self) -> Self {
        self.reporter.channel()
    }

    /// See [`Reporter::abort_reason`].
    pub fn abort_reason(&self) -> Option<&str> {
        self.reporter.abort_reason()
    }

    /// Notes that the communicator enters a collective. Inside one a rank is never taken for the cause of a stuck
    /// job, so leave it on every way out.
    pub fn enter_collective(&self, name: &'static str, sequence: u64) {
        self.set(Some(InCollective {
            name,
            sequence,
            waiting_for: Vec::new(),
        }));
    }

    /// Notes that the communicator has left its collective.
    pub fn leave_collective(&self) {
        self.set(None);
    }

    fn set(&self, collective: Option<InCollective>) {
        if let Some(shared) = self.reporter.shared() {
            lock(&shared.activity).channels[self.number] = collective;
            self.reporter.tick();
        }
    }

    /// Names the ranks that the present collective still waits for. News are reported at once: call it only after a
    /// wait of some 100 ms.
    pub fn set_waiting_for(&self, ranks: &[usize]) {
        let Some(shared) = self.reporter.shared() else {
            return;
        };
        let mut activity = lock(&shared.activity);
        let Some(collective) = &mut activity.channels[self.number] else {
            return;
        };
        if collective.waiting_for != ranks {
            collective.waiting_for = ranks.to_vec();
            drop(activity);
            // Without the lock a wake-up can be lost; the next heartbeat then carries the news.
            shared.hurry.store(true, Ordering::Relaxed);
            shared.wake.notify_all();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.end(Ending::Finished);
        self.shared.closing.store(true, Ordering::SeqCst);
        let _ = lock(&self.shared.stream).shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn send(&self, ending: Option<Ending>) -> io::Result<()> {
        let report = {
            let activity = lock(&self.activity);
            Report {
                run_id: self.environment.run_id.clone(),
                rank: self.environment.rank,
                pid: std::process::id(),
                restart_count: self.environment.restart_count,
                step: self.step.load(Ordering::Relaxed),
                phase: activity.phase.to_owned(),
                progress: self.progress.load(Ordering::Relaxed),
                collective: activity.collective().map(|collective| Collective {
                    name: collective.name.to_owned(),
                    sequence: collective.sequence,
                }),
                waiting_for: activity
                    .collective()
                    .map(|collective| collective.waiting_for.clone())
                    .unwrap_or_default(),
                ending,
            }
        };
        lock(&self.stream).write_all(&line_of(&report)?)
    }

    /// Says the last line, once: what comes first is the truth.
    fn end(&self, ending: Ending) {
        let mut ended = lock(&self.ended);
        if !*ended {
            *ended = true;
            // A launcher that is gone cannot hear it, and the listening thread knows what to do then.
            let _ = self.send(Some(ending));
            self.wake.notify_all();
        }
    }

    fn beat(&self, lost: LostLauncher) {
        let mut ended = lock(&self.ended);
        loop {
            ended = self
                .wake
                .wait_timeout_while(ended, self.heartbeat, |ended| {
                    !*ended && !self.hurry.swap(false, Ordering::Relaxed)
                })
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            if *ended {
                return;
            }
            if self.send(None).is_err() {
                drop(ended);
                return self.launcher_lost(lost);
            }
        }
    }

    fn listen(&self, incoming: TcpStream, lost: LostLauncher) {
        let mut incoming = BufReader::new(incoming);
        while let Ok(Some(order)) = next_line::<Order>(&mut incoming) {
            let _ = self.abort.set(order.abort);
        }
        self.launcher_lost(lost);
    }

    fn launcher_lost(&self, lost: LostLauncher) {
        if lost == LostLauncher::Continue || self.closing.load(Ordering::SeqCst) {
            return;
        }
        // Standard error led to the launcher, most likely: this may fail, and must not panic.
        let _ = writeln!(
            io::stderr(),
            "rank {}: the launcher at {} is gone, and ranks do not outlive it; exiting with code 1",
            self.environment.rank,
            self.address
        );
        std::process::exit(1);
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::net::TcpListener;

    use super::*;

    fn pair(heartbeat: Duration) -> (Reporter, BufReader<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let environment = RankEnvironment {
            rank: 1,
            world_size: 2,
            ..RankEnvironment::single()
        };
        let reporter =
            Reporter::connect(address, &environment, heartbeat, LostLauncher::Continue).unwrap();
        (reporter, BufReader::new(listener.accept().unwrap().0))
    }

    fn next(stream: &mut BufReader<TcpStream>) -> Report {
        next_line(stream).unwrap().unwrap()
    }

    #[test]
    fn reports_carry_the_latest_state() {
        let (reporter, mut launcher) = pair(Duration::from_millis(20));
        assert_eq!(next(&mut launcher).phase, "start");
        reporter.set_step(7);
        reporter.set_phase("backward");
        let [first, second] = [reporter.channel(), reporter.channel()];
        first.enter_collective("all_reduce", 3);
        first.set_waiting_for(&[0]);
        // Another communicator comes and goes meanwhile, such as one that saves.
        second.enter_collective("barrier", 9);
        second.set_waiting_for(&[2]);
        second.leave_collective();
        let waiting = loop {
            let report = next(&mut launcher);
            if !report.waiting_for.is_empty() {
                break report;
            }
        };
        assert_eq!(
            (waiting.rank, waiting.step, waiting.phase.as_str()),
            (1, 7, "backward")
        );
        assert_eq!(
            waiting.collective,
            Some(Collective {
                name: "all_reduce".into(),
                sequence: 3
            })
        );
        assert_eq!(waiting.waiting_for, [0]);
        first.leave_collective();
        let left = loop {
            let report = next(&mut launcher);
            if report.collective.is_none() {
                break report;
            }
        };
        assert!(left.waiting_for.is_empty() && left.progress > waiting.progress);
    }

    #[test]
    fn news_of_missing_ranks_do_not_wait_for_the_heartbeat() {
        let (reporter, mut launcher) = pair(Duration::from_secs(60));
        next(&mut launcher);
        let channel = reporter.channel();
        channel.enter_collective("all_reduce", 1);
        // Repeated, as a wake-up that comes before the sender sleeps is lost.
        for round in 0..50 {
            let missing = [round];
            channel.set_waiting_for(&missing);
            launcher
                .get_ref()
                .set_read_timeout(Some(Duration::from_millis(100)))
                .unwrap();
            match next_line::<Report>(&mut launcher) {
                Ok(report) => return assert_eq!(report.unwrap().waiting_for, missing),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        panic!("never reported before the heartbeat");
    }

    #[test]
    fn the_first_ending_is_the_last_line() {
        let (reporter, mut launcher) = pair(Duration::from_secs(60));
        next(&mut launcher);
        reporter.fail("out of disk", &[]);
        reporter.fail("and then this", &[0]);
        let ending = next(&mut launcher).ending;
        assert_eq!(
            ending,
            Some(Ending::Failed {
                message: "out of disk".into(),
                lost: vec![]
            })
        );
        drop(reporter);
        assert!(launcher.fill_buf().unwrap().is_empty());
    }

    #[test]
    fn dropping_the_last_clone_says_finished() {
        let (reporter, mut launcher) = pair(Duration::from_secs(60));
        next(&mut launcher);
        drop(reporter.clone());
        drop(reporter);
        assert_eq!(next(&mut launcher).ending, Some(Ending::Finished));
    }

    #[test]
    fn an_order_to_abort_reaches_the_rank() {
        let (reporter, mut launcher) = pair(Duration::from_secs(60));
        assert_eq!(reporter.abort_reason(), None);
        launcher
            .get_mut()
            .write_all(
                &line_of(&Order {
                    abort: "rank 0 died".into(),
                })
                .unwrap(),
            )
            .unwrap();
        while reporter.abort_reason().is_none() {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(reporter.abort_reason(), Some("rank 0 died"));
    }

    #[test]
    fn a_disconnected_reporter_does_nothing() {
        let reporter = Reporter::disconnected();
        reporter.set_step(1);
        reporter.channel().enter_collective("barrier", 1);
        reporter.fail("nobody hears", &[]);
        assert_eq!(reporter.abort_reason(), None);
    }
}
