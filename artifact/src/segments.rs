//! Profiles of parts of the rows: those of one client, country or day part.

use serde::{Deserialize, Serialize};

use crate::input::{ColumnKind, InputColumn};
use crate::input_sketch::{InputSketch, ScoreSketch};
use crate::key::MISSING_KEY;
use crate::key_map::KeyMap;
use crate::profile::KnownKeys;
use crate::raw::RawBatch;

/// How many values of an input have a segment each: the first ones that occur. Rows of others are in none.
pub const SEGMENTS_MAX: usize = 32;

/// What the rows with one value of one input look like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentProfile {
    /// The input whose value its rows share.
    pub input: String,
    /// That value.
    pub key: u64,
    /// Its rows.
    pub rows: u64,
    /// What each input looks like, in the order of the schema.
    pub inputs: Vec<InputSketch>,
    /// What each label and its scores look like, in the order of the labels.
    pub scores: Vec<ScoreSketch>,
}

/// Gathers the segments of some inputs.
#[derive(Debug, Clone, Default)]
pub(crate) struct SegmentBuilder {
    inputs: Vec<InputColumn>,
    labels: usize,
    by: Vec<SegmentsOf>,
}

#[derive(Debug, Clone)]
struct SegmentsOf {
    /// The input's place.
    input: usize,
    /// The place of each known value's segment, from 1.
    places: KeyMap<u32>,
    segments: Vec<SegmentProfile>,
    /// For each row observed last, its segment's place from 1, or 0.
    rows: Vec<u32>,
}

impl SegmentBuilder {
    pub(crate) fn new(
        inputs: &[InputColumn],
        labels: usize,
        names: &[String],
    ) -> Result<Self, String> {
        let of = |name: &String| {
            let found = inputs.iter().position(|input| input.name == *name);
            let input = found.filter(|&place| inputs[place].kind == ColumnKind::Key);
            let input = input.ok_or_else(|| {
                let keys = inputs.iter().filter(|input| input.kind == ColumnKind::Key);
                let keys: Vec<&str> = keys.map(|input| input.name.as_str()).collect();
                format!(
                    "`{name}` makes no segments: expected an input of one key a row: {}",
                    keys.join(", ")
                )
            })?;
            Ok::<_, String>(SegmentsOf {
                input,
                places: KeyMap::with_capacity(SEGMENTS_MAX),
                segments: Vec::new(),
                rows: Vec::new(),
            })
        };
        Ok(Self {
            inputs: inputs.to_vec(),
            labels,
            by: names.iter().map(of).collect::<Result<_, _>>()?,
        })
    }

    /// Whether no input makes segments.
    pub(crate) fn is_empty(&self) -> bool {
        self.by.is_empty()
    }

    /// Adds rows that were checked against the inputs.
    pub(crate) fn observe(&mut self, raw: &RawBatch, known: &KnownKeys) {
        for by in &mut self.by {
            by.assign(raw, &self.inputs, self.labels);
            let mut part = RawBatch::new(&self.inputs);
            for place in 0..by.segments.len() {
                part.clear();
                let in_segment = |&row: &usize| by.rows[row] as usize == place + 1;
                for row in (0..raw.rows).filter(in_segment) {
                    part.push_row_of(raw, row);
                }
                let segment = &mut by.segments[place];
                segment.rows += part.rows as u64;
                let columns = self.inputs.iter().zip(&part.columns).enumerate();
                for (index, (input, column)) in columns {
                    segment.inputs[index].observe(input, column, known.of(index));
                }
            }
        }
    }

    /// Adds the scores of the rows observed last.
    pub(crate) fn observe_scores(&mut self, labels: &[f32], probabilities: &[f32]) {
        let heads = self.labels;
        for by in &mut self.by {
            for (place, segment) in by.segments.iter_mut().enumerate() {
                let (mut own_labels, mut own) = (Vec::new(), Vec::new());
                let in_segment = by.rows.iter().enumerate();
                for (row, _) in in_segment.filter(|(_, at)| **at as usize == place + 1) {
                    let cells = row * heads..(row + 1) * heads;
                    if let (Some(l), Some(p)) =
                        (labels.get(cells.clone()), probabilities.get(cells))
                    {
                        own_labels.extend_from_slice(l);
                        own.extend_from_slice(p);
                    }
                }
                ScoreSketch::observe_rows(&mut segment.scores, &own_labels, &own);
            }
        }
    }

    /// The segments, of each input by descending rows.
    pub(crate) fn finish(&self) -> Vec<SegmentProfile> {
        let mut found = Vec::new();
        for by in &self.by {
            let mut segments = by.segments.clone();
            segments.sort_by_key(|segment| (std::cmp::Reverse(segment.rows), segment.key));
            found.append(&mut segments);
        }
        found
    }
}

impl SegmentsOf {
    /// Finds the segment of each row, and makes those that are new.
    fn assign(&mut self, raw: &RawBatch, inputs: &[InputColumn], labels: usize) {
        self.rows.clear();
        let crate::raw::RawColumn::Key(keys) = &raw.columns[self.input] else {
            return;
        };
        for &key in keys {
            let mut place = match key {
                MISSING_KEY => 0,
                key => self.places.get(key).unwrap_or(0),
            };
            if place == 0 && key != MISSING_KEY && self.segments.len() < SEGMENTS_MAX {
                self.segments.push(SegmentProfile {
                    input: inputs[self.input].name.clone(),
                    key,
                    rows: 0,
                    inputs: inputs.iter().map(InputSketch::new).collect(),
                    scores: vec![ScoreSketch::default(); labels],
                });
                place = self.segments.len() as u32;
                *self.places.entry(key) = place;
            }
            self.rows.push(place);
        }
    }
}
