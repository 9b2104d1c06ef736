//! The summary of a window.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use streamrec_artifact::sketch::SketchError;
use streamrec_artifact::{NumberSketch, Profile, SEGMENTS_MAX, key};

use super::score_histogram::{LabelHistogram, ScoreHistogram};
use super::service::Service;
use crate::monitoring::concept::ConceptCounts;
use crate::train::metrics::LikelihoodSums;

/// The version of summaries that is written and read.
pub const WINDOW_VERSION: u32 = 1;

/// What happened in a span of time. Summaries of the same model merge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowSummary {
    /// The version of its form.
    pub format_version: u32,
    /// Where it begins, milliseconds since 1970 UTC.
    pub begin_ms: i64,
    /// Where it ends; no row is of this moment.
    pub end_ms: i64,
    /// The files that it was computed from; none of merged ones.
    #[serde(default)]
    pub sources: Vec<String>,
    /// Scored rows by the version of their model.
    pub versions: BTreeMap<String, u64>,
    /// Rows of models with other inputs, which only the service counts.
    pub foreign_rows: u64,
    /// The newest row.
    pub newest_ms: Option<i64>,
    /// Requests, errors and times.
    pub service: Service,
    /// Inputs and scores, all rows and by segment: the same as an artifact's.
    pub profile: Profile,
    /// Seconds from the moment that a time input tells to the request; negative where it lies ahead.
    pub ages_s: BTreeMap<String, NumberSketch>,
    /// Alarms of concept drift, by label; there are none before the window's labels are complete.
    #[serde(default)]
    pub concept: BTreeMap<String, ConceptCounts>,
    /// Scores and labels: of all rows first, then of each segment.
    pub groups: Vec<Group>,
}

/// A part of the rows: those with one value of one input.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentKey {
    /// The input.
    pub input: String,
    /// Its value's key.
    pub key: u64,
}

impl SegmentKey {
    /// Its value, for people: the text among `names` that has its key, else the key.
    pub fn name(&self, names: &[String]) -> String {
        let named = names.iter().find(|name| key::from_text(name) == self.key);
        named.map_or_else(|| self.key.to_string(), Clone::clone)
    }
}

/// Scores and labels of some rows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Which rows; all where there is none.
    pub segment: Option<SegmentKey>,
    /// Scored rows.
    pub rows: u64,
    /// Their scores, by label.
    pub scores: BTreeMap<String, ScoreHistogram>,
    /// Rows with labels, by label.
    pub measured: BTreeMap<String, Measured>,
}

/// What labels say.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Sums of log loss and calibration.
    pub sums: LikelihoodSums,
    /// Scores by class.
    pub histogram: LabelHistogram,
}

impl Measured {
    /// Adds a row.
    pub fn add(&mut self, score: f32, happened: bool) {
        self.sums.add(score, happened, 1.0);
        self.histogram.add(score, happened);
    }

    fn merge(&mut self, other: &Self) {
        self.sums.merge(&other.sums);
        self.histogram.merge(&other.histogram);
    }
}

impl Group {
    fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        for (label, scores) in &other.scores {
            self.scores.entry(label.clone()).or_default().merge(scores);
        }
        for (label, measured) in &other.measured {
            self.measured
                .entry(label.clone())
                .or_default()
                .merge(measured);
        }
    }
}

impl WindowSummary {
    /// Scored rows.
    pub fn rows(&self) -> u64 {
        self.profile.rows
    }

    /// All rows together.
    pub fn whole(&self) -> Option<&Group> {
        self.groups.iter().find(|group| group.segment.is_none())
    }

    /// Adds a window of the same model. It then spans both.
    ///
    /// # Errors
    /// The two are of models with other inputs.
    pub fn merge(&mut self, other: &Self) -> Result<(), SketchError> {
        self.profile.merge(&other.profile)?;
        self.service.merge(&other.service)?;
        for (input, ages) in &other.ages_s {
            self.ages_s.entry(input.clone()).or_default().merge(ages)?;
        }
        self.sources.clear();
        self.begin_ms = self.begin_ms.min(other.begin_ms);
        self.end_ms = self.end_ms.max(other.end_ms);
        self.newest_ms = self.newest_ms.max(other.newest_ms);
        self.foreign_rows += other.foreign_rows;
        for (version, rows) in &other.versions {
            *self.versions.entry(version.clone()).or_default() += rows;
        }
        for (label, counts) in &other.concept {
            self.concept.entry(label.clone()).or_default().merge(counts);
        }
        for theirs in &other.groups {
            match self
                .groups
                .iter_mut()
                .find(|own| own.segment == theirs.segment)
            {
                Some(own) => own.merge(theirs),
                None => self.groups.push(theirs.clone()),
            }
        }
        self.bound_groups();
        Ok(())
    }

    /// Keeps the segments with the most rows of each input.
    fn bound_groups(&mut self) {
        let input = |group: &Group| group.segment.as_ref().map(|segment| segment.input.clone());
        self.groups.sort_by_key(|group| {
            let key = group.segment.as_ref().map(|segment| segment.key);
            (input(group), Reverse(group.rows), key)
        });
        let (mut last, mut kept) = (None, 0);
        self.groups.retain(|group| {
            if last != input(group) {
                (last, kept) = (input(group), 0);
            }
            kept += 1;
            group.segment.is_none() || kept <= SEGMENTS_MAX
        });
    }
}
