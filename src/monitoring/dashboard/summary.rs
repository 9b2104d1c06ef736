//! What an hour of the tables looks like: counts and sketches, which merge.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Float32Type, Float64Type, UInt32Type};
use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use streamrec_artifact::sketch::QuantileSketch;
use streamrec_artifact::{Artifact, InputSketch, NumberSketch, ProfileBuilder, RawBatch};

use crate::monitoring::prediction_log::raw_batch;
use crate::monitoring::{Hour, MonitoringError};

/// Bins of scores, over logits: what AUC is computed from.
const SCORE_BINS: usize = 4096;
/// The least and the greatest logit that has a bin of its own.
const LOGIT_MAX: f64 = 14.0;

/// What an hour, or several, came to.
#[derive(Debug, Clone)]
pub(super) struct HourSummary {
    /// The files that are in it.
    pub(super) files: BTreeSet<PathBuf>,
    pub(super) requests: u64,
    pub(super) rows: u64,
    /// Requests by how they ended.
    pub(super) statuses: BTreeMap<String, u64>,
    /// Requests by the version that answered.
    pub(super) versions: BTreeMap<String, u64>,
    /// Microseconds.
    pub(super) latency: QuantileSketch,
    pub(super) queue: QuantileSketch,
    pub(super) scores: NumberSketch,
    /// Scored rows of this artifact's inputs.
    pub(super) profiled_rows: u64,
    pub(super) inputs: Vec<InputSketch>,
    /// Scored rows that are of other inputs.
    pub(super) foreign_rows: u64,
    pub(super) labelled: BTreeMap<String, Labelled>,
}

/// What labels of one name say.
#[derive(Debug, Clone, Default)]
pub(super) struct Labelled {
    pub(super) rows: u64,
    pub(super) positives: f64,
    pub(super) predicted: f64,
    log_loss: f64,
    pub(super) value: f64,
    /// Rows by the bin of their score: negatives, positives.
    bins: Vec<[u64; 2]>,
}

impl HourSummary {
    pub(super) fn new(artifact: &Artifact) -> Self {
        let inputs = artifact.manifest.schema.inputs.iter();
        Self {
            files: BTreeSet::new(),
            requests: 0,
            rows: 0,
            statuses: BTreeMap::new(),
            versions: BTreeMap::new(),
            latency: QuantileSketch::default(),
            queue: QuantileSketch::default(),
            scores: NumberSketch::default(),
            profiled_rows: 0,
            inputs: inputs.map(InputSketch::new).collect(),
            foreign_rows: 0,
            labelled: BTreeMap::new(),
        }
    }

    /// Adds a file of predictions.
    pub(super) fn add_predictions(
        &mut self,
        artifact: &Artifact,
        path: PathBuf,
    ) -> Result<(), MonitoringError> {
        let schema = &artifact.manifest.schema;
        let mut builder = ProfileBuilder::new(&schema.inputs, &schema.labels)
            .with_vocabularies(schema, &artifact.vocabularies);
        for batch in batches(&path)? {
            let batch = batch?;
            self.add_requests(&path, &batch)?;
            let scored = scored(&path, &batch)?;
            match raw_batch(&path, &scored, &schema.inputs) {
                Ok(raw) => self.observe(&mut builder, &raw),
                // Another version's inputs: told on the page, compared with nothing.
                Err(_) => self.foreign_rows += scored.num_rows() as u64,
            }
        }
        let merged = builder.finish().inputs.into_iter().zip(&mut self.inputs);
        for (input, own) in merged {
            if let Some(sketch) = input.sketch {
                own.merge(&sketch)
                    .map_err(|error| MonitoringError::table(&path, error.to_string()))?;
            }
        }
        self.files.insert(path);
        Ok(())
    }

    fn observe(&mut self, builder: &mut ProfileBuilder, raw: &RawBatch) {
        match builder.observe(raw) {
            Ok(()) => self.profiled_rows += raw.rows as u64,
            Err(_) => self.foreign_rows += raw.rows as u64,
        }
    }

    fn add_requests(
        &mut self,
        path: &std::path::Path,
        batch: &RecordBatch,
    ) -> Result<(), MonitoringError> {
        let columns = Columns { path, batch };
        let (rows, latency) = (columns.counts("row")?, columns.counts("latency_us")?);
        let queue = columns.counts("queue_us")?;
        let (status, version) = (columns.text("status")?, columns.text("version")?);
        let scores = columns.floats("score")?;
        for row in 0..batch.num_rows() {
            if rows.value(row) == 0 {
                self.requests += 1;
                count(&mut self.statuses, status.value(row));
                count(&mut self.versions, version.value(row));
                if status.value(row) == "ok" {
                    self.latency.add(latency.value(row).into());
                    self.queue.add(queue.value(row).into());
                }
            }
        }
        let scored: Vec<f64> = scores.iter().flatten().map(f64::from).collect();
        self.rows += scored.len() as u64;
        self.scores.add(&scored);
        Ok(())
    }

    /// Adds a file of labelled predictions.
    pub(super) fn add_labelled(&mut self, path: PathBuf) -> Result<(), MonitoringError> {
        let first = crate::monitoring::prediction_log::logged_model(&path)?.labels;
        for batch in batches(&path)? {
            let batch = batch?;
            let columns = Columns {
                path: &path,
                batch: &batch,
            };
            let (names, labels) = (columns.text("label_name")?, columns.floats("label")?);
            let values = batch.column_by_name("value");
            let values = values.and_then(|values| values.as_primitive_opt::<Float64Type>());
            for row in 0..batch.num_rows() {
                let name = names.value(row);
                let of = match first.first() {
                    Some(first) if first == name => "score".to_owned(),
                    _ => format!("score.{name}"),
                };
                let score = columns.floats(&of)?;
                let worth = values.filter(|values| values.is_valid(row));
                let own = self.labelled.entry(name.to_owned()).or_default();
                own.add(
                    score.value(row),
                    labels.value(row),
                    worth.map_or(0.0, |v| v.value(row)),
                );
            }
        }
        self.files.insert(path);
        Ok(())
    }

    /// Requests that ended in a fault or were shed.
    pub(super) fn errors(&self) -> u64 {
        let of = |status: &str| self.statuses.get(status).copied().unwrap_or(0);
        of("failed") + of("shed") + of("bad_request")
    }

    /// Adds another hour.
    fn merge(&mut self, other: &Self) {
        // Sketches of one program are of one accuracy.
        let _ = self.latency.merge(&other.latency);
        let _ = self.queue.merge(&other.queue);
        let _ = self.scores.merge(&other.scores);
        for (own, other) in self.inputs.iter_mut().zip(&other.inputs) {
            let _ = own.merge(other);
        }
        self.requests += other.requests;
        self.rows += other.rows;
        self.profiled_rows += other.profiled_rows;
        self.foreign_rows += other.foreign_rows;
        for (name, count) in &other.statuses {
            *self.statuses.entry(name.clone()).or_default() += count;
        }
        for (name, count) in &other.versions {
            *self.versions.entry(name.clone()).or_default() += count;
        }
        for (name, labelled) in &other.labelled {
            self.labelled
                .entry(name.clone())
                .or_default()
                .merge(labelled);
        }
    }
}

fn count(counts: &mut BTreeMap<String, u64>, name: &str) {
    match counts.get_mut(name) {
        Some(count) => *count += 1,
        None => {
            counts.insert(name.to_owned(), 1);
        }
    }
}

impl Labelled {
    fn add(&mut self, score: f32, label: f32, value: f64) {
        if self.bins.is_empty() {
            self.bins = vec![[0; 2]; SCORE_BINS];
        }
        let score = f64::from(score).clamp(1e-7, 1.0 - 1e-7);
        let label = f64::from(label);
        let logit = (score / (1.0 - score)).ln();
        let place = (logit + LOGIT_MAX) / (2.0 * LOGIT_MAX) * SCORE_BINS as f64;
        let place = (place.max(0.0) as usize).min(SCORE_BINS - 1);
        self.bins[place][usize::from(label > 0.5)] += 1;
        self.rows += 1;
        self.positives += label;
        self.predicted += score;
        self.log_loss -= label * score.ln() + (1.0 - label) * (1.0 - score).ln();
        self.value += value;
    }

    fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.positives += other.positives;
        self.predicted += other.predicted;
        self.log_loss += other.log_loss;
        self.value += other.value;
        if self.bins.is_empty() {
            self.bins.clone_from(&other.bins);
        } else {
            for (own, other) in self.bins.iter_mut().zip(&other.bins) {
                own[0] += other[0];
                own[1] += other[1];
            }
        }
    }

    /// The share of positives.
    pub(super) fn rate(&self) -> f64 {
        self.positives / self.rows as f64
    }

    pub(super) fn log_loss(&self) -> f64 {
        self.log_loss / self.rows as f64
    }

    /// Log loss over that of the base rate (He et al., Practical Lessons from Predicting Clicks on Ads, 2014).
    pub(super) fn normalised_entropy(&self) -> f64 {
        let rate = self.rate();
        self.log_loss() / -(rate * rate.ln() + (1.0 - rate) * (1.0 - rate).ln())
    }

    /// Predicted positives over those that came.
    pub(super) fn calibration(&self) -> f64 {
        self.predicted / self.positives
    }

    /// From bins of scores: pairs in one bin count half. NaN where one class is missing.
    pub(super) fn auc(&self) -> f64 {
        let (mut below, mut won, mut totals) = (0.0, 0.0, [0.0; 2]);
        for [negatives, positives] in &self.bins {
            let (negatives, positives) = (*negatives as f64, *positives as f64);
            won += positives * (below + negatives / 2.0);
            below += negatives;
            totals[0] += negatives;
            totals[1] += positives;
        }
        won / (totals[0] * totals[1])
    }
}

/// Some hours.
pub(super) struct Window {
    pub(super) hours: i64,
    pub(super) now_ms: i64,
    pub(super) found: Vec<(Hour, Arc<HourSummary>)>,
}

impl Window {
    /// All hours together.
    pub(super) fn whole(&self, artifact: &Artifact) -> HourSummary {
        let mut whole = HourSummary::new(artifact);
        self.found.iter().for_each(|(_, hour)| whole.merge(hour));
        whole
    }

    /// A figure of each hour, by how many hours ago the hour began.
    pub(super) fn points(&self, figure: impl Fn(&HourSummary) -> f64) -> Vec<[f64; 2]> {
        let ago = |hour: &Hour| (hour.begin_ms() - Hour::of(self.now_ms).begin_ms()) as f64 / 3.6e6;
        self.found
            .iter()
            .map(|(hour, summary)| [ago(hour), figure(summary)])
            .collect()
    }
}

/// The batches of a file.
pub(super) fn batches(
    path: &std::path::Path,
) -> Result<impl Iterator<Item = Result<RecordBatch, MonitoringError>>, MonitoringError> {
    let file = std::fs::File::open(path).map_err(MonitoringError::file("read", path))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file);
    let builder = builder.map_err(MonitoringError::parquet(path))?;
    let reader = builder.with_batch_size(1 << 14).build();
    let path = path.to_owned();
    let reader = reader.map_err(MonitoringError::parquet(&path))?;
    Ok(reader.map(move |batch| batch.map_err(MonitoringError::arrow(&path))))
}

/// The rows of a batch that were scored.
pub(super) fn scored(
    path: &std::path::Path,
    batch: &RecordBatch,
) -> Result<RecordBatch, MonitoringError> {
    let status = Columns { path, batch }.text("status")?;
    let picked: BooleanArray = status
        .iter()
        .map(|status| Some(status == Some("ok")))
        .collect();
    filter_record_batch(batch, &picked).map_err(MonitoringError::arrow(path))
}

/// Columns of a batch by name and type.
pub(super) struct Columns<'b> {
    pub(super) path: &'b std::path::Path,
    pub(super) batch: &'b RecordBatch,
}

impl<'b> Columns<'b> {
    fn typed<T>(
        &self,
        name: &str,
        typed: impl Fn(&'b dyn Array) -> Option<T>,
    ) -> Result<T, MonitoringError> {
        let found = self.batch.column_by_name(name);
        found
            .and_then(|column| typed(column.as_ref()))
            .ok_or_else(|| {
                let problem =
                    format!("no column `{name}` of the type that the prediction log's tables have");
                MonitoringError::table(self.path, problem)
            })
    }

    pub(super) fn text(
        &self,
        name: &str,
    ) -> Result<&'b arrow::array::StringArray, MonitoringError> {
        self.typed(name, |column| column.as_string_opt::<i32>())
    }

    pub(super) fn counts(
        &self,
        name: &str,
    ) -> Result<&'b arrow::array::UInt32Array, MonitoringError> {
        self.typed(name, |column| column.as_primitive_opt::<UInt32Type>())
    }

    pub(super) fn floats(
        &self,
        name: &str,
    ) -> Result<&'b arrow::array::Float32Array, MonitoringError> {
        self.typed(name, |column| column.as_primitive_opt::<Float32Type>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_labels_are_those_of_their_rows() {
        let mut labelled = Labelled::default();
        for (score, label) in [(0.1, 0.0), (0.4, 0.0), (0.35, 1.0), (0.8, 1.0)] {
            labelled.add(score, label, 2.0);
        }
        // Of four pairs, three are in order.
        assert_eq!(labelled.auc(), 0.75);
        assert!((labelled.log_loss() - 0.472_287_951).abs() < 1e-6);
        assert!((labelled.normalised_entropy() - 0.472_287_951 / 2f64.ln()).abs() < 1e-6);
        assert!((labelled.calibration() - 1.65 / 2.0).abs() < 1e-6);
        assert_eq!((labelled.rate(), labelled.value), (0.5, 8.0));
        let mut twice = labelled.clone();
        twice.merge(&labelled);
        assert_eq!((twice.auc(), twice.rows), (0.75, 8));
        assert!(Labelled::default().auc().is_nan());
    }
}
