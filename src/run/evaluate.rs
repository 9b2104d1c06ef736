//! `streamrec evaluate`: what a run's model reaches on a split, or on data that came later.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use streamrec_kernels::Context;

use super::RunError;
use super::cli::{EvaluateArgs, SplitName};
use super::features::Features;
use super::folder::{self, RunFolder};
use super::{readers, trainee};
use crate::comm::SingleRank;
use crate::config::Experiment;
use crate::data::{Dataset, HeldOutCounts, History, Split, TrailingBase, TrailingSpec};
use crate::train::{Evaluation, LabelEvaluation, Predictor, Progress};

/// One line of `evaluations.jsonl`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EvaluationRecord {
    /// The checkpoint's step.
    pub(super) step: u64,
    /// Which data.
    pub(super) data_version: String,
    /// Which splits of it, such as `test`.
    pub(super) split: String,
    /// What was found, by label.
    pub(super) labels: BTreeMap<String, LabelEvaluation>,
}

pub(super) fn run(args: &EvaluateArgs) -> Result<(), RunError> {
    let (folder, mut experiment) = RunFolder::open(&args.run)?;
    if args.batch == 0 {
        return Err(RunError::Usage(
            "--batch: expected at least 1, got 0".into(),
        ));
    }
    experiment.train.global_batch = args.batch;
    let dataset = Dataset::open(args.data.as_deref().unwrap_or(&experiment.data.dataset))?;
    let splits = splits(args, &dataset);
    let features = Features::read(&folder.features())?;
    let base = if args.data.is_some() {
        base(&folder, &dataset, &features)?
    } else {
        folder.check_dataset(&dataset)?;
        None
    };
    let (mut reader, plan) = readers::evaluation(
        &experiment,
        &dataset,
        &splits,
        &features.encoder,
        &SingleRank,
        base,
    )?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let context = Context::cpu(threads, false)?;
    let graph = folder.read_graph()?;
    let schema = &features.fitted.schema;
    let mut predictor = Predictor::new(context, &graph, schema, reader.batch_rows())?;
    let checkpoint = trainee::chosen(&folder.checkpoints(), args.step)?;
    trainee::restore_weights(predictor.parameters_mut(), &checkpoint)?;

    let mut progress = Progress::new("evaluate", "samples", reader.rows());
    let tick = |rows| progress.at(rows, String::new);
    let found = Evaluation::run(&mut predictor, &SingleRank, &mut reader, &plan, tick)?;
    progress.finish();
    let names: Vec<String> = splits.iter().map(ToString::to_string).collect();
    let record = EvaluationRecord {
        step: checkpoint.step(),
        data_version: dataset.version(),
        split: names.join("+"),
        labels: found.labels,
    };
    folder::append_line(&folder.evaluations(), &record)?;
    print(&record, &experiment, &dataset.folder, args.json)
}

/// The split asked for; of other data everything, of the run's own the test split.
fn splits(args: &EvaluateArgs, dataset: &Dataset) -> Vec<Split> {
    match (args.split, &args.data) {
        (Some(split), _) => vec![split.into()],
        (None, None) => vec![Split::Test],
        (None, Some(_)) => {
            let filled = |split: &Split| dataset.splits.get(split).is_some_and(|s| s.rows > 0);
            Split::ALL.into_iter().filter(filled).collect()
        }
    }
}

/// The run's own counts, for data whose trailing columns began at zero: then they begin where the
/// run's dataset ended. Where those of the run's own test rows are frozen, those of all other rows
/// are, at the same moment.
pub(super) fn base(
    folder: &RunFolder,
    dataset: &Dataset,
    features: &Features,
) -> Result<Option<TrailingBase>, RunError> {
    let inputs = &features.fitted.schema.inputs;
    let is_input = |spec: &&TrailingSpec| inputs.iter().any(|input| input.name == spec.name);
    let columns: Vec<_> = dataset.trailing.iter().filter(is_input).cloned().collect();
    let own = folder.trained_on()?;
    if columns.is_empty() || own.version() == dataset.version() {
        return Ok(None);
    }
    let frozen = has_frozen_counts(&own);
    if !frozen && has_frozen_counts(dataset) {
        tracing::warn!(
            "valid and test rows of this data have frozen counts, those of the run progressive ones: \
             compare their figures with care"
        );
    }
    let earlier = dataset.history.iter().flat_map(History::earlier);
    let earlier: Vec<_> = earlier.collect();
    if let Some(root) = earlier.first()
        && !frozen
    {
        let run_id = own.history.as_ref().map(|history| &history.id);
        return if earlier.iter().any(|id| run_id == Some(id)) {
            Ok(None)
        } else {
            Err(other_counts(folder, dataset, root, run_id))
        };
    }
    let Some(history) = own.trailing_history()? else {
        return Ok(None);
    };
    let place = if frozen {
        "are those at the end of the run's training, like those of its own test rows"
    } else {
        "begin where the run's own data ended"
    };
    match (dataset.first_ms(), history.last_ms()) {
        (Some(first), Some(last)) if first <= last => {
            return Err(overlap(folder, dataset, first, last));
        }
        (Some(_), Some(_)) => tracing::info!("trailing counts of this data {place}"),
        _ => tracing::warn!(
            "trailing counts of this data {place}; without times nothing can tell whether it came later"
        ),
    }
    let history = Arc::new(history);
    Ok(Some(TrailingBase {
        history,
        columns,
        frozen,
    }))
}

fn has_frozen_counts(dataset: &Dataset) -> bool {
    let history = dataset.history.as_ref();
    history.is_some_and(|history| history.held_out_counts == HeldOutCounts::Frozen)
}

fn other_counts(
    folder: &RunFolder,
    dataset: &Dataset,
    root: &str,
    run_id: Option<&String>,
) -> RunError {
    RunError::Usage(format!(
        "the trailing counts of {} go back to history {root} and never come by history {}, with which \
         those of {} end: the rows would know other counts than the model was trained with; import \
         what came after the run's dataset with --history, each on the one before it, or the last \
         without --history if it comes right after the run's dataset",
        dataset.folder.display(),
        run_id.map_or("none", String::as_str),
        folder.root().display()
    ))
}

fn overlap(folder: &RunFolder, dataset: &Dataset, first: i64, last: i64) -> RunError {
    RunError::Usage(format!(
        "{} begins at {first} ms, the trailing counts of {} end at {last} ms: the rows would see \
         their own future; import only rows later than the data of the run",
        dataset.folder.display(),
        folder.root().display()
    ))
}

fn print(
    record: &EvaluationRecord,
    experiment: &Experiment,
    dataset: &Path,
    json: bool,
) -> Result<(), RunError> {
    if json {
        let text = serde_json::to_string_pretty(record)
            .map_err(RunError::other("the metrics have no JSON form"))?;
        println!("{text}");
        return Ok(());
    }
    let EvaluationRecord { step, split, .. } = record;
    println!(
        "{} at step {step} on {} ({split})",
        experiment.name,
        dataset.display()
    );
    for (label, found) in &record.labels {
        let metrics = &found.metrics;
        print!("  {label}: {} rows, AUC {:.4}", metrics.rows, metrics.auc);
        if let Some(best) = found.best_auc {
            print!(" of {best:.4} possible");
        }
        if let Some(gauc) = metrics.gauc {
            print!(", GAUC {gauc:.4}");
        }
        println!(
            ", log loss {:.4}, normalised entropy {:.4}, calibration {:.3}, base rate {:.4}",
            metrics.log_loss, metrics.normalised_entropy, metrics.calibration, metrics.base_rate
        );
    }
    Ok(())
}

impl From<SplitName> for Split {
    fn from(name: SplitName) -> Self {
        match name {
            SplitName::Train => Self::Train,
            SplitName::Valid => Self::Valid,
            SplitName::Test => Self::Test,
        }
    }
}
