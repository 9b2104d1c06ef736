//! Commands that one host runs for another: a launcher's side, and the agent's.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::wire::{self, Directory, Outcome, same_token};
use super::{NODES_VARIABLE, NodesError};
use crate::control::{line_of, next_line};
use crate::lock::lock;
use crate::server::Server;

/// Agents at once: mpirun starts one a host and attempt.
const CONNECTIONS_MAX: usize = 64;
/// How long an agent may take to say what it wants.
const COMMAND_PATIENCE: Duration = Duration::from_secs(10);
/// How long a shell waits for the token of the job that it has joined.
const TRUST_PATIENCE: Duration = Duration::from_secs(2);
/// How long a command may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
/// How long an agent tries to reach its launcher.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// Runs commands for whoever knows the token, until dropped; the drop ends them.
pub(super) struct Shell {
    server: Server,
    token: Arc<Mutex<Option<String>>>,
}

impl Shell {
    /// Listens, and runs nothing before [`trust`](Self::trust).
    pub(super) fn start(listener: TcpListener) -> io::Result<Self> {
        let token = Arc::new(Mutex::new(None));
        let server = Server::start(listener, CONNECTIONS_MAX, {
            let token = Arc::clone(&token);
            move |stream| {
                if let Err(error) = serve(&stream, &token) {
                    tracing::debug!(%error, "a command's connection ended");
                }
            }
        })?;
        Ok(Self { server, token })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// From now on runs the commands of those who know this token, and of no others.
    pub(super) fn trust(&self, token: &str) {
        *lock(&self.token) = Some(token.to_owned());
    }
}

fn serve(stream: &TcpStream, token: &Mutex<Option<String>>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(COMMAND_PATIENCE))?;
    let command = next_line::<wire::Command>(&mut BufReader::new(stream))?;
    let command = command.ok_or(io::ErrorKind::UnexpectedEof)?;
    let known = awaited(token);
    if !known.is_some_and(|known| same_token(&known, &command.token)) {
        tracing::warn!("refused a command without the token of this job");
        return say(stream, &Outcome::Refused("it is not of this job".into()));
    }
    stream.set_read_timeout(None)?;
    let spawned = Command::new("/bin/sh")
        .args(["-c", &command.line])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    match spawned {
        Ok(child) => follow(stream, child),
        Err(error) => say(stream, &Outcome::Refused(error.to_string())),
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

/// Passes on what the command says and how it ends; ends it when the agent is gone.
fn follow(stream: &TcpStream, mut child: Child) -> io::Result<()> {
    let group = Pid::from_child(&child);
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let ended = &AtomicBool::new(false);
    let status = thread::scope(|scope| {
        if let Some(out) = out {
            scope.spawn(move || pass_on(stream, out, Outcome::Out));
        }
        if let Some(err) = err {
            scope.spawn(move || pass_on(stream, err, Outcome::Err));
        }
        scope.spawn(move || {
            // An agent says no more: this is the end of the connection.
            let mut rest = [0; 64];
            while matches!(io::Read::read(&mut &*stream, &mut rest), Ok(1..)) {}
            end(group, ended);
        });
        // It stays a zombie for now, so that its group's number is nobody else's.
        let _ = waitid(
            WaitId::Pid(group),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        );
        // What it left in its group would keep the pipes open.
        let _ = kill_process_group(group, Signal::KILL);
        ended.store(true, Ordering::SeqCst);
        let _ = stream.shutdown(Shutdown::Read);
        child.wait()
    })?;
    let code = status.code();
    let code = code.unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    say(stream, &Outcome::Exit(code))
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

fn pass_on(stream: &TcpStream, from: impl io::Read, outcome: fn(String) -> Outcome) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while matches!(from.read_until(b'\n', &mut line), Ok(1..)) {
        let text = String::from_utf8_lossy(&line).into_owned();
        line.clear();
        // Go on without the agent: a full pipe would stop the command.
        let _ = say(stream, &outcome(text));
    }
}

fn say(mut stream: &TcpStream, outcome: &Outcome) -> io::Result<()> {
    stream.write_all(&line_of(outcome)?)
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
        let command = wire::Command {
            token: directory.token.clone(),
            line: command.join(" "),
        };
        (&stream).write_all(&line_of(&command)?)?;
        let mut lines = BufReader::new(&stream);
        while let Some(outcome) = next_line::<Outcome>(&mut lines)? {
            match outcome {
                Outcome::Out(text) => io::stdout().write_all(text.as_bytes())?,
                Outcome::Err(text) => io::stderr().write_all(text.as_bytes())?,
                Outcome::Exit(code) => return Ok(code),
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

    fn shell(token: &str) -> Shell {
        let shell = Shell::start(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        shell.trust(token);
        shell
    }

    fn ask(shell: &Shell, token: &str, line: &str) -> TcpStream {
        let stream = TcpStream::connect(shell.address()).unwrap();
        let (token, line) = (token.to_owned(), line.to_owned());
        let command = wire::Command { token, line };
        (&stream).write_all(&line_of(&command).unwrap()).unwrap();
        stream
    }

    fn answers(stream: &TcpStream) -> Vec<Outcome> {
        let mut lines = BufReader::new(stream);
        std::iter::from_fn(|| next_line(&mut lines).unwrap()).collect()
    }

    #[test]
    fn a_command_is_run_and_its_output_and_end_come_back() {
        let shell = shell("secret");
        let mut found = answers(&ask(&shell, "secret", "echo out; echo err >&2; exit 7"));
        assert_eq!(found.pop(), Some(Outcome::Exit(7)));
        assert!(found.contains(&Outcome::Out("out\n".into())), "{found:?}");
        assert!(found.contains(&Outcome::Err("err\n".into())), "{found:?}");
    }

    #[test]
    fn nothing_is_run_without_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run");
        let line = format!("touch {}", file.display());
        let unset = Shell::start(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        for (shell, token) in [(&shell("secret"), "guess"), (&unset, "")] {
            let found = answers(&ask(shell, token, &line));
            assert!(matches!(found[..], [Outcome::Refused(_)]), "{found:?}");
        }
        assert!(!file.exists());
    }

    #[test]
    fn a_command_ends_when_its_agent_or_its_shell_is_gone() {
        for by_shell in [false, true] {
            let shell = shell("secret");
            let stream = ask(&shell, "secret", "echo $$; sleep 600");
            let Some(Outcome::Out(pid)) = next_line(&mut BufReader::new(&stream)).unwrap() else {
                panic!("no process id");
            };
            let began = Instant::now();
            if by_shell {
                drop(shell);
            } else {
                stream.shutdown(Shutdown::Both).unwrap();
            }
            while std::path::Path::new("/proc").join(pid.trim()).exists() {
                assert!(began.elapsed() < Duration::from_secs(10));
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
