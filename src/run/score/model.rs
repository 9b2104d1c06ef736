//! What scores: an artifact, proved by its golden examples, or a run, proved on the first rows.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use streamrec_artifact::{
    Encoder, FeatureSchema, FittedFeatures, Graph, MANIFEST_FILE, RawBatch, Weights,
};
use streamrec_kernels::TensorMut;
use streamrec_serving::ranker::Ranker;
use streamrec_serving::scorer::Scorer;

use super::Seen;
use super::arguments::ScoreArgs;
use super::source::{Piece, Rows};
use crate::checkpoint::Checkpoint;
use crate::model::{Extent, ModelError};
use crate::run::RunError;
use crate::run::features::Features;
use crate::run::folder::RunFolder;
use crate::run::trainee;

/// Rows of the first piece on which a run proves itself.
const CHECKED_ROWS: usize = 64;

/// A model, before it has proved itself.
pub(super) struct Model {
    name: String,
    /// What identifies its weights.
    version: String,
    /// The data that it was trained on.
    pub(super) data_version: String,
    pub(super) features: Features,
    pub(super) run: Option<RunFolder>,
    unproved: Unproved,
}

/// The part that scores.
enum Unproved {
    /// It proved itself when it was loaded.
    Artifact(Option<Box<Ranker>>),
    Run {
        graph: Graph,
        checkpoint: Box<Checkpoint>,
    },
}

impl Model {
    /// Opens the artifact or the run that `args` name.
    pub(super) fn open(args: &ScoreArgs) -> Result<Self, RunError> {
        if args.model.join(MANIFEST_FILE).exists() {
            if args.step.is_some() {
                return Err(RunError::Usage(format!(
                    "--step chooses a checkpoint of a run, and {} is an artifact; leave it out",
                    args.model.display()
                )));
            }
            return Self::artifact(args);
        }
        let (folder, experiment) = RunFolder::open(&args.model).map_err(|error| match error {
            RunError::Usage(_) => RunError::Usage(format!(
                "{} is neither an artifact (it holds no {MANIFEST_FILE}) nor a run (no experiment.toml); \
                 train one with `streamrec launch`, export it with `streamrec export`",
                args.model.display()
            )),
            other => other,
        })?;
        let checkpoint = trainee::chosen(&folder.checkpoints(), args.step)?;
        Ok(Self {
            name: experiment.name,
            version: format!("step {}", checkpoint.step()),
            data_version: folder.trained_on()?.version(),
            features: Features::read(&folder.features())?,
            unproved: Unproved::Run {
                graph: folder.read_graph()?,
                checkpoint: Box::new(checkpoint),
            },
            run: Some(folder),
        })
    }

    fn artifact(args: &ScoreArgs) -> Result<Self, RunError> {
        let ranker =
            Ranker::load(&args.model).map_err(RunError::other("the artifact cannot be used"))?;
        let manifest = ranker.manifest();
        let encoder = Arc::new(ranker.encoder().clone());
        Ok(Self {
            name: manifest.name.clone(),
            version: ranker.version().to_owned(),
            data_version: manifest.data_version.clone(),
            features: Features {
                fitted: FittedFeatures {
                    schema: manifest.schema.clone(),
                    vocabularies: Default::default(),
                },
                encoder,
            },
            run: None,
            unproved: Unproved::Artifact(Some(Box::new(ranker))),
        })
    }

    pub(super) fn schema(&self) -> &FeatureSchema {
        &self.features.fitted.schema
    }

    pub(super) fn encoder(&self) -> &Arc<Encoder> {
        &self.features.encoder
    }

    /// A column for each label.
    pub(super) fn score_fields(&self) -> impl Iterator<Item = Field> {
        let labels = self.schema().labels.iter();
        labels.map(|label| Field::new(format!("score_{label}"), DataType::Float32, true))
    }

    /// What the file of scores says of where they come from.
    pub(super) fn metadata(&self) -> Vec<(&'static str, String)> {
        vec![
            ("streamrec.model", self.name.clone()),
            ("streamrec.model_version", self.version.clone()),
        ]
    }

    /// The scorer; of a run, once its logits of the first rows are those of candle.
    pub(super) fn scorer(&mut self, first: &Piece) -> Result<Scorer, RunError> {
        let (graph, checkpoint) = match &mut self.unproved {
            Unproved::Artifact(ranker) => {
                // Asked once, for the first piece.
                let ranker = ranker.take().ok_or_else(|| {
                    RunError::Usage("a model scores one set of files at a time".into())
                })?;
                return Ok(ranker.into_scorer());
            }
            Unproved::Run { graph, checkpoint } => (graph, checkpoint),
        };
        let fitted = &self.features.fitted;
        let weights = weights(graph, &fitted.schema, checkpoint)?;
        let rows = beginning(first, &fitted.schema)?;
        Scorer::checked(graph, &fitted.schema, &fitted.vocabularies, weights, &rows)
            .map_err(RunError::other("the run's model cannot be used"))
    }

    /// Tells what was noticed.
    pub(super) fn report(&self, seen: &Seen) {
        let inputs = self.schema().inputs.iter().zip(&seen.out_of_range);
        for (input, &values) in inputs.filter(|(_, values)| **values > 0) {
            let [low, high] = input.range.unwrap_or_default();
            tracing::warn!(
                values,
                "`{}` has values outside {low} to {high}; they are scored, as training took them, and \
                 a server would refuse them",
                input.name
            );
        }
        if seen.not_a_number > 0 {
            tracing::warn!(
                scores = seen.not_a_number,
                "scores are null: values of these rows are too large for the model, whose training data \
                 had none like them"
            );
        }
    }
}

/// Every parameter of `graph`, from a checkpoint.
fn weights(
    graph: &Graph,
    schema: &FeatureSchema,
    checkpoint: &Checkpoint,
) -> Result<Weights, RunError> {
    let shapes = graph.validate(schema).map_err(ModelError::from)?;
    let tables = graph.tables.iter().zip(&shapes.table_rows);
    let tables = tables.map(|(table, &rows)| table.parameter(rows));
    let mut weights = Weights::new();
    for parameter in graph.parameters().into_iter().chain(tables) {
        let mut values = vec![0.0; parameter.len()];
        checkpoint.read(
            &parameter.name,
            &Extent::whole(&parameter.shape),
            TensorMut::from_f32(&mut values, &parameter.shape),
        )?;
        weights.insert(parameter.name, parameter.shape, values);
    }
    Ok(weights)
}

/// The first rows, with the two probes that golden examples have.
fn beginning(piece: &Piece, schema: &FeatureSchema) -> Result<RawBatch, RunError> {
    let mut rows = RawBatch::new(&schema.inputs);
    match &piece.values {
        Rows::Packed(batch) => {
            (0..CHECKED_ROWS.min(batch.raw.rows)).for_each(|row| rows.push_row_of(&batch.raw, row));
        }
        Rows::File(piece) => {
            let mut all = RawBatch::new(&schema.inputs);
            piece.peek(&mut all)?;
            (0..CHECKED_ROWS.min(all.rows)).for_each(|row| rows.push_row_of(&all, row));
        }
    }
    Ok(streamrec_artifact::Golden::with_probes(&rows))
}
