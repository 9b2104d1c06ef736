//! Measures: the figures of a window, under four pillars, that rules judge and dashboards show.

mod business;
mod data_quality;
mod drift;
mod metric;
mod model;
mod system;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use streamrec_artifact::{Artifact, Profile};

pub use metric::{Metric, Pillar};

use super::MonitoringError;
use super::window::{CalibrationMap, SegmentKey, WindowSummary};
use std::collections::BTreeMap;

/// The version of measures that is written and read.
pub const MEASURES_VERSION: u32 = 1;

/// One figure of a window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// What is told.
    pub metric: Metric,
    /// Of which input, or `score of LABEL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Of which rows; all where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<SegmentKey>,
    /// Of which label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The figure.
    pub value: f64,
    /// The rows, requests or labels that it comes from.
    pub rows: u64,
}

/// All figures of a window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measures {
    /// The version of its form.
    pub format_version: u32,
    /// Where the window begins, milliseconds since 1970 UTC.
    pub begin_ms: i64,
    /// Where it ends.
    pub end_ms: i64,
    /// The figures.
    pub measures: Vec<Measure>,
}

/// What figures are computed against.
#[derive(Debug, Clone, Copy)]
pub struct Yardstick<'a> {
    /// The model that is watched, with the profile of its training data.
    pub artifact: &'a Artifact,
    /// What live inputs are compared with: the artifact's profile, or a frozen one of good live days.
    pub reference: &'a Profile,
    /// From scores to rates, by label, from labelled rows of earlier windows.
    pub calibration: &'a BTreeMap<String, CalibrationMap>,
    /// The input that names the item.
    pub item: Option<&'a str>,
    /// Items that could be shown; those of the item's vocabulary where unset.
    pub catalogue: Option<u64>,
}

impl Measures {
    /// The figures of a window.
    ///
    /// # Errors
    /// The reference is of other inputs, or has no sketches.
    pub fn of(window: &WindowSummary, yardstick: &Yardstick<'_>) -> Result<Self, MonitoringError> {
        let mut measures = Vec::new();
        system::measure(window, &mut measures);
        if window.rows() > 0 {
            data_quality::measure(window, &mut measures);
            drift::measure(window, yardstick.reference, &mut measures)?;
            model::measure(window, yardstick.calibration, &mut measures);
            business::measure(window, yardstick, &mut measures);
        }
        // What is no number is no evidence, and JSON has none.
        measures.retain(|measure| measure.value.is_finite());
        Ok(Self {
            format_version: MEASURES_VERSION,
            begin_ms: window.begin_ms,
            end_ms: window.end_ms,
            measures,
        })
    }
}

impl Measure {
    fn new(metric: Metric, value: f64, rows: u64) -> Self {
        Self {
            metric,
            input: None,
            segment: None,
            label: None,
            value,
            rows,
        }
    }

    fn of_input(mut self, input: &str) -> Self {
        self.input = Some(input.to_owned());
        self
    }

    fn of_segment(mut self, segment: Option<&SegmentKey>) -> Self {
        self.segment = segment.cloned();
        self
    }

    fn of_label(mut self, label: &str) -> Self {
        self.label = Some(label.to_owned());
        self
    }
}
