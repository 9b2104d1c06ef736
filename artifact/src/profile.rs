//! The reference profile: what inputs and scores looked like when the model was trained.
//!
//! Summaries are for people. Sketches are what drift is computed from: they merge, so days, ranks and hours of
//! traffic can be added up, and compared with no row at hand.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bounded_sample::{BoundedSample, quantile};
use crate::feature_schema::FeatureSchema;
use crate::input::InputColumn;
use crate::input_sketch::{InputSketch, ScoreSketch, is_number};
use crate::key::{MISSING_KEY, MISSING_TIME};
use crate::key_map::KeyMap;
use crate::moments::Moments;
use crate::raw::{RawBatch, RawBatchError, RawColumn};
use crate::segments::{SegmentBuilder, SegmentProfile};
use crate::vocabulary::Vocabularies;

/// The version of `profile.json` that is written; version 1 has no sketches and no segments.
pub const PROFILE_VERSION: u32 = 2;

/// How many intervals the quantiles of a [`NumberProfile`] bound.
pub const QUANTILE_INTERVALS: usize = 20;
/// How many of the most frequent keys a [`KeyProfile`] names.
pub const TOP_KEYS: usize = 100;

/// `profile.json`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The version of its form, at most [`PROFILE_VERSION`].
    #[serde(default = "first_version")]
    pub version: u32,
    /// How many rows it describes.
    pub rows: u64,
    /// A profile of each input of the schema, in their order.
    pub inputs: Vec<InputProfile>,
    /// A profile of each label and its scores, in the order of the labels.
    pub scores: Vec<ScoreProfile>,
    /// The same of parts of the rows, such as those of one client.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub segments: Vec<SegmentProfile>,
}

fn first_version() -> u32 {
    1
}

/// What the values of one input looked like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputProfile {
    /// The input's name.
    pub name: String,
    /// Rows without a value.
    pub missing: u64,
    /// Values outside the input's range.
    pub out_of_range: u64,
    /// Its numbers; for times, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numbers: Option<NumberProfile>,
    /// Its keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<KeyProfile>,
    /// What drift is computed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sketch: Option<InputSketch>,
}

/// The distribution of numbers. All zeros of none.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumberProfile {
    /// How many.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub std: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// Quantiles 0, 1/20, ..., 1, of a sample of up to 131,072; empty of none.
    pub quantiles: Vec<f64>,
}

/// The distribution of keys.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyProfile {
    /// How many keys, repetitions included.
    pub count: u64,
    /// How many different ones.
    pub distinct: u64,
    /// The [`TOP_KEYS`] most frequent, by descending count, then ascending key.
    pub top: Vec<KeyCount>,
}

/// A key and how often it occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyCount {
    /// The key.
    pub key: u64,
    /// How often.
    pub count: u64,
}

/// What a label and its scores looked like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreProfile {
    /// The label's name.
    pub label: String,
    /// The share of positives.
    pub base_rate: f64,
    /// The probabilities.
    pub probabilities: NumberProfile,
    /// What drift is computed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sketch: Option<ScoreSketch>,
}

/// Gathers the distribution of numbers in one pass.
#[derive(Debug, Clone, Default)]
struct NumberGatherer {
    moments: Moments,
    bounds: Option<[f64; 2]>,
    sample: BoundedSample<f64>,
    seen: u64,
}

impl NumberGatherer {
    fn add(&mut self, values: impl Iterator<Item = f64>) {
        let values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        self.moments.add(&values);
        for &value in &values {
            let [low, high] = self.bounds.unwrap_or([value, value]);
            self.bounds = Some([low.min(value), high.max(value)]);
            self.sample.offer(self.seen, value);
            self.seen += 1;
        }
    }

    fn finish(&self) -> NumberProfile {
        let ascending = self.sample.sorted();
        let shares = (0..=QUANTILE_INTERVALS).map(|step| step as f64 / QUANTILE_INTERVALS as f64);
        let [min, max] = self.bounds.unwrap_or_default();
        NumberProfile {
            count: self.moments.count(),
            mean: self.moments.mean(),
            std: self.moments.std(),
            min,
            max,
            quantiles: shares
                .filter_map(|share| quantile(&ascending, share))
                .collect(),
        }
    }
}

#[derive(Debug, Clone)]
enum Distribution {
    Numbers(NumberGatherer),
    Keys { counts: KeyMap<u64>, count: u64 },
}

/// Gathers a profile in one pass over raw rows and scores.
#[derive(Debug, Clone)]
pub struct ProfileBuilder {
    inputs: Vec<InputColumn>,
    labels: Vec<String>,
    rows: u64,
    missing: Vec<u64>,
    out_of_range: Vec<u64>,
    distributions: Vec<Distribution>,
    scores: Vec<(NumberGatherer, Moments)>,
    sketches: Vec<InputSketch>,
    score_sketches: Vec<ScoreSketch>,
    known: Arc<KnownKeys>,
    segments: SegmentBuilder,
    sketches_only: bool,
}

/// For each input, the keys that have a row of their own in some table; none where keys are hashed.
#[derive(Debug, Clone, Default)]
pub(crate) struct KnownKeys(Vec<Option<Arc<KeyMap<bool>>>>);

impl KnownKeys {
    fn new(schema: &FeatureSchema, vocabularies: &Vocabularies) -> Self {
        let of_input = |input: &InputColumn| {
            let mut features = schema.categorical.iter();
            let feature = features.find(|feature| feature.input == input.name)?;
            let vocabulary = vocabularies.get(&feature.table)?;
            let mut known = KeyMap::with_capacity(vocabulary.keys().len());
            for &key in vocabulary.keys() {
                *known.entry(key) = true;
            }
            Some(Arc::new(known))
        };
        Self(schema.inputs.iter().map(of_input).collect())
    }

    fn of_inputs(&self, places: Range<usize>) -> Self {
        Self(self.0.get(places).unwrap_or_default().to_vec())
    }

    /// Those of input `index`.
    pub(crate) fn of(&self, index: usize) -> Option<&KeyMap<bool>> {
        self.0.get(index)?.as_deref()
    }
}

impl ProfileBuilder {
    /// An empty profile of `inputs` and `labels`.
    pub fn new(inputs: &[InputColumn], labels: &[String]) -> Self {
        let distribution = |input: &InputColumn| {
            if is_number(input) {
                return Distribution::Numbers(NumberGatherer::default());
            }
            Distribution::Keys {
                counts: KeyMap::with_capacity(0),
                count: 0,
            }
        };
        Self {
            inputs: inputs.to_vec(),
            labels: labels.to_vec(),
            rows: 0,
            missing: vec![0; inputs.len()],
            out_of_range: vec![0; inputs.len()],
            distributions: inputs.iter().map(distribution).collect(),
            scores: vec![Default::default(); labels.len()],
            sketches: inputs.iter().map(InputSketch::new).collect(),
            score_sketches: vec![ScoreSketch::default(); labels.len()],
            known: Arc::default(),
            segments: SegmentBuilder::default(),
            sketches_only: false,
        }
    }

    /// Gathers sketches and no summaries for people, whose counts of keys grow with the keys: memory is bounded
    /// whatever the rows.
    #[must_use]
    pub fn with_sketches_only(mut self) -> Self {
        self.sketches_only = true;
        self
    }

    /// Counts keys that no table of `schema` has a row for, too; the inputs are those of the schema.
    pub fn with_vocabularies(
        mut self,
        schema: &FeatureSchema,
        vocabularies: &Vocabularies,
    ) -> Self {
        self.known = Arc::new(KnownKeys::new(schema, vocabularies));
        self
    }

    /// Profiles the rows of each value of these key inputs by themselves, too, for up to
    /// [`SEGMENTS_MAX`](crate::SEGMENTS_MAX) values of each.
    ///
    /// # Errors
    /// Names an input that is not there or holds no single key a row.
    pub fn with_segments(mut self, names: &[String]) -> Result<Self, String> {
        self.segments = SegmentBuilder::new(&self.inputs, self.labels.len(), names)?;
        Ok(self)
    }

    /// An empty profile of some inputs alone, without labels and segments.
    #[must_use]
    pub fn of_inputs(&self, places: Range<usize>) -> Self {
        let mut part = Self::new(&self.inputs[places.clone()], &[]);
        part.sketches_only = self.sketches_only;
        part.known = Arc::new(self.known.of_inputs(places));
        part
    }

    /// Whether rows are profiled by segments, too.
    pub fn has_segments(&self) -> bool {
        !self.segments.is_empty()
    }

    /// The inputs that it is of.
    pub fn inputs(&self) -> &[InputColumn] {
        &self.inputs
    }

    /// Adds raw rows.
    ///
    /// # Errors
    /// The batch does not have the columns of the inputs.
    pub fn observe(&mut self, raw: &RawBatch) -> Result<(), RawBatchError> {
        raw.check(&self.inputs)?;
        self.rows += raw.rows as u64;
        for (index, column) in raw.columns.iter().enumerate() {
            self.missing[index] += column.missing_rows();
            self.out_of_range[index] += column.count_out_of_range(&self.inputs[index]);
            self.sketches[index].observe(&self.inputs[index], column, self.known.of(index));
            if self.sketches_only {
                continue;
            }
            match (&mut self.distributions[index], column) {
                (Distribution::Numbers(numbers), RawColumn::Dense(values)) => {
                    numbers.add(values.iter().map(|&value| f64::from(value)));
                }
                (Distribution::Numbers(numbers), RawColumn::Time(times)) => {
                    let times = times.iter().filter(|&&time| time != MISSING_TIME);
                    numbers.add(times.map(|&time| time as f64));
                }
                (
                    Distribution::Keys { counts, count },
                    RawColumn::Key(keys) | RawColumn::KeyList { keys, .. },
                ) => {
                    for &key in keys.iter().filter(|&&key| key != MISSING_KEY) {
                        *counts.entry(key) += 1;
                        *count += 1;
                    }
                }
                // The batch was checked against the inputs.
                (_, column) => unreachable!("a {} column of input {index}", column.kind()),
            }
        }
        self.segments.observe(raw, &self.known);
        Ok(())
    }

    /// Adds labels and the model's probabilities for them, both `[rows, labels]`; segments take them for the
    /// rows that were observed last.
    ///
    /// # Panics
    /// If the lengths differ or are no multiple of the number of labels.
    pub fn observe_scores(&mut self, labels: &[f32], probabilities: &[f32]) {
        let heads = self.labels.len();
        assert_eq!(
            labels.len(),
            probabilities.len(),
            "a probability for each label"
        );
        assert_eq!(
            labels.len() % heads.max(1),
            0,
            "a label for each head of a row"
        );
        for (head, (scores, positives)) in self.scores.iter_mut().enumerate() {
            scores.add(
                probabilities
                    .iter()
                    .skip(head)
                    .step_by(heads)
                    .map(|&value| f64::from(value)),
            );
            let column: Vec<f32> = labels.iter().skip(head).step_by(heads).copied().collect();
            positives.add(&column);
        }
        ScoreSketch::observe_rows(&mut self.score_sketches, labels, probabilities);
        self.segments.observe_scores(labels, probabilities);
    }

    /// The profile.
    pub fn finish(&self) -> Profile {
        let inputs = self.inputs.iter().enumerate().map(|(index, input)| {
            let (numbers, keys) = match &self.distributions[index] {
                _ if self.sketches_only => (None, None),
                Distribution::Numbers(numbers) => (Some(numbers.finish()), None),
                Distribution::Keys { counts, count } => (None, Some(key_profile(counts, *count))),
            };
            let (missing, out_of_range) = (self.missing[index], self.out_of_range[index]);
            InputProfile {
                name: input.name.clone(),
                missing,
                out_of_range,
                numbers,
                keys,
                sketch: Some(self.sketches[index].clone()),
            }
        });
        let scores = self
            .labels
            .iter()
            .zip(&self.scores)
            .zip(&self.score_sketches)
            .map(|((label, (scores, positives)), sketch)| ScoreProfile {
                label: label.clone(),
                base_rate: positives.mean(),
                probabilities: scores.finish(),
                sketch: Some(sketch.clone()),
            });
        Profile {
            version: PROFILE_VERSION,
            rows: self.rows,
            inputs: inputs.collect(),
            scores: scores.collect(),
            segments: self.segments.finish(),
        }
    }
}

fn key_profile(counts: &KeyMap<u64>, count: u64) -> KeyProfile {
    let mut top: Vec<KeyCount> = counts
        .iter()
        .map(|(key, count)| KeyCount { key, count })
        .collect();
    top.sort_unstable_by_key(|entry| (std::cmp::Reverse(entry.count), entry.key));
    top.truncate(TOP_KEYS);
    KeyProfile {
        count,
        distinct: counts.len() as u64,
        top,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{ColumnKind, SourceType};

    fn input(name: &str, kind: ColumnKind, source: SourceType) -> InputColumn {
        InputColumn {
            name: name.into(),
            kind,
            source,
            unit: None,
            range: Some([0.0, 50.0]),
            required: false,
        }
    }

    #[test]
    fn a_profile_tells_what_was_observed() {
        let inputs = [
            input("age", ColumnKind::Dense, SourceType::Integer),
            input("tags", ColumnKind::KeyList, SourceType::Text),
        ];
        let mut builder = ProfileBuilder::new(&inputs, &["click".to_owned()]);
        for batch in 0..10u16 {
            let ages = (0..10)
                .map(|row| f32::from(batch * 10 + row))
                .chain([f32::NAN])
                .collect();
            let offsets = [0].into_iter().chain([2; 11]).collect();
            let columns = vec![
                RawColumn::Dense(ages),
                RawColumn::KeyList {
                    offsets,
                    keys: vec![7, 8 + u64::from(batch)],
                },
            ];
            builder.observe(&RawBatch { rows: 11, columns }).unwrap();
            builder.observe_scores(&[0.0, 1.0], &[0.25, 0.75]);
        }
        let profile = builder.finish();
        let ages = profile.inputs[0].numbers.as_ref().unwrap();
        assert_eq!(
            (
                profile.rows,
                profile.inputs[0].missing,
                profile.inputs[0].out_of_range
            ),
            (110, 10, 49)
        );
        assert_eq!(
            (ages.count, ages.mean, ages.min, ages.max),
            (100, 49.5, 0.0, 99.0)
        );
        assert_eq!(ages.quantiles.len(), QUANTILE_INTERVALS + 1);
        assert!((ages.quantiles[10] - 49.5).abs() <= 0.5);
        let tags = profile.inputs[1].keys.as_ref().unwrap();
        assert_eq!(
            (tags.count, tags.distinct, tags.top[0]),
            (20, 11, KeyCount { key: 7, count: 10 })
        );
        assert_eq!(
            (
                profile.scores[0].base_rate,
                profile.scores[0].probabilities.mean
            ),
            (0.5, 0.5)
        );
        let json = serde_json::to_string(&profile).unwrap();
        assert_eq!(serde_json::from_str::<Profile>(&json).unwrap(), profile);
    }
}
