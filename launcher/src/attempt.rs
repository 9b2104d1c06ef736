//! One attempt: all ranks spawned, watched until they finish, fail or are told to stop, and ended.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cause::{Cause, Fault, RankStatus};
use crate::control::Ending;
use crate::control::board::Board;
use crate::diagnosis::{Blame, View, blame_exit, blame_hang};
use crate::environment::{RankEnvironment, Source};
use crate::job::{Job, Timing};
use crate::launch::LaunchError;
use crate::rank_process::{RankProcess, Setting};
use crate::signals::Interrupts;

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

pub(crate) struct Attempt<'a> {
    number: u32,
    timing: &'a Timing,
    board: &'a Board,
    ranks: Vec<RankProcess>,
}

impl<'a> Attempt<'a> {
    /// Spawns every rank. When one cannot be spawned, those before it are killed.
    pub(crate) fn start(
        setting: &Setting<'a>,
        board: &'a Board,
        number: u32,
        run_id: &str,
        master_port: u16,
    ) -> Result<Self, LaunchError> {
        let job: &Job = setting.job;
        board.begin(number, job.nproc);
        let mut ranks = Vec::with_capacity(job.nproc);
        for rank in 0..job.nproc {
            let environment = RankEnvironment {
                rank,
                local_rank: rank,
                world_size: job.nproc,
                local_world_size: job.nproc,
                group_rank: 0,
                master_addr: "127.0.0.1".to_owned(),
                master_port,
                restart_count: number,
                run_id: run_id.to_owned(),
                source: Source::Torchrun,
            };
            let spawned =
                RankProcess::spawn(setting, &environment).map_err(|source| LaunchError::Spawn {
                    rank,
                    program: job.program.clone(),
                    source,
                })?;
            ranks.push(spawned);
        }
        tracing::info!(attempt = number, ranks = job.nproc, logs = %setting.log_dir.display(), "started the ranks");
        Ok(Self {
            number,
            timing: &job.timing,
            board,
            ranks,
        })
    }

    /// Watches the ranks until all have ended.
    pub(crate) fn watch(mut self, interrupts: &mut Interrupts) -> Outcome {
        let mut last_look = Instant::now();
        loop {
            if let Some(signal) = interrupts.take() {
                return self.stop(signal, interrupts);
            }
            // A launcher that was stopped itself finds old reports, and must not blame the ranks for it.
            if last_look.elapsed() > self.timing.silent_after / 2 {
                self.board.forgive();
            }
            last_look = Instant::now();
            self.look();
            if let Some(blame) = self.judge() {
                return self.fail(&blame, interrupts);
            }
            if let Some(signal) = self.ranks.iter().find_map(RankProcess::stopped_by) {
                return self.stop(signal, interrupts);
            }
            if self.all_ended() {
                self.ranks
                    .iter_mut()
                    .for_each(|rank| rank.output.finish(OUTPUT_PATIENCE));
                return Outcome::Finished;
            }
            thread::sleep(self.timing.poll);
        }
    }

    fn look(&mut self) {
        self.ranks.iter_mut().for_each(RankProcess::look);
    }

    fn all_ended(&self) -> bool {
        self.ranks.iter().all(|rank| rank.exit.is_some())
    }

    fn views(&self) -> Vec<View> {
        let seen = self.board.look();
        let view = |(rank, seen): (&RankProcess, _)| View {
            exit: rank.exit,
            seen,
            age: rank.started.elapsed(),
        };
        self.ranks.iter().zip(seen).map(view).collect()
    }

    fn judge(&mut self) -> Option<Blame> {
        if self.ranks.iter().any(RankProcess::has_failed) {
            let first = Instant::now();
            while first.elapsed() < SETTLE && !self.all_ended() {
                thread::sleep(self.timing.poll.min(SETTLE));
                self.look();
            }
            return blame_exit(&self.views());
        }
        blame_hang(&self.views(), self.timing)
    }

    /// Ends the attempt because of one rank, and says all there is to say about it.
    fn fail(mut self, blame: &Blame, interrupts: &mut Interrupts) -> Outcome {
        let views = self.views();
        let reason = format!("rank {} {}", blame.rank, blame.fault);
        tracing::warn!(attempt = self.number, "{reason}; ending the other ranks");
        self.board.abort(&reason);
        self.signal(Signal::TERM);
        if matches!(blame.fault, Fault::Silent(_) | Fault::Lingers(_)) {
            // It cannot react to anything else.
            self.ranks[blame.rank].signal(Signal::KILL);
        }
        let stopped = self.wait_for_end(self.timing.failure_grace, interrupts);
        self.kill();
        let cause = self.cause(blame, &views);
        match stopped {
            Some(signal) => Outcome::Stopped {
                signal,
                cause: Some(cause),
            },
            None => Outcome::Failed(cause),
        }
    }

    /// Passes a signal on and gives the ranks time to save and leave; a second signal to the launcher ends them at
    /// once. Where a rank was asked and not the launcher, the job stops all the same.
    fn stop(mut self, signal: i32, interrupts: &mut Interrupts) -> Outcome {
        let grace = self.timing.stop_grace;
        tracing::info!(signal = %crate::signals::name_of(signal), ?grace, "stopping: the ranks may save and leave");
        self.signal(Signal::from_named_raw(signal).unwrap_or(Signal::TERM));
        self.wait_for_end(grace, interrupts);
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

    /// Waits until all ranks have ended, the time is over, or a signal comes (which it returns).
    fn wait_for_end(&mut self, timeout: Duration, interrupts: &mut Interrupts) -> Option<i32> {
        let started = Instant::now();
        loop {
            self.look();
            if self.all_ended() || started.elapsed() >= timeout {
                return None;
            }
            if let Some(signal) = interrupts.take() {
                return Some(signal);
            }
            thread::sleep(self.timing.poll.min(timeout));
        }
    }

    /// Kills what is left, and waits for it: SIGKILL cannot be refused.
    fn kill(&mut self) {
        while !self.all_ended() {
            self.signal(Signal::KILL);
            thread::sleep(Duration::from_millis(5));
            self.look();
        }
        self.ranks.iter_mut().for_each(RankProcess::sweep);
    }

    fn cause(&self, blame: &Blame, views: &[View]) -> Cause {
        let culprit = &self.ranks[blame.rank];
        let ending = views[blame.rank]
            .seen
            .as_ref()
            .and_then(|seen| seen.report.ending.clone());
        Cause {
            attempt: self.number,
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
