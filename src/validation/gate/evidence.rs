//! What a gate judges: labels, users, segments and the scores of up to three models on the same rows.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use streamrec_artifact::{MISSING_KEY, RawBatch};

use super::bootstrap::Resampled;
use super::config::{Against, Criterion, GateConfig, Metric};
use crate::data::{Block, ColumnKind, Dataset, Error as DataError, RawColumn, SourceType, Split};
use crate::train::TrainError;
use crate::validation::artifact_model::ArtifactModel;
use crate::validation::behaviour::BehaviourReport;

/// All that a gate needs to know.
#[derive(Debug, Default)]
pub struct Evidence {
    /// The model's labels.
    pub labels: Vec<String>,
    /// The values of each label, `[rows]`.
    pub label_values: Vec<Vec<f32>>,
    /// The unit of each row, numbered from 0.
    pub unit_of: Vec<u32>,
    /// How many units there are.
    pub units: usize,
    /// The key columns that segments are made of, `[rows]`, with what their values were.
    pub columns: BTreeMap<String, (SourceType, Vec<u64>)>,
    /// The challenger's scores of each label, `[rows]`.
    pub challenger: Vec<Vec<f32>>,
    /// The scores of the models that it is compared with.
    pub others: HashMap<Against, Vec<Vec<f32>>>,
    /// Milliseconds of single requests, by their rows; ascending.
    pub latencies: BTreeMap<usize, Vec<f64>>,
    /// What behavioural tests came to.
    pub behaviour: Option<BehaviourReport>,
}

/// Why evidence could not be gathered.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// The data cannot be read or lacks a column.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A model cannot score the data.
    #[error("the rows could not be scored")]
    Score(#[from] TrainError),
    /// A column of the gate is of no use.
    #[error("`{column}` is a {found} column; units and segments are made of key columns")]
    Column {
        /// The column.
        column: String,
        /// What it is.
        found: ColumnKind,
    },
}

/// The models under judgement.
pub struct Models<'a> {
    /// What may go live.
    pub challenger: &'a mut ArtifactModel,
    /// What it is compared with.
    pub others: Vec<(Against, &'a mut ArtifactModel)>,
}

impl Evidence {
    /// Scores some splits of a dataset with all models, in the order of the files. `tick` is called once a block with
    /// the rows so far.
    ///
    /// # Errors
    /// The data cannot be read, or does not hold what the gate and the models need.
    pub fn gather(
        gate: &GateConfig,
        models: &mut Models<'_>,
        dataset: &Dataset,
        splits: &[Split],
        mut tick: impl FnMut(u64),
    ) -> Result<Self, EvidenceError> {
        let labels = models.challenger.manifest().schema.labels.clone();
        let mut found = Self {
            label_values: vec![Vec::new(); labels.len()],
            challenger: vec![Vec::new(); labels.len()],
            labels,
            ..Self::default()
        };
        let mut places: HashMap<u64, u32> = HashMap::new();
        let mut block = Block::default();
        for &split in splits {
            let pack = dataset.pack(split)?;
            let place = |name: &str| pack.column(name);
            let unit = key_column(dataset, &gate.unit)?;
            let columns: Result<Vec<_>, EvidenceError> = gate
                .segment_columns()
                .into_iter()
                .map(|name| Ok((name, key_column(dataset, name)?)))
                .collect();
            let columns = columns?;
            let label_places: Result<Vec<usize>, DataError> =
                found.labels.iter().map(|label| place(label)).collect();
            let label_places = label_places?;
            for number in 0..pack.blocks() {
                pack.read_block(number, &mut block)?;
                for (values, &column) in found.label_values.iter_mut().zip(&label_places) {
                    if let RawColumn::Dense(column) = &block.columns[column] {
                        values.extend_from_slice(column);
                    }
                }
                found.add_units(&block.columns[unit.0], &mut places);
                for (name, (column, source)) in &columns {
                    let entry = found.columns.entry((*name).to_owned());
                    if let RawColumn::Key(keys) = &block.columns[*column] {
                        entry
                            .or_insert((*source, Vec::new()))
                            .1
                            .extend_from_slice(keys);
                    }
                }
                score(
                    models.challenger,
                    &pack,
                    &mut block,
                    &found.labels,
                    &mut found.challenger,
                )?;
                for (against, model) in &mut models.others {
                    let empty = || vec![Vec::new(); found.labels.len()];
                    let scores = found.others.entry(*against).or_insert_with(empty);
                    score(model, &pack, &mut block, &found.labels, scores)?;
                }
                tick(found.unit_of.len() as u64);
            }
        }
        Ok(found)
    }

    fn add_units(&mut self, column: &RawColumn, places: &mut HashMap<u64, u32>) {
        let RawColumn::Key(keys) = column else {
            return;
        };
        for &key in keys {
            let next = self.units as u32;
            let unit = match key {
                // Rows of nobody belong to nobody else.
                MISSING_KEY => next,
                key => *places.entry(key).or_insert(next),
            };
            self.units += usize::from(unit == next);
            self.unit_of.push(unit);
        }
    }

    /// A metric of the challenger on some rows; NaN where it cannot be told.
    pub fn metric(&self, metric: Metric, head: usize, rows: &[usize]) -> f64 {
        let pick = |values: &[f32]| -> Vec<f32> { rows.iter().map(|&row| values[row]).collect() };
        let unit_of: Vec<u32> = rows.iter().map(|&row| self.unit_of[row]).collect();
        let (labels, scores) = (pick(&self.label_values[head]), pick(&self.challenger[head]));
        Resampled::new(metric, self.units, &unit_of, &labels, &scores).value()
    }

    /// Times requests of `rows` rows, one after the other, and keeps their latencies.
    ///
    /// # Errors
    /// The model cannot score its own golden rows.
    pub fn time(
        &mut self,
        model: &mut ArtifactModel,
        sample: &RawBatch,
        rows: usize,
        requests: usize,
    ) -> Result<(), TrainError> {
        let mut request = RawBatch::new(&model.manifest().schema.inputs);
        let mut took = Vec::with_capacity(requests);
        // The first ones warm caches up and are not counted.
        for number in 0..requests + 10 {
            request.clear();
            for row in 0..rows {
                request.push_row_of(sample, (number * rows + row) % sample.rows.max(1));
            }
            let began = Instant::now();
            model.score(&request)?;
            if number >= 10 {
                took.push(began.elapsed().as_secs_f64() * 1e3);
            }
        }
        took.sort_unstable_by(f64::total_cmp);
        self.latencies.insert(rows, took);
        Ok(())
    }
}

impl GateConfig {
    /// The columns whose values make segments.
    fn segment_columns(&self) -> Vec<&str> {
        let column = |criterion| match criterion {
            &Criterion::Absolute {
                segment: Some(ref segment),
                ..
            }
            | &Criterion::Change {
                segment: Some(ref segment),
                ..
            } => Some(segment.input.as_str()),
            Criterion::Segments { input, .. } => Some(input.as_str()),
            _ => None,
        };
        let mut columns: Vec<&str> = self.criteria.iter().filter_map(column).collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    }
}

fn key_column(dataset: &Dataset, name: &str) -> Result<(usize, SourceType), EvidenceError> {
    let (place, column) = dataset.column(name)?;
    if column.kind != ColumnKind::Key {
        return Err(EvidenceError::Column {
            column: name.to_owned(),
            found: column.kind,
        });
    }
    Ok((place, column.source))
}

/// Adds a model's scores of a block, by label. A label that the model lacks has no scores.
fn score(
    model: &mut ArtifactModel,
    pack: &crate::data::PackReader,
    block: &mut Block,
    labels: &[String],
    into: &mut [Vec<f32>],
) -> Result<(), EvidenceError> {
    let inputs = model.manifest().schema.inputs.clone();
    let places: Vec<usize> = inputs
        .iter()
        .map(|input| pack.column(&input.name))
        .collect::<Result<_, _>>()?;
    let mut raw = RawBatch::new(&inputs);
    raw.rows = block.rows;
    for (column, &place) in raw.columns.iter_mut().zip(&places) {
        std::mem::swap(column, &mut block.columns[place]);
    }
    let scored = model.score(&raw);
    for (column, &place) in raw.columns.iter_mut().zip(&places) {
        std::mem::swap(column, &mut block.columns[place]);
    }
    let scored = scored?;
    let heads = &model.manifest().schema.labels;
    for (label, into) in labels.iter().zip(into) {
        match heads.iter().position(|head| head == label) {
            Some(head) => into.extend(scored.iter().skip(head).step_by(heads.len())),
            None => into.extend(std::iter::repeat_n(f32::NAN, block.rows)),
        }
    }
    Ok(())
}
