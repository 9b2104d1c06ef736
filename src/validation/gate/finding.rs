//! What was found of one criterion.

use serde::Serialize;
use streamrec_artifact::Outcome;

use super::bootstrap::Estimate;

/// What was found of one criterion, or of one segment of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// The criterion's place in the gate.
    pub criterion: usize,
    /// What was asked for.
    pub asked: String,
    /// What it came to.
    pub outcome: Outcome,
    /// What was observed; none where nothing could be.
    pub observed: Option<f64>,
    /// The ends of its interval.
    pub interval: Option<[f64; 2]>,
    /// The rows that it was observed on.
    pub rows: u64,
    /// The units that they belong to.
    pub units: u64,
    /// Why it came to this.
    pub reason: String,
}

impl Finding {
    /// Without any observation.
    pub(super) fn without(
        criterion: usize,
        asked: String,
        outcome: Outcome,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            criterion,
            asked,
            outcome,
            observed: None,
            interval: None,
            rows: 0,
            units: 0,
            reason: reason.into(),
        }
    }

    /// Of an estimate that must lie between limits, both ends of its interval included.
    pub(super) fn between(self, estimate: Estimate, [min, max]: [f64; 2]) -> Self {
        let Estimate { value, low, high } = estimate;
        let (outcome, reason) = if value.is_nan() {
            (
                Outcome::Hold,
                "it cannot be told: there is one class only".to_owned(),
            )
        } else if !(low.is_finite() && high.is_finite()) {
            (
                Outcome::Hold,
                "too many resamples have one class only".to_owned(),
            )
        } else if low >= min && high <= max {
            (
                Outcome::Pass,
                "the whole interval is within the limits".to_owned(),
            )
        } else if high < min || low > max {
            (
                Outcome::Fail,
                "the whole interval is beyond the limit".to_owned(),
            )
        } else {
            (
                Outcome::Hold,
                "the interval holds the limit: more rows would tell".to_owned(),
            )
        };
        let interval = (low.is_finite() && high.is_finite()).then_some([low, high]);
        Self {
            outcome,
            reason,
            observed: value.is_finite().then_some(value),
            interval,
            ..self
        }
    }
}
