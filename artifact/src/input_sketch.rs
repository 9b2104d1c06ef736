//! Mergeable accounts of inputs and scores: what drift is computed from, with no row at hand.

use serde::{Deserialize, Serialize};

use crate::input::{ColumnKind, InputColumn, SourceType};
use crate::key::{MISSING_KEY, MISSING_TIME};
use crate::key_map::KeyMap;
use crate::moments::Moments;
use crate::raw::RawColumn;
use crate::sketch::{CardinalitySketch, FrequentKeys, Number, QuantileSketch, SketchError};

/// What the values of one input look like. Two of the same input can be merged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSketch {
    /// The rows it has seen.
    pub rows: u64,
    /// Rows without a value.
    pub missing: u64,
    /// Values outside the input's range.
    pub out_of_range: u64,
    /// Its numbers; for times, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numbers: Option<NumberSketch>,
    /// Its keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<KeySketch>,
}

/// What numbers look like.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumberSketch {
    /// Their count, mean and standard deviation.
    pub moments: Moments,
    /// Their quantiles.
    pub quantiles: QuantileSketch,
}

/// What keys look like.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySketch {
    /// Keys without a row of their own in the model's table, where it has a vocabulary.
    pub unseen: u64,
    /// How many different ones there are.
    pub cardinality: CardinalitySketch,
    /// The most frequent ones.
    pub frequent: FrequentKeys,
}

/// What a label and its scores look like. Two of the same label can be merged.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreSketch {
    /// The labels.
    pub labels: Moments,
    /// The probabilities.
    pub probabilities: NumberSketch,
}

/// Whether the values of an input are numbers, else keys.
pub(crate) fn is_number(input: &InputColumn) -> bool {
    matches!(input.source, SourceType::Float | SourceType::Timestamp)
        || input.kind == ColumnKind::Dense
}

impl NumberSketch {
    /// Adds the finite ones of `values`.
    pub fn add<T: Number>(&mut self, values: &[T]) {
        self.moments.add(values);
        self.quantiles.add_all(values);
    }

    /// Adds all that `other` has seen.
    ///
    /// # Errors
    /// The two are of different accuracies.
    pub fn merge(&mut self, other: &Self) -> Result<(), SketchError> {
        self.quantiles.merge(&other.quantiles)?;
        self.moments.merge(other.moments);
        Ok(())
    }
}

impl InputSketch {
    /// Nothing seen of `input`.
    pub fn new(input: &InputColumn) -> Self {
        let is_number = is_number(input);
        Self {
            rows: 0,
            missing: 0,
            out_of_range: 0,
            numbers: is_number.then(NumberSketch::default),
            keys: (!is_number).then(KeySketch::default),
        }
    }

    /// Adds a column of `input`; `known` are the keys with a row of their own.
    pub(crate) fn observe(
        &mut self,
        input: &InputColumn,
        column: &RawColumn,
        known: Option<&KeyMap<bool>>,
    ) {
        self.rows += column.rows() as u64;
        self.missing += column.missing_rows();
        self.out_of_range += column.count_out_of_range(input);
        match (&mut self.numbers, column) {
            (Some(numbers), RawColumn::Dense(values)) => numbers.add(values),
            (Some(numbers), RawColumn::Time(times)) => {
                let times = times.iter().filter(|&&time| time != MISSING_TIME);
                numbers.add(&times.map(|&time| time as f64).collect::<Vec<f64>>());
            }
            _ => {}
        }
        if let (Some(sketch), RawColumn::Key(keys) | RawColumn::KeyList { keys, .. }) =
            (&mut self.keys, column)
        {
            for &key in keys.iter().filter(|&&key| key != MISSING_KEY) {
                sketch.cardinality.add(key);
                sketch.frequent.add(key, 1);
                sketch.unseen += u64::from(known.is_some_and(|known| known.get(key).is_none()));
            }
        }
    }

    /// Adds all that `other`, of the same input, has seen.
    ///
    /// # Errors
    /// The two are of different accuracies.
    pub fn merge(&mut self, other: &Self) -> Result<(), SketchError> {
        if let (Some(numbers), Some(theirs)) = (&mut self.numbers, &other.numbers) {
            numbers.merge(theirs)?;
        }
        if let (Some(keys), Some(theirs)) = (&mut self.keys, &other.keys) {
            keys.cardinality.merge(&theirs.cardinality)?;
            keys.frequent.merge(&theirs.frequent)?;
            keys.unseen += theirs.unseen;
        }
        self.rows += other.rows;
        self.missing += other.missing;
        self.out_of_range += other.out_of_range;
        Ok(())
    }
}

impl ScoreSketch {
    /// Adds labels and probabilities, both `[rows, labels]`, to the sketch of each label.
    pub(crate) fn observe_rows(sketches: &mut [Self], labels: &[f32], probabilities: &[f32]) {
        let heads = sketches.len();
        for (head, sketch) in sketches.iter_mut().enumerate() {
            let column = |values: &[f32]| -> Vec<f64> {
                let of_head = values.iter().skip(head).step_by(heads);
                of_head.map(|&value| f64::from(value)).collect()
            };
            sketch.labels.add(&column(labels));
            sketch.probabilities.add(&column(probabilities));
        }
    }

    /// Adds all that `other`, of the same label, has seen.
    ///
    /// # Errors
    /// The two are of different accuracies.
    pub fn merge(&mut self, other: &Self) -> Result<(), SketchError> {
        self.probabilities.merge(&other.probabilities)?;
        self.labels.merge(other.labels);
        Ok(())
    }
}
