//! What one host runs for another, ranks and commands: a launcher's side, and the side of mpirun's agent.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::wire::{Directory, Errand, Outcome, SignalRank, Task, same_token};
use super::{NODES_VARIABLE, NodesError, SILENCE};
use crate::control::{line_of, next_line};
use crate::cores::CorePlan;
use crate::diagnosis::Exit;
use crate::lock::lock;
use crate::output::lines_of;
use crate::rank_process::exit_of;
use crate::server::Server;

/// Connections at once, besides two a rank: mpirun starts an agent a host and attempt.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may take to say what it wants.
const ERRAND_PATIENCE: Duration = Duration::from_secs(10);
/// How long a shell waits for the token of the job that it has joined.
const TRUST_PATIENCE: Duration = Duration::from_secs(2);
/// How long what runs may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
/// How long an agent tries to reach its launcher.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// Runs ranks and commands for whoever knows the token, until dropped; the drop ends them.
pub(super) struct Shell {
    server: Server,
    token: Arc<Mutex<Option<String>>>,
}

impl Shell {
    /// Listens, and runs nothing before [`trust`](Self::trust). Ranks get their shares of `cores`.
    pub(super) fn start(listener: TcpListener, cores: CorePlan) -> io::Result<Self> {
        let token = Arc::new(Mutex::new(None));
        let server = Server::start(listener, CONNECTIONS_MAX + 2 * cores.ranks, {
            let token = Arc::clone(&token);
            move |stream| {
                if let Err(error) = serve(&stream, &token, &cores) {
                    tracing::debug!(%error, "a shell's connection ended");
                }
            }
        })?;
        Ok(Self { server, token })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// From now on runs what those ask for who know this token, and no others.
    pub(super) fn trust(&self, token: &str) {
        *lock(&self.token) = Some(token.to_owned());
    }
}

fn serve(stream: &TcpStream, token: &Mutex<Option<String>>, cores: &CorePlan) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ERRAND_PATIENCE))?;
    // Whoever takes nothing for so long is gone, as when it says nothing.
    stream.set_write_timeout(Some(SILENCE))?;
    let mut lines = BufReader::new(stream);
    let errand = next_line::<Errand>(&mut lines)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let mouth = Mouth(Mutex::new(stream));
    let known = awaited(token);
    if !known.is_some_and(|known| same_token(&known, &errand.token)) {
        tracing::warn!("refused to run something without the token of this job");
        return mouth.say(&Outcome::Refused("it is not of this job".into()));
    }
    stream.set_read_timeout(None)?;
    let spawned = match errand.task {
        Task::Command(line) => Command::new("/bin/sh")
            .args(["-c", &line])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn(),
        Task::Rank(order) => order.spawn(cores, Stdio::piped()).map_err(|error| {
            let folder = order.folder.unwrap_or_default();
            let (program, folder) = (order.program.display(), folder.display());
            io::Error::other(format!("cannot start {program} in {folder}: {error}"))
        }),
    };
    match spawned {
        Ok(child) => follow(&mut lines, &mouth, child),
        Err(error) => mouth.say(&Outcome::Refused(error.to_string())),
    }
}

/// The token, which may be on its way.
fn awaited(token: &Mutex<Option<String>>) -> Option<String> {
    let began = Instant::now();
    loop {
        let known = lock(token).clone();
        if known.is_some() || began.elapsed() > TRUST_PATIENCE {
            return known;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Passes on what the child says, what signals come for it, and how it ends; ends it with the connection. It stays on
/// the thread that spawned the child, which may be bound to that.
fn follow(
    lines: &mut BufReader<&TcpStream>,
    mouth: &Mouth<'_>,
    mut child: Child,
) -> io::Result<()> {
    let group = Pid::from_child(&child);
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let ended = &AtomicBool::new(false);
    // When nobody hears it, the connection has ended, and so will the child.
    let _ = mouth.say(&Outcome::Started);
    let status = thread::scope(|scope| {
        if let Some(out) = out {
            scope.spawn(move || pass_on(mouth, out, Outcome::Out));
        }
        if let Some(err) = err {
            scope.spawn(move || pass_on(mouth, err, Outcome::Err));
        }
        scope.spawn(move || {
            while let Ok(Some(SignalRank { signal })) = next_line(lines) {
                let Some(signal) = Signal::from_named_raw(signal) else {
                    break;
                };
                if !ended.load(Ordering::SeqCst) {
                    let _ = kill_process_group(group, signal);
                }
            }
            end(group, ended);
        });
        // It stays a zombie for now, so that its group's number is nobody else's.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(group), options);
        // What it left in its group would keep the pipes open.
        let _ = kill_process_group(group, Signal::KILL);
        ended.store(true, Ordering::SeqCst);
        mouth.hear_no_more();
        status
    });
    let exit = status.ok().flatten().as_ref().map(exit_of);
    child.wait()?;
    mouth.say(&Outcome::Exit(exit.unwrap_or(Exit::Code(1))))
}

fn end(group: Pid, ended: &AtomicBool) {
    let began = Instant::now();
    let mut signal = Signal::TERM;
    while !ended.load(Ordering::SeqCst) {
        let _ = kill_process_group(group, signal);
        thread::sleep(Duration::from_millis(50));
        if began.elapsed() > GRACE {
            signal = Signal::KILL;
        }
    }
}

fn pass_on(mouth: &Mouth<'_>, mut from: impl io::Read, outcome: fn(String) -> Outcome) {
    lines_of(&mut from, |line| {
        let text = String::from_utf8_lossy(line).into_owned();
        // Go on when nobody hears it: a full pipe would stop the child.
        let _ = mouth.say(&outcome(text));
    });
}

/// Says one line at a time, whoever speaks.
struct Mouth<'a>(Mutex<&'a TcpStream>);

impl Mouth<'_> {
    fn say(&self, outcome: &Outcome) -> io::Result<()> {
        let line = line_of(outcome)?;
        let mut stream = *lock(&self.0);
        let said = stream.write_all(&line);
        if said.is_err() {
            // Half a line may be under way: nothing that follows would be understood.
            let _ = stream.shutdown(Shutdown::Both);
        }
        said
    }

    fn hear_no_more(&self) {
        let _ = lock(&self.0).shutdown(Shutdown::Read);
    }
}

/// The agent of `mpirun`: has the launcher of a host run a command, and exits as that does.
///
/// # Errors
/// When the host is none of the job's, or its launcher does not answer.
pub fn node_shell(host: &str, command: &[String]) -> Result<i32, NodesError> {
    let failed = |problem: String| NodesError::Agent {
        host: host.to_owned(),
        problem,
    };
    let directory = std::env::var(NODES_VARIABLE).map_err(|_| {
        failed(format!(
            "{NODES_VARIABLE} is not set; mpirun starts this for `streamrec launch`"
        ))
    })?;
    let directory: Directory = serde_json::from_str(&directory)
        .map_err(|error| failed(format!("{NODES_VARIABLE} is malformed: {error}")))?;
    let address = directory.shells.get(host).ok_or_else(|| {
        let known: Vec<_> = directory.shells.keys().map(String::as_str).collect();
        failed(format!(
            "not a host of this job, whose hosts are {}",
            known.join(", ")
        ))
    })?;
    let talk = || {
        let stream = TcpStream::connect_timeout(address, CONNECT_PATIENCE)?;
        let errand = Errand {
            token: directory.token.clone(),
            task: Task::Command(command.join(" ")),
        };
        (&stream).write_all(&line_of(&errand)?)?;
        let mut lines = BufReader::new(&stream);
        while let Some(outcome) = next_line::<Outcome>(&mut lines)? {
            match outcome {
                Outcome::Started => {}
                Outcome::Out(text) => io::stdout().write_all(text.as_bytes())?,
                Outcome::Err(text) => io::stderr().write_all(text.as_bytes())?,
                Outcome::Exit(exit) => return Ok(exit.fault().exit_code()),
                Outcome::Refused(reason) => return Err(io::Error::other(reason)),
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    };
    talk().map_err(|error| {
        failed(format!(
            "its launcher at {address} does not run the command: {error}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rank_order::RankOrder;

    fn untrusting() -> Shell {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Shell::start(listener, CorePlan::new(1, false)).unwrap()
    }

    fn shell(token: &str) -> Shell {
        let shell = untrusting();
        shell.trust(token);
        shell
    }

    fn ask(shell: &Shell, token: &str, task: Task) -> TcpStream {
        let stream = TcpStream::connect(shell.address()).unwrap();
        let token = token.to_owned();
        let line = line_of(&Errand { token, task }).unwrap();
        (&stream).write_all(&line).unwrap();
        stream
    }

    /// A command line, as an agent's and as a rank's.
    fn tasks(line: &str) -> [Task; 2] {
        let order = RankOrder {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), line.into()],
            env: vec![("RANK".into(), "5".into())],
            folder: Some("/".into()),
            local_rank: 0,
        };
        [Task::Command(line.to_owned()), Task::Rank(order)]
    }

    fn answers(stream: &TcpStream) -> Vec<Outcome> {
        let mut lines = BufReader::new(stream);
        std::iter::from_fn(|| next_line(&mut lines).unwrap()).collect()
    }

    #[test]
    fn what_is_asked_for_is_run_and_its_output_and_end_come_back() {
        let shell = shell("secret");
        for task in tasks("echo out; echo err >&2; exit 7") {
            let mut found = answers(&ask(&shell, "secret", task));
            assert_eq!(found[0], Outcome::Started);
            assert_eq!(found.pop(), Some(Outcome::Exit(Exit::Code(7))));
            assert!(found.contains(&Outcome::Out("out\n".into())), "{found:?}");
            assert!(found.contains(&Outcome::Err("err\n".into())), "{found:?}");
        }
    }

    #[test]
    fn a_rank_finds_its_folder_its_variables_and_its_threads() {
        let shell = shell("secret");
        let [_, rank] = tasks("echo $PWD $RANK; test $STREAMREC_THREADS -ge 1");
        let found = answers(&ask(&shell, "secret", rank));
        assert!(found.contains(&Outcome::Out("/ 5\n".into())), "{found:?}");
        assert_eq!(found.last(), Some(&Outcome::Exit(Exit::Code(0))));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let shell = shell("secret");
        let [_, Task::Rank(order)] = tasks("") else {
            panic!("a rank");
        };
        for order in [
            RankOrder {
                program: "/nonexistent/program".into(),
                ..order.clone()
            },
            RankOrder {
                folder: Some("/nonexistent/program".into()),
                ..order
            },
        ] {
            let found = answers(&ask(&shell, "secret", Task::Rank(order)));
            let [Outcome::Refused(reason)] = &found[..] else {
                panic!("expected a refusal, not {found:?}");
            };
            assert!(reason.contains("/nonexistent/program"), "{reason}");
        }
    }

    #[test]
    fn signals_reach_the_rank_and_what_it_started() {
        let shell = shell("secret");
        let [_, rank] = tasks("trap 'echo told; exit 143' TERM; echo on; sleep 600 & wait");
        let stream = ask(&shell, "secret", rank);
        let mut lines = BufReader::new(&stream);
        let mut next = || next_line::<Outcome>(&mut lines).unwrap();
        assert_eq!(next(), Some(Outcome::Started));
        assert_eq!(next(), Some(Outcome::Out("on\n".into())));
        let signal = line_of(&SignalRank { signal: 15 }).unwrap();
        (&stream).write_all(&signal).unwrap();
        assert_eq!(next(), Some(Outcome::Out("told\n".into())));
        assert_eq!(next(), Some(Outcome::Exit(Exit::Code(143))));
        let [_, rank] = tasks("kill -9 $$");
        let found = answers(&ask(&shell, "secret", rank));
        assert_eq!(found.last(), Some(&Outcome::Exit(Exit::Signal(9))));
    }

    #[test]
    fn two_streams_of_long_lines_arrive_whole() {
        let shell = shell("secret");
        let many = "for i in $(seq 40); do head -c 30000 /dev/zero | tr '\\0' x; echo; done";
        let [_, rank] = tasks(&format!("({many}) & ({many}) >&2; wait"));
        let mut lengths = [0, 0];
        for outcome in answers(&ask(&shell, "secret", rank)) {
            match outcome {
                Outcome::Out(text) => lengths[0] += text.len(),
                Outcome::Err(text) => lengths[1] += text.len(),
                _ => {}
            }
        }
        assert_eq!(lengths, [40 * 30_001; 2]);
    }

    #[test]
    fn nothing_is_run_without_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run");
        let line = format!("touch {}", file.display());
        for (shell, token) in [(&shell("secret"), "guess"), (&untrusting(), "")] {
            for task in tasks(&line) {
                let found = answers(&ask(shell, token, task));
                assert!(matches!(found[..], [Outcome::Refused(_)]), "{found:?}");
            }
        }
        assert!(!file.exists());
    }

    #[test]
    fn what_runs_ends_when_its_connection_or_its_shell_is_gone_or_nonsense_comes() {
        let ends: [fn(&TcpStream, &mut Option<Shell>); 3] = [
            |stream, _| stream.shutdown(Shutdown::Both).unwrap(),
            |_, shell| drop(shell.take()),
            |mut stream, _| stream.write_all(b"{\"signal\":-1}\n").unwrap(),
        ];
        for (which, end) in ends.iter().enumerate() {
            for task in tasks("echo $$; sleep 600") {
                let mut shell = Some(shell("secret"));
                let stream = ask(shell.as_ref().unwrap(), "secret", task);
                let mut lines = BufReader::new(&stream);
                let mut next = || next_line::<Outcome>(&mut lines).unwrap();
                assert_eq!(next(), Some(Outcome::Started));
                let Some(Outcome::Out(pid)) = next() else {
                    panic!("no process id");
                };
                let began = Instant::now();
                end(&stream, &mut shell);
                while std::path::Path::new("/proc").join(pid.trim()).exists() {
                    assert!(began.elapsed() < Duration::from_secs(10), "{which}");
                    thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }
}
