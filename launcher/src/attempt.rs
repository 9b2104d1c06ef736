//! One attempt: all ranks started, watched until they finish, fail or are told to stop, and ended.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cause::{Cause, Fault, RankStatus};
use crate::control::board::Board;
use crate::control::{CONTROL_VARIABLE, Ending, HEARTBEAT_VARIABLE};
use crate::cores::CorePlan;
use crate::diagnosis::{Blame, View, blame_exit, blame_hang};
use crate::environment::{RankEnvironment, Source};
use crate::job::{Job, Timing};
use crate::launch::LaunchError;
use crate::nodes::{ADDRESS_VARIABLE, Gathering};
use crate::rank::Rank;
use crate::rank_order::RankOrder;
use crate::stop_requests::{StopRequest, StopRequests};

/// Ranks often die together, the victims of a loss right after its cause: how long to wait for all of them before one
/// is blamed.
const SETTLE: Duration = Duration::from_millis(200);
/// How long to wait for the last output of ranks that ended well.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(1);

/// How an attempt ended.
pub(crate) enum Outcome {
    /// Every rank exited with code 0.
    Finished,
    /// The launcher or a rank was told to stop by this signal, and all ranks have ended.
    Stopped {
        signal: i32,
        /// Why the attempt was about to end when the signal came.
        cause: Option<Cause>,
    },
    /// A rank failed, and all ranks have ended.
    Failed(Cause),
}

/// What ranks of one attempt have in common.
pub(crate) struct Setting<'a> {
    pub job: &'a Job,
    pub run_id: &'a str,
    pub number: u32,
    /// Of this host.
    pub cores: &'a CorePlan,
    /// All hosts, where there are several.
    pub hosts: Option<Gathering<'a>>,
    pub log_dir: PathBuf,
    pub board: Board,
    /// A free port of this host.
    pub master_port: u16,
}

pub(crate) struct Attempt<'a> {
    /// Dropped before the board that they report to.
    ranks: Vec<Rank>,
    setting: Setting<'a>,
}

impl Setting<'_> {
    /// The number of ranks on each host.
    fn shares(&self) -> Vec<usize> {
        match &self.hosts {
            None => vec![self.job.nproc],
            Some(hosts) => hosts.seats.iter().map(|seat| seat.ranks).collect(),
        }
    }

    fn environment(&self, shares: &[usize], node: usize, local_rank: usize) -> RankEnvironment {
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let address = self.hosts.as_ref().map_or(local, Gathering::address);
        RankEnvironment {
            rank: shares[..node].iter().sum::<usize>() + local_rank,
            local_rank,
            world_size: shares.iter().sum(),
            local_world_size: shares[node],
            group_rank: node,
            master_addr: address.to_string(),
            master_port: self.master_port,
            restart_count: self.number,
            run_id: self.run_id.to_owned(),
            source: Source::Torchrun,
        }
    }

    fn order(&self, environment: &RankEnvironment, folder: Option<&Path>) -> RankOrder {
        let job = self.job;
        let text = |(name, value)| (OsString::from(name), OsString::from(value));
        let heartbeat = job.timing.heartbeat.as_millis().to_string();
        let mut more = vec![
            (CONTROL_VARIABLE, self.board.address().to_string()),
            (HEARTBEAT_VARIABLE, heartbeat),
        ];
        if let Some(hosts) = &self.hosts {
            let seat = &hosts.seats[environment.group_rank];
            more.push((ADDRESS_VARIABLE, seat.shell.ip().to_string()));
        }
        let more = more
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        let own = environment.variables().into_iter().chain(more);
        RankOrder {
            program: job.program.clone(),
            args: job.args.clone(),
            env: job.env.iter().cloned().chain(own.map(text)).collect(),
            folder: folder.map(Path::to_owned),
            local_rank: environment.local_rank,
        }
    }

    /// Starts one rank, here or on the host that it is for.
    fn start(&self, environment: &RankEnvironment, folder: Option<&Path>) -> io::Result<Rank> {
        let (rank, node) = (environment.rank, environment.group_rank);
        match &self.hosts {
            Some(hosts) if node > 0 => {
                let order = self.order(environment, folder);
                Rank::there(rank, order, hosts, node, &self.log_dir)
            }
            _ => {
                let (order, first) = (self.order(environment, None), self.job.first_rank);
                Rank::here(rank, &order, self.cores, &self.log_dir, first)
            }
        }
    }
}

impl<'a> Attempt<'a> {
    /// Starts every rank. When one cannot be started, those before it are killed.
    pub(crate) fn start(setting: Setting<'a>) -> Result<Self, LaunchError> {
        let shares = setting.shares();
        let world: usize = shares.iter().sum();
        setting.board.begin(setting.number, world);
        let folder = match &setting.hosts {
            None => None,
            // Ranks of other hosts start where those of this one do.
            Some(_) => Some(
                std::env::current_dir().map_err(|source| LaunchError::Setup {
                    what: "find the folder that it was started in",
                    source,
                })?,
            ),
        };
        let mut ranks = Vec::with_capacity(world);
        for (node, share) in shares.iter().enumerate() {
            for local_rank in 0..*share {
                let environment = setting.environment(&shares, node, local_rank);
                let started = setting.start(&environment, folder.as_deref());
                ranks.push(started.map_err(|source| LaunchError::Spawn {
                    rank: environment.rank,
                    program: setting.job.program.clone(),
                    source,
                })?);
            }
        }
        tracing::info!(
            attempt = setting.number,
            ranks = world,
            hosts = shares.len(),
            logs = %setting.log_dir.display(),
            "started the ranks"
        );
        Ok(Self { setting, ranks })
    }

    /// Watches the ranks until all have ended.
    pub(crate) fn watch(mut self, stops: &mut StopRequests<'_>) -> Outcome {
        let mut last_look = Instant::now();
        loop {
            if let Some(request) = stops.take() {
                return self.stop(request, stops);
            }
            // A launcher that was stopped itself finds old reports, and must not blame the ranks for it.
            if last_look.elapsed() > self.timing().silent_after / 2 {
                self.setting.board.forgive();
            }
            last_look = Instant::now();
            self.look();
            if let Some(blame) = self.judge() {
                return self.fail(&blame, stops);
            }
            if let Some(signal) = self.ranks.iter().find_map(Rank::stopped_by) {
                let own = false;
                return self.stop(StopRequest { signal, own }, stops);
            }
            if self.all_ended() {
                self.ranks
                    .iter_mut()
                    .for_each(|rank| rank.output.finish(OUTPUT_PATIENCE));
                return Outcome::Finished;
            }
            thread::sleep(self.timing().poll);
        }
    }

    fn timing(&self) -> &'a Timing {
        &self.setting.job.timing
    }

    fn look(&mut self) {
        let lost = self.setting.hosts.as_ref().map(Gathering::lost);
        for rank in &mut self.ranks {
            if lost.as_ref().is_some_and(|lost| lost.contains(&rank.node)) {
                rank.lose();
            }
            rank.look();
        }
    }

    fn all_ended(&self) -> bool {
        self.ranks.iter().all(|rank| rank.exit.is_some())
    }

    fn views(&self) -> Vec<View> {
        let seen = self.setting.board.look();
        let view = |(rank, seen): (&Rank, _)| View {
            exit: rank.exit,
            seen,
            age: rank.started.elapsed(),
        };
        self.ranks.iter().zip(seen).map(view).collect()
    }

    fn judge(&mut self) -> Option<Blame> {
        if self.ranks.iter().any(Rank::has_failed) {
            let first = Instant::now();
            while first.elapsed() < SETTLE && !self.all_ended() {
                thread::sleep(self.timing().poll.min(SETTLE));
                self.look();
            }
            return blame_exit(&self.views());
        }
        let blame = blame_hang(&self.views(), self.timing())?;
        let node = self.ranks[blame.rank].node;
        let hosts = self.setting.hosts.as_ref();
        // A rank falls silent with its host, and soon it will be known which of them it was.
        let may_be_the_host = hosts.is_some_and(|hosts| hosts.roster.is_quiet(node));
        (!may_be_the_host || !matches!(blame.fault, Fault::Silent(_))).then_some(blame)
    }

    /// Ends the attempt because of one rank, and says all there is to say about it.
    fn fail(mut self, blame: &Blame, stops: &mut StopRequests<'_>) -> Outcome {
        let views = self.views();
        let reason = format!("rank {} {}", blame.rank, blame.fault);
        tracing::warn!(
            attempt = self.setting.number,
            "{reason}; ending the other ranks"
        );
        self.setting.board.abort(&reason);
        self.signal(Signal::TERM);
        if matches!(blame.fault, Fault::Silent(_) | Fault::Lingers(_)) {
            // It cannot react to anything else.
            self.ranks[blame.rank].signal(Signal::KILL);
        }
        let stopped = self.wait_for_end(self.timing().failure_grace, || stops.take());
        self.kill();
        let cause = self.cause(blame, &views);
        match stopped {
            Some(StopRequest { signal, .. }) => Outcome::Stopped {
                signal,
                cause: Some(cause),
            },
            None => Outcome::Failed(cause),
        }
    }

    /// Passes a signal on and gives the ranks time to save and leave; a second signal to this launcher ends them at
    /// once. Where a rank was asked and not the launcher, the job stops all the same.
    fn stop(mut self, first: StopRequest, stops: &mut StopRequests<'_>) -> Outcome {
        let (signal, grace) = (first.signal, self.timing().stop_grace);
        tracing::info!(signal = %crate::signals::name_of(signal), ?grace, "stopping: the ranks may save and leave");
        self.signal(Signal::from_named_raw(signal).unwrap_or(Signal::TERM));
        let mut own = first.own;
        self.wait_for_end(grace, || {
            let again = stops.take().filter(|request| request.own)?;
            std::mem::replace(&mut own, true).then_some(again)
        });
        if !self.all_ended() {
            tracing::warn!("some ranks did not leave in time and are killed");
        }
        let failed = self.ranks.iter().filter(|rank| rank.has_failed()).count();
        if failed > 0 {
            tracing::warn!(
                failed,
                "some ranks failed instead of leaving; their logs tell why"
            );
        }
        self.kill();
        Outcome::Stopped {
            signal,
            cause: None,
        }
    }

    fn signal(&self, signal: Signal) {
        self.ranks.iter().for_each(|rank| rank.signal(signal));
    }

    /// Waits until all ranks have ended, the time is over, or there is a request to end them now (which it returns).
    fn wait_for_end(
        &mut self,
        timeout: Duration,
        mut end_now: impl FnMut() -> Option<StopRequest>,
    ) -> Option<StopRequest> {
        let started = Instant::now();
        loop {
            self.look();
            if self.all_ended() || started.elapsed() >= timeout {
                return None;
            }
            if let Some(request) = end_now() {
                return Some(request);
            }
            thread::sleep(self.timing().poll.min(timeout));
        }
    }

    /// Kills what is left, and waits for it: SIGKILL cannot be refused.
    fn kill(&mut self) {
        while !self.all_ended() {
            self.signal(Signal::KILL);
            thread::sleep(Duration::from_millis(5));
            self.look();
        }
        self.ranks.iter_mut().for_each(Rank::sweep);
    }

    fn cause(&self, blame: &Blame, views: &[View]) -> Cause {
        let culprit = &self.ranks[blame.rank];
        let ending = views[blame.rank]
            .seen
            .as_ref()
            .and_then(|seen| seen.report.ending.clone());
        Cause {
            attempt: self.setting.number,
            rank: blame.rank,
            fault: blame.fault.clone(),
            message: match ending {
                Some(Ending::Failed { message, .. }) => Some(message),
                _ => None,
            },
            ranks: views.iter().map(RankStatus::of).collect(),
            log: culprit.log.clone(),
            last_lines: culprit.output.last_lines(),
        }
    }
}
