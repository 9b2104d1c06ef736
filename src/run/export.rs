//! `streamrec export`: a trained run becomes an artifact.

use std::collections::BTreeMap;
use std::path::Path;

use streamrec_artifact::{Artifact, FORMAT_VERSION, Manifest, ProfileBuilder, TrainingSummary};
use streamrec_kernels::Context;

use super::cli::ExportArgs;
use super::evaluate::EvaluationRecord;
use super::features::Features;
use super::folder::RunFolder;
use super::replacement::Replacement;
use super::session::TrainState;
use super::{RunError, environment, readers, trainee};
use crate::checkpoint::Checkpoint;
use crate::comm::SingleRank;
use crate::config::Experiment;
use crate::data::{Dataset, Split};
use crate::export;
use crate::train::{Predictor, Progress};

/// Rows scored together while the profile is made.
const BATCH_ROWS: usize = 4096;

pub(super) fn run(args: &ExportArgs) -> Result<(), RunError> {
    let (folder, mut experiment) = RunFolder::open(&args.run)?;
    let marker = streamrec_artifact::MANIFEST_FILE;
    let replacement = Replacement::of(&args.out, "artifact", marker, args.overwrite)?;
    let dataset = Dataset::open(&experiment.data.dataset)?;
    folder.check_dataset(&dataset)?;
    let features = Features::read(&folder.features())?;
    let (schema, encoder) = (&features.fitted.schema, &features.encoder);
    let graph = folder.read_graph()?;
    let checkpoint = trainee::chosen(&folder.checkpoints(), args.step)?;
    let state: TrainState = checkpoint.state()?;
    let summary = summary(&experiment, &checkpoint, &state)?;

    experiment.train.global_batch = BATCH_ROWS;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let context = Context::cpu(threads, false)?;
    let rows = BATCH_ROWS.max(args.golden + 2);
    let mut predictor = Predictor::new(context, &graph, schema, rows)?;
    trainee::restore_weights(predictor.parameters_mut(), &checkpoint)?;

    let split = reference_split(&dataset);
    let golden_rows = export::golden_rows(&dataset.pack(split)?, encoder, args.golden)?;
    let golden = export::golden(&mut predictor, encoder, &golden_rows)?;
    let train = [Split::Train];
    let (mut reader, _) =
        readers::evaluation(&experiment, &dataset, &train, encoder, &SingleRank, None)?;
    let mut progress = Progress::new("profile", "samples", reader.rows());
    let builder = ProfileBuilder::new(&schema.inputs, &schema.labels)
        .with_vocabularies(schema, &features.fitted.vocabularies)
        .with_segments(&args.segment)
        .map_err(|problem| RunError::Usage(format!("--segment: {problem}")))?;
    let tick = |rows| progress.at(rows, String::new);
    let profile = export::profile(&mut predictor, &mut reader, builder, tick)?;
    progress.finish();

    let artifact = Artifact {
        manifest: Manifest {
            format_version: FORMAT_VERSION,
            name: experiment.name.clone(),
            created: jiff::Timestamp::now(),
            data_version: dataset.version(),
            code_version: environment::code_version(),
            seed: experiment.seed,
            metrics: metrics(&folder, checkpoint.step(), &dataset.version())?,
            training: summary,
            schema: schema.clone(),
            graph,
            files: BTreeMap::new(),
        },
        weights: export::weights(predictor.parameters()),
        vocabularies: features.fitted.vocabularies,
        golden,
        profile,
    };
    let failed = format!("cannot write the artifact {}", args.out.display());
    let written = artifact.write(replacement.folder());
    written.map_err(RunError::other(failed))?;
    replacement.finish()?;
    println!(
        "{} (step {}) is in {}",
        experiment.name,
        checkpoint.step(),
        args.out.display()
    );
    Ok(())
}

/// How the weights came about.
fn summary(
    experiment: &Experiment,
    checkpoint: &Checkpoint,
    state: &TrainState,
) -> Result<TrainingSummary, RunError> {
    Ok(TrainingSummary {
        model: experiment.model.kind().into(),
        precision: experiment.train.precision.to_string(),
        ranks: checkpoint.world_size(),
        global_batch: state.global_batch,
        steps: checkpoint.step(),
        rows: state.rows,
        seconds: state.seconds,
        experiment: serde_json::to_value(experiment)
            .map_err(RunError::other("the experiment has no JSON form"))?,
    })
}

/// Rows that the model was not trained on, where there are some.
fn reference_split(dataset: &Dataset) -> Split {
    let filled = |split: &Split| dataset.splits.get(split).is_some_and(|file| file.rows > 0);
    let wanted = [Split::Test, Split::Valid, Split::Train];
    wanted.into_iter().find(filled).unwrap_or(Split::Train)
}

/// What was measured of this checkpoint on the run's own data: by validation while it trained, and
/// by `streamrec evaluate`.
fn metrics(
    folder: &RunFolder,
    step: u64,
    data_version: &str,
) -> Result<BTreeMap<String, f64>, RunError> {
    let mut found = BTreeMap::new();
    let read = |path: &Path| match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        result => result.map_err(RunError::file("read", path)),
    };
    for line in read(&folder.metrics())?.lines() {
        let Ok(record) = serde_json::from_str::<serde_json::Value>(line) else {
            continue;
        };
        let Some(label) = record["kind"]
            .as_str()
            .and_then(|kind| kind.strip_prefix("valid/"))
        else {
            continue;
        };
        if record["step"] == step {
            for metric in ["auc", "log_loss", "calibration", "gauc"] {
                if let Some(value) = record[metric].as_f64() {
                    found.insert(format!("valid.{label}.{metric}"), value);
                }
            }
        }
    }
    for line in read(&folder.evaluations())?.lines() {
        let Ok(record) = serde_json::from_str::<EvaluationRecord>(line) else {
            continue;
        };
        if record.step != step || record.data_version != data_version {
            continue;
        }
        for (label, evaluation) in &record.labels {
            let metrics = &evaluation.metrics;
            let split = &record.split;
            found.insert(format!("{split}.{label}.auc"), metrics.auc);
            found.insert(format!("{split}.{label}.log_loss"), metrics.log_loss);
        }
    }
    found.retain(|_, value| value.is_finite());
    Ok(found)
}
