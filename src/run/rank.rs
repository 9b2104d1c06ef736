//! One rank of a job: who it is, whom it talks to, how many threads it has.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use streamrec_kernels::Context;
use streamrec_launcher::{Channel, LostLauncher, RankEnvironment, Reporter, bind_to_parent};

use super::RunError;
use super::backend::World;
use super::threads;
use crate::checkpoint::{CheckpointError, Tick};
use crate::comm::{CommError, Communicator, Observer, Settings, SingleRank, broadcast_bytes};
use crate::config::Experiment;
use crate::parallel::Mesh;

/// Rank 0 at long work speaks to the others at least so often.
const LONGEST_SILENCE: Duration = Duration::from_secs(2);

/// A rank that has met the others.
pub(super) struct Rank {
    pub(super) environment: RankEnvironment,
    pub(super) reporter: Reporter,
    pub(super) comm: Arc<dyn Communicator>,
    pub(super) mesh: Mesh,
    pub(super) threads: usize,
    /// How long rank 0 may be busy before it tells the others to go on waiting.
    patience: Duration,
}

impl Rank {
    /// Learns from the environment who this process is. Comes first, so that a failure before the
    /// ranks meet is reported too.
    pub(super) fn identify() -> Result<(RankEnvironment, Reporter), RunError> {
        let environment = RankEnvironment::from_process()?;
        let reporter = Reporter::from_process(&environment, LostLauncher::Exit)?;
        if environment.world_size > 1 {
            // Best effort: the reporter notices a lost launcher as well, only later.
            let _ = bind_to_parent();
        }
        Ok((environment, reporter))
    }

    /// Meets the other ranks, in a world that has to be ended after all that this returns is gone.
    pub(super) fn join(
        environment: RankEnvironment,
        reporter: Reporter,
        experiment: &Experiment,
        world: &mut World,
    ) -> Result<Self, RunError> {
        reporter.set_phase("meet");
        let timeout = Duration::from_secs_f64(experiment.parallel.timeout_s);
        let settings = Settings {
            timeout,
            observer: Arc::new(Reports(reporter.channel())),
            ..Settings::default()
        };
        let backend = experiment.parallel.backend;
        let comm = world.connect(backend, &environment, settings)?;
        let mesh = Mesh::new(Arc::clone(&comm), experiment.parallel.tp)?;
        let threads = threads::of_rank(experiment, comm.as_ref())?;
        tracing::info!(
            rank = environment.rank,
            world = environment.world_size,
            dp = mesh.dp.size(),
            tp = mesh.tp.size(),
            threads,
            source = ?environment.source,
            attempt = environment.restart_count,
            "rank is ready"
        );
        Ok(Self {
            environment,
            reporter,
            comm,
            mesh,
            threads,
            patience: LONGEST_SILENCE.min(timeout / 4),
        })
    }

    /// A rank that meets nobody.
    pub(super) fn alone() -> Result<Self, RunError> {
        let (environment, reporter) = Self::identify()?;
        Ok(Self {
            environment,
            reporter,
            comm: Arc::new(SingleRank),
            mesh: Mesh::single(),
            threads: 1,
            patience: LONGEST_SILENCE,
        })
    }

    /// One that has met others already, in tests.
    #[cfg(test)]
    pub(super) fn of(comm: Arc<dyn Communicator>) -> Result<Self, RunError> {
        Ok(Self {
            environment: RankEnvironment::single(),
            reporter: Reporter::disconnected(),
            mesh: Mesh::new(Arc::clone(&comm), 1)?,
            comm,
            threads: 1,
            patience: LONGEST_SILENCE,
        })
    }

    /// Opens the device.
    pub(super) fn context(&self) -> Result<Context, RunError> {
        // The launcher has bound the whole process to its cores already.
        Ok(Context::cpu(self.threads, false)?)
    }

    /// Lets rank 0 work while the others wait, also for longer than a collective may take. Collective.
    pub(super) fn first_works(
        &self,
        work: impl FnOnce() -> Result<(), RunError> + Send,
    ) -> Result<(), RunError> {
        if !self.is_first() {
            while !self.first_says(false)? {}
            return self.agree(Ok(()));
        }
        let outcome = thread::scope(|scope| {
            let (done, news) = mpsc::channel();
            let worker = scope.spawn(move || {
                // Nobody hears it after an error below, and nobody needs to.
                let outcome = work();
                let _ = done.send(());
                outcome
            });
            // A worker that panics drops its end, which is news too.
            while news.recv_timeout(self.patience) == Err(RecvTimeoutError::Timeout) {
                self.first_says(false)?;
            }
            self.first_says(true)?;
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        self.agree(outcome)
    }

    /// What rank 0 says. Collective.
    fn first_says(&self, own: bool) -> Result<bool, CommError> {
        Ok(broadcast_bytes(self.comm.as_ref(), vec![u8::from(own)], 0)? == [1])
    }

    /// Tells all ranks how something went on each: a failure of one is a failure of all, before
    /// anyone waits for what never comes. Collective.
    pub(super) fn agree(&self, local: Result<(), RunError>) -> Result<(), RunError> {
        let message = local
            .as_ref()
            .err()
            .map(RunError::message)
            .unwrap_or_default();
        let outcomes = self.comm.all_gather_bytes(message.into_bytes()).wait()?;
        local?;
        match outcomes.iter().position(|message| !message.is_empty()) {
            None => Ok(()),
            Some(rank) => {
                let reason = String::from_utf8_lossy(&outcomes[rank]).into_owned();
                Err(RunError::OtherRank { rank, reason })
            }
        }
    }

    /// Like [`agree`](Self::agree); then every rank takes the value of rank 0. Collective.
    pub(super) fn agree_with_first(&self, local: Result<bool, RunError>) -> Result<bool, RunError> {
        let own = *local.as_ref().unwrap_or(&false);
        self.agree(local.map(|_| ()))?;
        Ok(self.first_says(own)?)
    }

    /// Tells the launcher that this rank gets on.
    pub(super) fn tick(&self) -> Tick {
        let reporter = self.reporter.clone();
        Arc::new(move || reporter.tick())
    }

    /// Rank 0 speaks for all: it writes files, shows progress and prints results.
    pub(super) fn is_first(&self) -> bool {
        self.comm.rank() == 0
    }
}

/// Tells the launcher what the communicator waits for.
struct Reports(Channel);

impl Observer for Reports {
    fn enter(&self, collective: &'static str, sequence: u64) {
        self.0.enter_collective(collective, sequence);
    }

    fn leave(&self) {
        self.0.leave_collective();
    }

    fn waiting_for(&self, ranks: &[usize]) {
        self.0.set_waiting_for(ranks);
    }

    fn called_off(&self) -> Option<String> {
        self.0.abort_reason().map(str::to_owned)
    }

    fn of_group(&self) -> Arc<dyn Observer> {
        Arc::new(Self(self.0.another()))
    }
}

/// The ranks whose loss an error names, so that the launcher blames them and not this one.
pub(super) fn lost_ranks(error: &RunError) -> Vec<usize> {
    match error {
        RunError::OtherRank { rank, .. }
        | RunError::Checkpoint(CheckpointError::OtherRank { rank, .. }) => vec![*rank],
        RunError::Comm(error) | RunError::Checkpoint(CheckpointError::Comm(error)) => lost(error),
        RunError::Train(error) => error.comm().map(lost).unwrap_or_default(),
        _ => Vec::new(),
    }
}

fn lost(error: &CommError) -> Vec<usize> {
    match error {
        CommError::Timeout { missing, .. } | CommError::CalledOff { missing, .. } => {
            missing.clone()
        }
        CommError::Lost { ranks, .. } => ranks.clone(),
        CommError::PeerFailed { rank, .. } => vec![*rank],
        // The first failure is often met by a collective that nobody waits for yet.
        CommError::Poisoned { cause } => lost(cause),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::SharedMemory;
    use crate::train::TrainError;

    #[test]
    fn rank_0_may_work_longer_than_a_collective_may_take() {
        let timeout = Duration::from_millis(400);
        let settings = Settings {
            timeout,
            ..Settings::default()
        };
        let comms = SharedMemory::connect_threads(2, &settings).unwrap();
        let rank = |comm: SharedMemory| Rank {
            patience: timeout / 4,
            ..Rank::of(Arc::new(comm)).unwrap()
        };
        let works = |outcome: fn() -> Result<(), RunError>, rank: &Rank| {
            rank.first_works(|| {
                assert!(rank.is_first());
                thread::sleep(timeout * 2);
                outcome()
            })
        };
        let ranks: Vec<Rank> = comms.into_iter().map(rank).collect();
        thread::scope(|scope| {
            for rank in &ranks {
                scope.spawn(move || {
                    works(|| Ok(()), rank).unwrap();
                    let refused = works(|| Err(RunError::Usage("no rows".into())), rank);
                    assert!(refused.unwrap_err().message().contains("no rows"));
                });
            }
        });
    }

    #[test]
    fn a_lost_rank_is_named_whoever_met_the_loss_first() {
        let cause = CommError::Lost {
            collective: "all_reduce",
            sequence: 7,
            ranks: vec![2],
        };
        let later = CommError::Poisoned {
            cause: Box::new(cause.clone()),
        };
        let reason = "the disk is full".to_owned();
        let saving = CheckpointError::OtherRank { rank: 2, reason };
        for error in [
            RunError::Comm(cause),
            RunError::Train(TrainError::Comm(later.clone())),
            RunError::Checkpoint(CheckpointError::Comm(later)),
            RunError::Checkpoint(saving),
        ] {
            assert_eq!(lost_ranks(&error), [2], "{error:?}");
        }
    }
}
