//! The steps of a run, with evaluations, checkpoints and a journal between them.

use std::collections::VecDeque;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::RunError;
use super::folder::RunFolder;
use super::input::{Arrived, Input};
use super::rank::Rank;
use super::step_profile::StepProfile;
use super::stop::StopSignal;
use super::train::TrainOutcome;
use super::window::Window;
use crate::checkpoint::{Best, Checkpoint, CheckpointError, CheckpointFolder, Saver, Snapshot};
use crate::config::Experiment;
use crate::data::BatchReader;
use crate::optim::LossScalerState;
use crate::train::metrics::auc;
use crate::train::{Evaluation, EvaluationPlan, Journal, Progress, StepOutcome, Trainee};

/// Where a run stands: what a checkpoint holds besides tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TrainState {
    /// The epoch of the next batch, from 0.
    pub(super) epoch: u64,
    /// Its place in that epoch, from 0.
    pub(super) epoch_step: u64,
    /// Steps taken.
    pub(super) step: u64,
    /// Samples seen.
    pub(super) rows: u64,
    /// Time trained, over all attempts, in seconds; the wait for batches is part of it.
    pub(super) seconds: f64,
    /// How long of it rank 0 waited for batches.
    #[serde(default)]
    pub(super) input_waited_seconds: f64,
    /// The order of samples depends on these two.
    pub(super) global_batch: usize,
    pub(super) seed: u64,
    /// The loss of the best evaluation.
    pub(super) best_loss: Option<f64>,
    /// The step of that evaluation.
    #[serde(default)]
    pub(super) best_step: Option<u64>,
    /// Evaluations since then.
    pub(super) evaluations_without_better: u64,
    /// Whether an evaluation was due after `step`, but left out to stop sooner.
    #[serde(default)]
    pub(super) evaluation_owed: bool,
    /// Where the scaling of gradients stands, with fp16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) loss_scaler: Option<LossScalerState>,
}

impl TrainState {
    /// The beginning.
    pub(super) fn new(experiment: &Experiment) -> Self {
        Self {
            epoch: 0,
            epoch_step: 0,
            step: 0,
            rows: 0,
            seconds: 0.0,
            input_waited_seconds: 0.0,
            global_batch: experiment.train.global_batch,
            seed: experiment.seed,
            best_loss: None,
            best_step: None,
            evaluations_without_better: 0,
            evaluation_owed: false,
            loss_scaler: None,
        }
    }

    /// The state of `checkpoint`, if this run can go on from it. A best checkpoint that is no
    /// longer in `folder` is forgotten.
    pub(super) fn resume(
        self,
        checkpoint: &Checkpoint,
        folder: &CheckpointFolder,
    ) -> Result<Self, CheckpointError> {
        let mut saved: Self = checkpoint.state()?;
        if (saved.global_batch, saved.seed) != (self.global_batch, self.seed) {
            return Err(CheckpointError::Mismatch {
                path: checkpoint.folder().to_owned(),
                problem: format!(
                    "it has global_batch {} and seed {}, the experiment {} and {}",
                    saved.global_batch, saved.seed, self.global_batch, self.seed
                ),
            });
        }
        let complete = folder.complete()?;
        if saved
            .best_step
            .is_none_or(|step| complete.binary_search(&step).is_err())
        {
            (saved.best_step, saved.best_loss) = (None, None);
        }
        Ok(saved)
    }

    /// Takes note of an evaluation after the present step; whether it is the best so far. A loss
    /// that is no number never is.
    fn note_evaluation(&mut self, loss: f64) -> bool {
        let best = loss.is_finite() && self.best_loss.is_none_or(|best| loss < best);
        if best {
            (self.best_loss, self.best_step) = (Some(loss), Some(self.step));
            self.evaluations_without_better = 0;
        } else {
            self.evaluations_without_better += 1;
        }
        best
    }

    /// The best evaluation so far.
    pub(super) fn best(&self) -> Option<Best> {
        let (step, loss) = self.best_step.zip(self.best_loss)?;
        Some(Best { step, loss })
    }
}

/// A run under way, on one rank.
pub(super) struct Session<'a> {
    rank: Rank,
    experiment: &'a Experiment,
    trainer: Box<dyn Trainee>,
    training: Input,
    validation: Option<(BatchReader, EvaluationPlan)>,
    saver: Saver,
    state: TrainState,
    /// On rank 0.
    journal: Option<Journal>,
    progress: Progress,
    window: Window,
    /// Steps that were asked for and not told of yet, in their order.
    under_way: VecDeque<UnderWay>,
    profile: Option<StepProfile>,
}

/// A step that was asked for, and where the run stood behind it.
struct UnderWay {
    input: Arrived,
    step: u64,
    epoch: u64,
    /// Of its global batch, and of the run.
    rows: [u64; 2],
}

/// Why the steps ended.
enum End {
    Finished,
    Stopped,
}

impl<'a> Session<'a> {
    #[allow(clippy::too_many_arguments)] // Each is made by another part; a struct would only rename them.
    pub(super) fn new(
        rank: Rank,
        experiment: &'a Experiment,
        folder: &RunFolder,
        trainer: Box<dyn Trainee>,
        training: BatchReader,
        validation: Option<(BatchReader, EvaluationPlan)>,
        saver: Saver,
        state: TrainState,
    ) -> Result<Self, RunError> {
        let (mut journal, mut progress) = (None, Progress::silent());
        if rank.is_first() {
            let opened = Journal::open(folder.root(), state.step);
            journal = Some(opened.map_err(RunError::file("write into", folder.root()))?);
            let epochs = training.rows() * experiment.train.epochs;
            let steps = experiment
                .train
                .max_steps
                .map(|steps| steps * state.global_batch as u64);
            progress = Progress::new("train", "samples", steps.map_or(epochs, |s| s.min(epochs)));
        }
        Ok(Self {
            rank,
            experiment,
            trainer,
            training: Input::new(training),
            validation,
            saver,
            state,
            journal,
            progress,
            window: Window::default(),
            under_way: VecDeque::new(),
            profile: None,
        })
    }

    /// Also profiles some steps.
    pub(super) fn with_profile(self, profile: Option<StepProfile>) -> Self {
        Self { profile, ..self }
    }

    /// Trains to the end, or until a signal asks to stop.
    pub(super) fn run(mut self, signal: &StopSignal) -> Result<TrainOutcome, RunError> {
        let end = self.train(signal)?;
        self.rank.reporter.set_phase("last checkpoint");
        self.saver.finish()?;
        self.progress.finish();
        if let Some(profile) = &self.profile {
            profile.finish(&self.rank)?;
        }
        let TrainState {
            step, best_loss, ..
        } = self.state;
        if let (End::Stopped, signal) = (&end, signal.received()) {
            tracing::info!(step, "stopped; `--resume` goes on from here");
            // Another rank may have been asked, and not this one.
            return Ok(TrainOutcome::Stopped {
                signal: signal.unwrap_or(signal_hook::consts::SIGTERM),
            });
        }
        if self.rank.is_first() {
            let (seconds, rows) = (self.state.seconds, self.state.rows);
            let samples_per_s = rows as f64 / seconds.max(1e-9);
            let waited = self.state.input_waited_seconds;
            tracing::info!(
                "training is done: {step} steps, {rows} samples in {seconds:.1} s, \
                 {samples_per_s:.0} samples/s; {waited:.1} s of it waited for input"
            );
            if self.ends_early() {
                let evaluations = self.state.evaluations_without_better;
                tracing::info!(
                    "it ended early, after {evaluations} evaluations in a row that were no better; resume with a larger \
                     `train.early_stopping.patience` to train on"
                );
            }
        }
        Ok(TrainOutcome::Finished {
            steps: step,
            best_loss,
        })
    }

    fn train(&mut self, signal: &StopSignal) -> Result<End, RunError> {
        if std::mem::take(&mut self.state.evaluation_owed)
            && self.evaluate()?.is_some()
            && let Some(best) = self.state.best()
        {
            self.saver.mark_best(&best)?;
        }
        while self.state.epoch < self.experiment.train.epochs && !self.is_done() {
            self.training
                .start(self.state.epoch, self.state.epoch_step)?;
            self.rank.reporter.set_phase("train");
            // One batch ahead, whose ids travel while this one computes.
            let mut coming = self.training.next()?;
            while let Some(input) = coming {
                coming = self.training.next()?;
                let stop = self.step(input, coming.as_ref(), signal)?;
                if stop
                    || self.is_last()
                    || self.evaluates()
                    || self.saves()
                    || self.profile.is_some()
                {
                    self.settle()?;
                }
                if let Some(profile) = &mut self.profile {
                    profile.note_step(&self.rank, self.trainer.as_mut())?;
                }
                let evaluated = self.evaluate_if_due(stop)?;
                self.save_if_due(evaluated, stop)?;
                if stop {
                    return Ok(End::Stopped);
                }
                if self.is_done() {
                    return Ok(End::Finished);
                }
            }
            // A run of no batches at all, or one resumed at the very end of an epoch.
            if self.state.epoch_step > 0 || self.training.steps_per_epoch() == 0 {
                self.next_epoch();
            }
        }
        Ok(End::Finished)
    }

    /// Whether the budget of steps is spent or training ends early.
    fn is_done(&self) -> bool {
        let steps = self
            .experiment
            .train
            .max_steps
            .is_some_and(|max| self.state.step >= max);
        steps || self.ends_early()
    }

    /// Whether patience with evaluations that are no better is at its end.
    fn ends_early(&self) -> bool {
        let stopping = self.experiment.train.early_stopping.as_ref();
        stopping.is_some_and(|stop| self.state.evaluations_without_better > stop.patience)
    }

    /// Whether the step just taken was the last.
    fn is_last(&self) -> bool {
        self.is_done() || self.state.epoch >= self.experiment.train.epochs
    }

    fn next_epoch(&mut self) {
        self.state.epoch += 1;
        self.state.epoch_step = 0;
    }

    fn step(
        &mut self,
        input: Arrived,
        next: Option<&Arrived>,
        signal: &StopSignal,
    ) -> Result<bool, RunError> {
        let (began, step) = (Instant::now(), self.state.step + 1);
        self.rank.reporter.set_step(step);
        let stop = signal.received().is_some();
        let next = next.map(|next| &next.batch);
        let ahead = self.trainer.step_ahead(&input.batch, next, step, stop)?;
        let (epoch_step, global_batch) = (self.state.epoch_step, self.state.global_batch);
        let rows = self.training.rows_of_step(epoch_step, global_batch);
        self.state.step = step;
        self.state.epoch_step += 1;
        self.state.rows += rows;
        self.state.seconds += (input.waited + began.elapsed()).as_secs_f64();
        self.state.input_waited_seconds += input.waited.as_secs_f64();
        if self.state.epoch_step == self.training.steps_per_epoch() {
            self.next_epoch();
        }
        self.under_way.push_back(UnderWay {
            input,
            step,
            epoch: self.state.epoch,
            rows: [rows, self.state.rows],
        });
        if let Some(outcome) = ahead.outcome {
            self.note(&outcome)?;
        }
        Ok(ahead.stop)
    }

    /// Waits for all steps that were asked for.
    fn settle(&mut self) -> Result<(), RunError> {
        let began = Instant::now();
        while let Some(outcome) = self.trainer.settle()? {
            self.state.seconds += began.elapsed().as_secs_f64();
            self.note(&outcome)?;
        }
        Ok(())
    }

    /// Takes note of what the first step under way found.
    fn note(&mut self, outcome: &StepOutcome) -> Result<(), RunError> {
        let Some(of) = self.under_way.pop_front() else {
            return Ok(());
        };
        let (step, [rows, rows_of_run]) = (of.step, of.rows);
        if let (true, Some(scaler)) = (outcome.skipped, self.trainer.loss_scaler()) {
            tracing::info!(
                step,
                loss_scale = scaler.scale,
                skipped_steps = scaler.skipped_steps,
                "a gradient was not finite: nothing was updated, the loss scale was halved"
            );
        }
        tracing::trace_span!("training metrics").in_scope(|| {
            self.window
                .add(&of.input, outcome, rows, self.trainer.as_ref());
        });
        self.training.recycle(of.input.batch);
        if step.is_multiple_of(self.experiment.train.log_every_steps) {
            let _span = tracing::trace_span!("journal").entered();
            self.write_window(outcome, [of.epoch, step])?;
        }
        let (loss, auc) = (outcome.loss, self.window.auc);
        self.progress.at(rows_of_run, || match auc {
            Some(auc) => format!("loss {loss:.4} auc {auc:.4}"),
            None => format!("loss {loss:.4}"),
        });
        Ok(())
    }

    /// Collective: the AUC is of all ranks.
    fn write_window(
        &mut self,
        outcome: &StepOutcome,
        [epoch, step]: [u64; 2],
    ) -> Result<(), RunError> {
        let auc = auc(self.rank.mesh.dp.as_ref(), &self.window.predictions)?;
        let record = self
            .window
            .close(self.trainer.as_ref(), outcome, [epoch, step], auc);
        self.write("train", step, &record)
    }

    fn write(&mut self, kind: &str, step: u64, record: &impl Serialize) -> Result<(), RunError> {
        match &mut self.journal {
            Some(journal) => journal.write(kind, step, record).map_err(RunError::other(
                "cannot write metrics.jsonl or TensorBoard's file",
            )),
            None => Ok(()),
        }
    }

    /// Whether an evaluation follows the step just taken.
    fn evaluates(&self) -> bool {
        match self.experiment.train.evaluate_every_steps {
            Some(every) => self.state.step.is_multiple_of(every),
            None => self.state.epoch_step == 0,
        }
    }

    /// Whether a checkpoint follows it.
    fn saves(&self) -> bool {
        let every = self.experiment.checkpoint.every_steps;
        every.is_some_and(|every| self.state.step.is_multiple_of(every))
    }

    /// Evaluates at the steps that the experiment asks for, else at the end of each epoch, and at
    /// the end. A run that stops only notes it, to do it when it goes on. Returns the loss where
    /// an evaluation was made and it is the best so far. Collective.
    fn evaluate_if_due(&mut self, stop: bool) -> Result<Option<f64>, RunError> {
        if !(self.evaluates() || self.is_last()) {
            return Ok(None);
        }
        if stop {
            self.state.evaluation_owed = self.validation.is_some();
            return Ok(None);
        }
        self.evaluate()
    }

    /// Returns the loss if it is the best so far. Collective.
    fn evaluate(&mut self) -> Result<Option<f64>, RunError> {
        let Some((reader, plan)) = &mut self.validation else {
            return Ok(None);
        };
        self.rank.reporter.set_phase("evaluate");
        let reporter = &self.rank.reporter;
        let comm = self.rank.mesh.dp.as_ref();
        let tick = |_| reporter.tick();
        let evaluation = Evaluation::run(self.trainer.as_mut(), comm, reader, plan, tick)?;
        for (label, found) in &evaluation.labels {
            self.write(&format!("valid/{label}"), self.state.step, found)?;
            if self.rank.is_first() {
                let (step, metrics) = (self.state.step, &found.metrics);
                let (auc, log_loss) = (metrics.auc, metrics.log_loss);
                tracing::info!(
                    "step {step}, validation, {label}: AUC {auc:.4}, log loss {log_loss:.4}"
                );
            }
        }
        let loss = evaluation.loss();
        let best = self.state.note_evaluation(loss);
        // The evaluation does not count as training time.
        self.window.began = Instant::now();
        self.rank.reporter.set_phase("train");
        Ok(best.then_some(loss))
    }

    /// Starts a checkpoint where one is due, or where this is the best so far. Collective.
    fn save_if_due(&mut self, best_loss: Option<f64>, stop: bool) -> Result<(), RunError> {
        if !(self.saves() || self.is_last() || stop || best_loss.is_some()) {
            return Ok(());
        }
        // Before the next copy of the state is made: one at a time is in memory.
        self.saver.finish()?;
        self.state.loss_scaler = self.trainer.loss_scaler();
        let slices = self.trainer.named_slices()?.into_iter();
        let mut snapshot = Snapshot::of(self.state.step, &self.state, slices)
            .map_err(RunError::other("the state of the run has no JSON form"))?;
        if let Some(loss) = best_loss {
            snapshot = snapshot.with_best_loss(loss);
        }
        Ok(self.saver.save(snapshot)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_that_is_no_number_is_never_the_best() {
        let config = std::path::Path::new("configs/synthetic_dlrm.toml");
        let experiment = Experiment::load(config, &[]).expect("an experiment");
        let mut state = TrainState::new(&experiment);
        state.step = 4;
        assert!(!state.note_evaluation(f64::NAN) && state.best().is_none());
        assert!(state.note_evaluation(0.7) && !state.note_evaluation(f64::NAN));
        assert!(!state.note_evaluation(f64::NEG_INFINITY));
        assert_eq!(state.best(), Some(Best { step: 4, loss: 0.7 }));
        assert_eq!(state.evaluations_without_better, 2);
    }
}
