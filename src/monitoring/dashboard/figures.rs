//! Figures that several pages show.

use streamrec_artifact::{InputProfile, Profile};

use super::Dashboard;
use super::page::Health;
use super::summary::HourSummary;
use crate::monitoring::MonitoringError;
use crate::validation::drift::{DriftReport, InputDrift, Level, compare};

impl Dashboard {
    /// The inputs of a window against those of the training data.
    pub(super) fn drift(&self, whole: &HourSummary) -> Result<DriftReport, MonitoringError> {
        let reference = Profile {
            segments: Vec::new(),
            scores: Vec::new(),
            ..self.artifact.profile.clone()
        };
        let current = self.profile_of(whole);
        compare(&reference, &current, &self.limits)
            .map_err(|error| MonitoringError::table(self.store.root(), error.to_string()))
    }

    fn profile_of(&self, whole: &HourSummary) -> Profile {
        let inputs = self
            .artifact
            .manifest
            .schema
            .inputs
            .iter()
            .zip(&whole.inputs);
        let inputs = inputs.map(|(input, sketch)| InputProfile {
            name: input.name.clone(),
            missing: sketch.missing,
            out_of_range: sketch.out_of_range,
            numbers: None,
            keys: None,
            sketch: Some(sketch.clone()),
        });
        Profile {
            version: self.artifact.profile.version,
            rows: whole.profiled_rows,
            inputs: inputs.collect(),
            scores: Vec::new(),
            segments: Vec::new(),
        }
    }
}

/// A statistic's value by name.
pub(super) fn statistic(drift: &InputDrift, name: &str) -> f64 {
    let mut found = drift
        .statistics
        .iter()
        .filter(|statistic| statistic.name == name);
    found.next().map_or(f64::NAN, |statistic| statistic.value)
}

pub(super) fn health(drift: &InputDrift) -> Health {
    match drift.level() {
        Level::Told | Level::Ok => Health::Good,
        Level::Warn => Health::Warn,
        Level::Fail => Health::Bad,
    }
}

/// The share of requests that were not answered as they should.
pub(super) fn error_share(summary: &HourSummary) -> f64 {
    summary.errors() as f64 / summary.requests as f64
}

/// A quantile of the latency of answered requests, in milliseconds.
pub(super) fn latency_ms(summary: &HourSummary, share: f64) -> f64 {
    let quantiles = summary.latency.quantiles(&[share]);
    quantiles
        .first()
        .map_or(f64::NAN, |microseconds| microseconds / 1e3)
}

/// How far a ratio is from 1, up or down.
pub(super) fn off_one(ratio: f64) -> f64 {
    if ratio > 0.0 {
        ratio.max(1.0 / ratio) - 1.0
    } else {
        f64::NAN
    }
}
