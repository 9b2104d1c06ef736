//! Readers of a run's splits.

use std::sync::Arc;

use streamrec_artifact::Encoder;

use super::RunError;
use crate::comm::Communicator;
use crate::config::Experiment;
use crate::data::{BatchReader, Dataset, Inputs, ReaderSettings, Role, Split, TrailingBase};
use crate::train::EvaluationPlan;

/// Threads that gather and encode beside the one that reads: the step needs the cores.
const READER_THREADS: usize = 1;

/// Opens a reader of the training split, shuffled. Each rank of `comm`, the data-parallel axis, reads
/// its part.
pub(super) fn training(
    experiment: &Experiment,
    dataset: &Dataset,
    encoder: &Arc<Encoder>,
    comm: &dyn Communicator,
) -> Result<BatchReader, RunError> {
    let mut settings = settings(experiment, dataset, &[Split::Train], encoder, comm)?;
    settings.shuffle = true;
    settings.seed = experiment.seed;
    Ok(BatchReader::new(settings)?)
}

/// Opens a reader of the validation split, where it has rows.
pub(super) fn validation(
    experiment: &Experiment,
    dataset: &Dataset,
    encoder: &Arc<Encoder>,
    comm: &dyn Communicator,
) -> Result<Option<(BatchReader, EvaluationPlan)>, RunError> {
    match dataset.splits.get(&Split::Valid) {
        Some(split) if split.rows > 0 => {
            let splits = [Split::Valid];
            evaluation(experiment, dataset, &splits, encoder, comm, None).map(Some)
        }
        _ if experiment.train.early_stopping.is_some() => Err(RunError::Usage(format!(
            "`train.early_stopping` watches the validation split, and that of {} has no rows; leave it out, \
             or import with one",
            dataset.folder.display()
        ))),
        _ => Ok(None),
    }
}

/// Opens a reader for evaluation: in the order of the file, with groups and truths where the data
/// holds them. `base` are counts that the data's trailing columns lack.
pub(super) fn evaluation(
    experiment: &Experiment,
    dataset: &Dataset,
    splits: &[Split],
    encoder: &Arc<Encoder>,
    comm: &dyn Communicator,
    base: Option<TrailingBase>,
) -> Result<(BatchReader, EvaluationPlan), RunError> {
    let mut settings = settings(experiment, dataset, splits, encoder, comm)?;
    settings.shuffle = false;
    settings.base = base;
    settings.group = experiment.data.group.clone();
    let labels = &experiment.data.labels;
    let truths = labels.iter().map(|label| {
        let name = format!("p_{label}");
        let known = dataset
            .columns
            .iter()
            .any(|c| c.name == name && c.role == Role::Truth);
        known.then(|| {
            settings.truth.push(name);
            settings.truth.len() - 1
        })
    });
    let plan = EvaluationPlan {
        labels: labels.clone(),
        truths: truths.collect(),
        grouped: experiment.data.group.is_some(),
    };
    Ok((BatchReader::new(settings)?, plan))
}

fn settings(
    experiment: &Experiment,
    dataset: &Dataset,
    splits: &[Split],
    encoder: &Arc<Encoder>,
    comm: &dyn Communicator,
) -> Result<ReaderSettings, RunError> {
    for split in splits {
        // Checks that the file is the one that the description speaks of.
        dataset.pack(*split)?;
    }
    let files = splits.iter().map(|split| dataset.split_path(*split));
    let mut settings = ReaderSettings::new(
        files.collect::<Result<_, _>>()?,
        Inputs::Encoded(Arc::clone(encoder)),
        experiment.data.labels.clone(),
        experiment.train.global_batch,
    );
    settings.weight = experiment.data.weight.clone();
    settings.dp_index = comm.rank();
    settings.dp_size = comm.size();
    settings.window_blocks = experiment.data.window_blocks;
    settings.prefetch = experiment.data.prefetch_batches;
    settings.threads = READER_THREADS;
    Ok(settings)
}
