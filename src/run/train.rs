//! `streamrec train`: one rank of a run, from its features to its last checkpoint.
//!
//! 1. Who am I, and who are the others?
//! 2. The run's folder: fresh, or one to go on with.
//! 3. Features, fitted once; the graph; weights, fresh or restored.
//! 4. Steps, with evaluations and checkpoints between them ([`session`](super::session)).

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use streamrec_artifact::{Artifact, FeatureSchema, FittedFeatures, Graph};

use super::RunError;
use super::backend::{self, World};
use super::cli::TrainArgs;
use super::device::Device;
use super::environment;
use super::features::Features;
use super::folder::{self, RunFolder};
use super::logging;
use super::plan;
use super::rank::{self, Rank};
use super::readers;
use super::session::{Session, TrainState};
use super::step_profile::StepProfile;
use super::stop::StopSignal;
use super::trainee::{self, GraphSource};
use crate::checkpoint::{Checkpoint, Saver};
use crate::config::{Experiment, ModelConfig, Precision};
use crate::data::{BatchReader, Dataset};
use crate::model::ModelError;
use crate::train::{Profile, Trainee};

/// How a training run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum TrainOutcome {
    /// It trained to its end.
    Finished {
        /// Steps taken, over all attempts.
        steps: u64,
        /// The loss of the best evaluation.
        best_loss: Option<f64>,
    },
    /// A signal asked it to stop; its state is saved.
    Stopped {
        /// The signal.
        signal: i32,
    },
}

pub(super) fn run(args: &TrainArgs) -> ExitCode {
    run_with(args, &trainee::built_in)
}

pub(super) fn run_with(args: &TrainArgs, graph: &GraphSource<'_>) -> ExitCode {
    let profile = args.profile.then(Profile::new);
    logging::start(profile.as_ref());
    let outcome = Experiment::load(&args.config, &args.set)
        .map_err(RunError::from)
        .and_then(|experiment| start(&experiment, args, graph, profile));
    match outcome {
        Ok(TrainOutcome::Finished { .. }) => ExitCode::SUCCESS,
        // The shell's convention for a process that ends on a signal.
        Ok(TrainOutcome::Stopped { signal }) => ExitCode::from((128 + signal) as u8),
        Err(error) => {
            let code = error.report();
            backend::let_the_cause_exit_first(&rank::lost_ranks(&error));
            code
        }
    }
}

/// Trains `experiment` as the rank that the environment says, with one of the built-in models.
///
/// # Errors
/// When anything of the run fails; what was saved before stays.
pub fn train(experiment: &Experiment, args: &TrainArgs) -> Result<TrainOutcome, RunError> {
    start(experiment, args, &trainee::built_in, None)
}

/// Like [`train`], with a model of the caller's own: any function from the fitted features to a
/// graph. The `model` section of the experiment is ignored.
///
/// # Errors
/// See [`train`].
pub fn train_with(
    experiment: &Experiment,
    args: &TrainArgs,
    graph: impl Fn(&FeatureSchema) -> Result<Graph, ModelError>,
) -> Result<TrainOutcome, RunError> {
    start(
        experiment,
        args,
        &|_: &ModelConfig, schema: &FeatureSchema| graph(schema),
        None,
    )
}

fn start(
    experiment: &Experiment,
    args: &TrainArgs,
    graph: &GraphSource<'_>,
    profile: Option<Profile>,
) -> Result<TrainOutcome, RunError> {
    let (environment, reporter) = Rank::identify()?;
    let mut world = World::default();
    let outcome = StopSignal::watch(&environment).and_then(|signal| {
        let rank = Rank::join(environment, reporter.clone(), experiment, &mut world)?;
        let device = Device::open(&rank, experiment)?;
        train_rank((rank, device), experiment, args, graph, profile, &signal)
    });
    let outcome = world.end(outcome);
    if let Err(error) = &outcome {
        reporter.fail(&error.message(), &rank::lost_ranks(error));
    }
    outcome
}

fn train_rank(
    (rank, device): (Rank, Device),
    experiment: &Experiment,
    args: &TrainArgs,
    graph: &GraphSource<'_>,
    profile: Option<Profile>,
    signal: &StopSignal,
) -> Result<TrainOutcome, RunError> {
    let folder = RunFolder::new(&experiment.output);
    let dataset = Dataset::open(&experiment.data.dataset)?;
    let resumed = prepare(&rank, experiment, args, &folder, &dataset)?;
    let earlier = args.warm_start.as_deref().map(read_artifact).transpose()?;
    let features = Features::fit_or_read(
        &rank,
        experiment,
        &dataset,
        earlier.as_ref().map(fitted).as_ref(),
        &folder.features(),
    )?;
    let schema = &features.fitted.schema;
    let graph = graph(&experiment.model, schema)?;
    rank.agree(if rank.is_first() {
        folder.write_graph(&graph)
    } else {
        Ok(())
    })?;

    rank.reporter.set_phase("check the device");
    let rows = experiment.train.global_batch.div_ceil(rank.mesh.dp.size());
    let check = trainee::self_check(experiment, &graph, schema, rows)?;
    let device = device.checked(&rank, experiment, check)?;
    let (encoder, dp) = (&features.encoder, rank.mesh.dp.as_ref());
    let training = readers::training(experiment, &dataset, encoder, dp)?;
    let validation = readers::validation(experiment, &dataset, encoder, dp)?;
    rank.reporter.set_phase("build the model");
    let mut trainer = trainee::trainer(
        &rank,
        device,
        experiment,
        (&graph, schema),
        training.batch_rows(),
        || {
            let path = folder.placements();
            plan::placement::planned(&rank, experiment, &dataset, &features, &graph, &path)
        },
    )?;
    let from = (resumed.as_ref(), earlier.as_ref());
    let state = first_state(&rank, experiment, &folder, trainer.as_mut(), from)?;
    if rank.is_first() {
        announce(experiment, trainer.as_ref(), &training, state.step);
    }
    // Its own communicator: it writes while the step uses the other.
    let saver_comm = rank.comm.split(0, rank.comm.rank())?;
    let saver = Saver::new(saver_comm, folder.checkpoints(), experiment.checkpoint.keep)?
        .with_tick(rank.tick());
    Session::new(
        rank, experiment, &folder, trainer, training, validation, saver, state,
    )?
    .with_profile(profile.map(|profile| StepProfile::new(profile, folder.profile())))
    .run(signal)
}

/// Where the run stands: at a checkpoint, whose weights and state the trainer takes, or at the beginning, perhaps with the
/// weights of an earlier artifact. Collective.
fn first_state(
    rank: &Rank,
    experiment: &Experiment,
    folder: &RunFolder,
    trainer: &mut dyn Trainee,
    (resumed, earlier): (Option<&Checkpoint>, Option<&Artifact>),
) -> Result<TrainState, RunError> {
    let mut state = TrainState::new(experiment);
    if let Some(checkpoint) = resumed {
        let checkpoints = folder.checkpoints();
        state = state.resume(checkpoint, &checkpoints)?;
        rank.agree(if rank.is_first() {
            let repaired = checkpoints.repair_best(state.best().as_ref());
            repaired.map_err(RunError::from)
        } else {
            Ok(())
        })?;
        trainee::restore(trainer, checkpoint)?;
        if let Some(scaler) = state.loss_scaler {
            trainer.restore_loss_scaler(scaler);
        }
    } else if let Some(artifact) = earlier {
        let new_rows = trainee::warm_start(trainer.parameters_mut()?, artifact)?;
        tracing::info!(
            new_rows,
            "weights are those of the artifact; new rows begin fresh"
        );
    }
    Ok(state)
}

/// Tells what is about to be trained, and with what.
fn announce(experiment: &Experiment, trainer: &dyn Trainee, training: &BatchReader, step: u64) {
    let precision = experiment.train.precision;
    let table_precision = experiment.train.table_precision;
    tracing::info!(
        parameters = trainer.parameters().count(),
        model = experiment.model.kind(),
        rows = training.rows(),
        steps_per_epoch = training.steps_per_epoch(),
        step,
        %precision,
        %table_precision,
        "training begins"
    );
    if precision == Precision::Bf16 {
        let products = streamrec_kernels::bf16_products();
        tracing::info!(bf16_products = products.unit, "products of bf16");
        for unit in products.refused {
            tracing::warn!(
                unit,
                "it gives other results than it should, and is put aside"
            );
        }
    }
}

/// Makes a fresh run's folder, or finds the checkpoint to go on from. Collective: rank 0 decides.
fn prepare(
    rank: &Rank,
    experiment: &Experiment,
    args: &TrainArgs,
    folder: &RunFolder,
    dataset: &Dataset,
) -> Result<Option<Checkpoint>, RunError> {
    let begin = || {
        let goes_on = folder.experiment().exists()
            && (args.resume || environment::is_restart(&folder.environment(), &rank.environment)?);
        if goes_on {
            check_same(folder, experiment)?;
            folder.check_dataset(dataset)?;
        } else {
            folder.prepare(args.overwrite)?;
            folder.keep_history(dataset)?;
        }
        environment::write(&folder.environment(), rank, dataset)?;
        // Last: from here on the folder is a run, and this job's.
        folder::replace(&folder.experiment(), experiment.to_toml()?.as_bytes())?;
        Ok(goes_on)
    };
    let begun = if rank.is_first() { begin() } else { Ok(false) };
    let goes_on = rank.agree_with_first(begun)?;
    let checkpoints = folder.checkpoints();
    let latest = if goes_on { checkpoints.latest()? } else { None };
    let open = |step| Ok(Checkpoint::open(&checkpoints, step)?.with_tick(rank.tick()));
    latest.map(open).transpose()
}

/// A run goes on only with the experiment that began it; how long and where it runs may change.
fn check_same(folder: &RunFolder, experiment: &Experiment) -> Result<(), RunError> {
    let (_, mut before) = RunFolder::open(folder.root())?;
    before.output = experiment.output.clone();
    before.data.dataset = experiment.data.dataset.clone();
    before.data.prefetch_batches = experiment.data.prefetch_batches;
    before.checkpoint = experiment.checkpoint.clone();
    before.parallel = experiment.parallel.clone();
    before.train.epochs = experiment.train.epochs;
    before.train.max_steps = experiment.train.max_steps;
    before.train.early_stopping = experiment.train.early_stopping.clone();
    before.train.threads = experiment.train.threads;
    before.train.device = experiment.train.device;
    before.train.log_every_steps = experiment.train.log_every_steps;
    let (was, is) = (before.to_toml()?, experiment.to_toml()?);
    match was.lines().zip(is.lines()).find(|(was, is)| was != is) {
        None if was.len() == is.len() => Ok(()),
        difference => {
            let (was, is) = difference.unwrap_or(("its length", "another length"));
            Err(RunError::Usage(format!(
                "{} was begun with another experiment: it has `{was}`, this one `{is}`; a run goes \
                 on only with its own: train into another folder by --set output=FOLDER",
                folder.root().display()
            )))
        }
    }
}

fn read_artifact(folder: &Path) -> Result<Artifact, RunError> {
    Artifact::read(folder).map_err(RunError::other(format!(
        "--warm-start: cannot read the artifact {}",
        PathBuf::from(folder).display()
    )))
}

fn fitted(artifact: &Artifact) -> FittedFeatures {
    FittedFeatures {
        schema: artifact.manifest.schema.clone(),
        vocabularies: artifact.vocabularies.clone(),
    }
}

#[cfg(test)]
mod emulated;
