//! Node 0's list of the launchers that are there.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::gathering::{Gathering, Seat};
use super::shell::Shell;
use super::wire::{Answer, Directory, Join, VERSION, Word, new_token};
use super::{BEAT, NODES_VARIABLE, NodesError, SILENCE, addresses_of};
use crate::control::{line_of, next_line};
use crate::cores::CorePlan;
use crate::lock::lock;
use crate::server::Server;

/// What node 0 is told of a job over several hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Hosts, node 0's own included.
    pub nodes: usize,
    /// Where launchers join: a name or address of this host, and a port.
    pub endpoint: String,
    /// Ranks on this host.
    pub ranks: usize,
    /// How long to wait for the other launchers, at the start and after one was lost.
    pub patience: Duration,
}

/// The launchers of a job, as node 0 sees them.
pub struct Roster {
    state: Arc<Mutex<State>>,
    token: String,
    patience: Duration,
    address: SocketAddr,
    /// Joins on this, and none after it is dropped.
    _server: Server,
    /// For this host's own part.
    _shell: Shell,
}

struct State {
    nodes: Vec<Option<Node>>,
    joins: u64,
    stop: Option<i32>,
}

struct Node {
    shell: SocketAddr,
    ranks: usize,
    stream: TcpStream,
    heard: Instant,
    /// Tells its connection from a later one of the same node.
    join: u64,
}

impl Roster {
    /// Listens for the other launchers.
    ///
    /// # Errors
    /// When this host cannot listen at the endpoint.
    pub fn start(head: &Head) -> Result<Self, NodesError> {
        let failed = |source| NodesError::Listen {
            endpoint: head.endpoint.clone(),
            source,
        };
        let addresses = addresses_of(&head.endpoint).map_err(failed)?;
        let listener = TcpListener::bind(addresses.as_slice()).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        if address.ip().is_loopback() && !head.endpoint.starts_with("127.") {
            tracing::warn!(
                endpoint = head.endpoint,
                %address,
                "the name means a loopback address here, which no other host reaches: give an address"
            );
        }
        let token = new_token().map_err(failed)?;
        // For the agent of mpirun: ranks of this host are started by nobody else.
        let cores = CorePlan::new(head.ranks, false);
        let shell = TcpListener::bind((address.ip(), 0));
        let shell = shell.and_then(|listener| Shell::start(listener, cores));
        let shell = shell.map_err(failed)?;
        shell.trust(&token);
        let own = Node {
            shell: shell.address(),
            ranks: head.ranks,
            // Nobody speaks on it.
            stream: TcpStream::connect(address).map_err(failed)?,
            heard: Instant::now(),
            join: 0,
        };
        let mut nodes: Vec<Option<Node>> = (0..head.nodes).map(|_| None).collect();
        nodes[0] = Some(own);
        let state = State {
            nodes,
            joins: 0,
            stop: None,
        };
        let state = Arc::new(Mutex::new(state));
        let server = Server::start(listener, 2 * head.nodes + 16, {
            let (state, token) = (Arc::clone(&state), token.clone());
            move |stream| {
                if let Err(error) = follow(&stream, &state, &token) {
                    tracing::debug!(%error, "a launcher's connection ended");
                }
            }
        });
        let roster = Self {
            token,
            patience: head.patience,
            address,
            _server: server.map_err(failed)?,
            _shell: shell,
            state,
        };
        roster.beat().map_err(failed)?;
        Ok(roster)
    }

    /// Tells the launchers that node 0 lives, for as long as the roster does.
    fn beat(&self) -> io::Result<()> {
        let state = Arc::downgrade(&self.state);
        let beat = move || {
            while let Some(state) = state.upgrade() {
                tell_all(&state, Word::Beat);
                drop(state);
                thread::sleep(BEAT);
            }
        };
        let name = thread::Builder::new().name("beat".into());
        name.spawn(beat).map(|_| ())
    }

    /// Where launchers join.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The launchers that are not there, by node.
    pub fn absent(&self) -> Vec<usize> {
        let state = lock(&self.state);
        let nodes = state.nodes.iter().enumerate().skip(1);
        let gone = |node: &Option<Node>| match node {
            None => true,
            Some(node) => node.heard.elapsed() > SILENCE,
        };
        nodes
            .filter(|(_, node)| gone(node))
            .map(|(index, _)| index)
            .collect()
    }

    /// Which connection each launcher has, by node; `None` where there is none, or a silent one.
    pub(super) fn joins(&self) -> Vec<Option<u64>> {
        let state = lock(&self.state);
        let node = |(index, node): (usize, &Option<Node>)| {
            let node = node.as_ref()?;
            (index == 0 || node.heard.elapsed() <= SILENCE).then_some(node.join)
        };
        state.nodes.iter().enumerate().map(node).collect()
    }

    /// Whether a launcher has missed its last signs of life, and may be about to be lost.
    pub(crate) fn is_quiet(&self, node: usize) -> bool {
        let state = lock(&self.state);
        let quiet = |node: &Node| node.heard.elapsed() > 2 * BEAT;
        node > 0 && state.nodes[node].as_ref().is_none_or(quiet)
    }

    /// Waits until all launchers are there; `None` when `stopped` says so first.
    ///
    /// # Errors
    /// When some are not there in time.
    pub(crate) fn gather(
        &self,
        mut stopped: impl FnMut() -> bool,
    ) -> Result<Option<Gathering<'_>>, NodesError> {
        loop {
            let mut end = false;
            self.wait_for_all(|| {
                end |= stopped();
                end
            })?;
            let seat = |node: &Option<Node>| {
                let node = node.as_ref()?;
                Some(Seat {
                    shell: node.shell,
                    ranks: node.ranks,
                    join: node.join,
                })
            };
            // One may have gone since.
            let seats: Option<Vec<_>> = lock(&self.state).nodes.iter().map(seat).collect();
            match seats {
                _ if end => return Ok(None),
                Some(seats) => {
                    let roster = self;
                    return Ok(Some(Gathering { roster, seats }));
                }
                None => {}
            }
        }
    }

    /// Waits until all launchers are there, or `stopped` says so.
    ///
    /// # Errors
    /// When some are not there in time.
    pub fn wait_for_all(&self, mut stopped: impl FnMut() -> bool) -> Result<(), NodesError> {
        let (began, mut told) = (Instant::now(), Vec::new());
        loop {
            let missing = self.absent();
            if missing.is_empty() || stopped() {
                return Ok(());
            }
            if began.elapsed() > self.patience {
                let waited = began.elapsed();
                return Err(NodesError::Missing { missing, waited });
            }
            if missing != told {
                tracing::info!(nodes = ?missing, endpoint = %self.address, "waiting for the launchers of other hosts");
                told = missing;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The signal by which another launcher was told to stop, once.
    pub fn take_stop(&self) -> Option<i32> {
        lock(&self.state).stop.take()
    }

    /// What a launcher asks for before it runs anything.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// The variables by which `mpirun` finds its agent, and agents find the launchers: those of Open MPI 4, then 5.
    /// `agent` is the command that runs [`node_shell`](super::node_shell), to be followed by a host and a command.
    pub(crate) fn variables(&self, agent: &str) -> [(&'static str, String); 7] {
        let state = lock(&self.state);
        let shells: BTreeMap<String, SocketAddr> = (state.nodes.iter().flatten())
            .map(|node| (node.shell.ip().to_string(), node.shell))
            .collect();
        let token = self.token.clone();
        // A map of texts has a JSON form.
        let directory = serde_json::to_string(&Directory { token, shells }).unwrap_or_default();
        let (agent, yes) = (agent.to_owned(), || "1".to_owned());
        [
            (NODES_VARIABLE, directory),
            ("OMPI_MCA_plm_rsh_agent", agent.clone()),
            // Agents run on this host only, and what they start stays theirs.
            ("OMPI_MCA_plm_rsh_no_tree_spawn", yes()),
            ("OMPI_MCA_orte_leave_session_attached", yes()),
            ("PRTE_MCA_plm_ssh_agent", agent),
            ("PRTE_MCA_plm_ssh_no_tree_spawn", yes()),
            ("PRTE_MCA_prte_leave_session_attached", yes()),
        ]
    }

    /// Tells the launchers that come within `patience` that there is no job, and why by its exit code.
    ///
    /// # Errors
    /// When this host cannot listen at the endpoint.
    pub fn dismiss(head: &Head, patience: Duration, code: i32) -> Result<(), NodesError> {
        let mut roster = Self::start(head)?;
        roster.patience = patience;
        // Those that do not come hear nothing.
        let _ = roster.wait_for_all(|| false);
        roster.over(code);
        Ok(())
    }

    /// Tells the other launchers that the job is over.
    pub fn over(&self, code: i32) {
        tell_all(&self.state, Word::Over(code));
    }
}

fn tell_all(state: &Mutex<State>, word: Word) {
    let Ok(line) = line_of(&word) else { return };
    for node in lock(state).nodes.iter().skip(1).flatten() {
        // One that is gone is noticed by its silence; the time-out keeps a stopped one from holding us up.
        let _ = (&node.stream).write_all(&line);
    }
}

/// One launcher: its join, then its signs of life.
fn follow(stream: &TcpStream, state: &Mutex<State>, token: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(Duration::from_millis(200)))?;
    stream.set_read_timeout(Some(SILENCE))?;
    let mut lines = BufReader::new(stream);
    let Some(join) = next_line::<Join>(&mut lines)? else {
        return Ok(());
    };
    if let Err(reason) = check(&join, &lock(state).nodes) {
        tracing::warn!(node = join.node, "refused a launcher: {reason}");
        return answer(stream, &Answer::Refused { reason });
    }
    let Some(number) = admit(&join, stream, token, &mut lock(state))? else {
        return answer(stream, &Answer::Taken);
    };
    tracing::info!(node = join.node, shell = %join.shell, ranks = join.ranks, "a host has joined");
    let heard = listen(&mut lines, join.node, number, state);
    let mut state = lock(state);
    let slot = &mut state.nodes[join.node];
    if slot.as_ref().is_some_and(|node| node.join == number) {
        *slot = None;
    }
    let _ = stream.shutdown(Shutdown::Both);
    heard
}

fn answer(mut stream: &TcpStream, answer: &Answer) -> io::Result<()> {
    stream.write_all(&line_of(answer)?)
}

/// Whether a launcher belongs to this job, or why not.
fn check(join: &Join, present: &[Option<Node>]) -> Result<(), String> {
    let nodes = present.len();
    if join.version != VERSION {
        return Err(format!(
            "it speaks version {}, node 0 version {VERSION}",
            join.version
        ));
    }
    if join.nodes != nodes {
        return Err(format!(
            "it was started with --nnodes {}, node 0 with --nnodes {nodes}",
            join.nodes
        ));
    }
    if join.node == 0 || join.node >= nodes {
        return Err(format!(
            "its --node-rank must be from 1 to {}, one for each host",
            nodes - 1
        ));
    }
    if join.ranks == 0 {
        return Err("it was started with --nproc 0; every host needs a rank".to_owned());
    }
    let ip = join.shell.ip();
    let mut others = (present.iter().enumerate()).filter(|(index, _)| *index != join.node);
    if let Some((other, _)) = others.find(|(_, n)| n.as_ref().is_some_and(|n| n.shell.ip() == ip)) {
        return Err(format!(
            "its address {ip} is that of node {other}; set --node-address on each host"
        ));
    }
    Ok(())
}

/// Takes a launcher in, unless its place is taken. The welcome goes first: nobody says anything else to it before.
fn admit(
    join: &Join,
    stream: &TcpStream,
    token: &str,
    state: &mut State,
) -> io::Result<Option<u64>> {
    let present = state.nodes[join.node].as_ref();
    if present.is_some_and(|node| node.heard.elapsed() <= SILENCE) {
        return Ok(None);
    }
    let token = token.to_owned();
    answer(stream, &Answer::Welcome { token })?;
    state.joins += 1;
    let number = state.joins;
    state.nodes[join.node] = Some(Node {
        shell: join.shell,
        ranks: join.ranks,
        stream: stream.try_clone()?,
        heard: Instant::now(),
        join: number,
    });
    Ok(Some(number))
}

fn listen(
    lines: &mut BufReader<&TcpStream>,
    node: usize,
    join: u64,
    state: &Mutex<State>,
) -> io::Result<()> {
    while let Some(word) = next_line::<Word>(lines)? {
        let mut state = lock(state);
        if let Word::Stop(signal) = word {
            state.stop = Some(signal);
        }
        match &mut state.nodes[node] {
            Some(found) if found.join == join => found.heard = Instant::now(),
            // A later connection of the same node took its place.
            _ => return Ok(()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::{Membership, serve_node};

    fn roster(nodes: usize) -> Roster {
        let head = Head {
            nodes,
            endpoint: "127.0.0.2:0".to_owned(),
            ranks: 2,
            patience: Duration::from_secs(5),
        };
        Roster::start(&head).unwrap()
    }

    fn membership(roster: &Roster, node: usize, nodes: usize, address: &str) -> Membership {
        Membership {
            node,
            nodes,
            endpoint: roster.address().to_string(),
            ranks: 3,
            address: Some(address.parse().unwrap()),
            patience: Duration::from_secs(2),
            pin_cores: false,
        }
    }

    #[test]
    fn launchers_join_and_leave_with_the_job() {
        let roster = roster(2);
        let member = membership(&roster, 1, 2, "127.0.0.3");
        let served = thread::spawn(move || serve_node(&member));
        assert_eq!(roster.absent(), [1]);
        assert!(roster.gather(|| true).unwrap().is_none());
        let all = roster.gather(|| false).unwrap().unwrap();
        assert_eq!(
            (all.ranks(), all.hosts().as_str()),
            (5, "127.0.0.2:2,127.0.0.3:3")
        );
        let [(_, directory), (_, agent), ..] = roster.variables("agent");
        assert!(
            directory.contains("127.0.0.3") && agent == "agent",
            "{directory}"
        );
        roster.over(7);
        assert_eq!(served.join().unwrap().unwrap(), 7);
    }

    #[test]
    fn launchers_that_do_not_fit_are_refused_with_the_reason() {
        let roster = roster(3);
        for (node, nodes, address, expected) in [
            (1, 2, "127.0.0.3", "--nnodes 2, node 0 with --nnodes 3"),
            (3, 3, "127.0.0.3", "from 1 to 2"),
            (1, 3, "127.0.0.2", "127.0.0.2 is that of node 0"),
        ] {
            let error = serve_node(&membership(&roster, node, nodes, address)).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert_eq!(roster.absent(), [1, 2]);
    }

    #[test]
    fn a_launcher_waits_for_a_place_that_is_taken_and_gives_up_in_time() {
        let roster = roster(2);
        let first = membership(&roster, 1, 2, "127.0.0.3");
        let mut second = membership(&roster, 1, 2, "127.0.0.4");
        second.patience = Duration::from_millis(200);
        let served = thread::spawn(move || serve_node(&first));
        roster.wait_for_all(|| false).unwrap();
        let NodesError::Join { source, .. } = serve_node(&second).unwrap_err() else {
            panic!("expected an end of patience");
        };
        assert!(source.to_string().contains("is there already"), "{source}");
        roster.over(0);
        assert_eq!(served.join().unwrap().unwrap(), 0);
    }

    #[test]
    fn what_is_no_launcher_is_given_up_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let other = thread::spawn(move || {
            for stream in listener.incoming().take(2) {
                drop(stream);
            }
        });
        let member = Membership {
            node: 1,
            nodes: 2,
            endpoint,
            ranks: 1,
            address: None,
            patience: Duration::from_millis(400),
            pin_cores: false,
        };
        let error = serve_node(&member).unwrap_err();
        assert!(matches!(error, NodesError::Join { .. }), "{error}");
        other.join().unwrap();
    }

    #[test]
    fn endpoints_that_other_hosts_cannot_use_are_refused() {
        for endpoint in ["0.0.0.0:29400", "[::1]:29400", "nowhere"] {
            let head = Head {
                nodes: 2,
                endpoint: endpoint.to_owned(),
                ranks: 1,
                patience: Duration::ZERO,
            };
            let error = Roster::start(&head).err().expect("refused");
            assert!(error.to_string().contains(endpoint), "{error}");
        }
    }

    #[test]
    fn launchers_that_never_come_are_named() {
        let mut roster = roster(3);
        roster.patience = Duration::from_millis(100);
        let error = roster.wait_for_all(|| false).unwrap_err();
        assert!(
            error.to_string().starts_with("nodes [1, 2] did not join"),
            "{error}"
        );
    }

    #[test]
    fn one_that_goes_is_absent_and_may_come_again() {
        let roster = roster(2);
        let join = Join {
            version: VERSION,
            node: 1,
            nodes: 2,
            ranks: 1,
            shell: "127.0.0.3:9".parse().unwrap(),
        };
        for _ in 0..2 {
            let stream = TcpStream::connect(roster.address()).unwrap();
            (&stream).write_all(&line_of(&join).unwrap()).unwrap();
            let all = roster.gather(|| false).unwrap().unwrap();
            assert!(all.lost().is_empty() && !roster.is_quiet(1));
            drop(stream);
            let began = Instant::now();
            while roster.absent().is_empty() {
                assert!(began.elapsed() < Duration::from_secs(2));
                thread::sleep(Duration::from_millis(5));
            }
            assert!(roster.is_quiet(1));
            assert_eq!(all.lost(), [1]);
            let again = TcpStream::connect(roster.address()).unwrap();
            (&again).write_all(&line_of(&join).unwrap()).unwrap();
            roster.wait_for_all(|| false).unwrap();
            assert_eq!(all.lost(), [1]);
            drop(again);
            while roster.absent().is_empty() {
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
}
