//! What a release must show: typed TOML, no expressions.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The version of gate files that is read.
pub const GATE_VERSION: u32 = 1;

/// A release gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateConfig {
    /// The version of its form, 1.
    pub format_version: u32,
    /// Its name.
    pub name: String,
    /// The key column whose values are resampled together, such as users.
    pub unit: String,
    /// How sure an interval must be, 0.5 to 0.9999.
    #[serde(default = "confidence")]
    pub confidence: f64,
    /// Resamples of the bootstrap.
    #[serde(default = "resamples")]
    pub resamples: u32,
    /// Decides the resamples.
    #[serde(default)]
    pub seed: u64,
    /// Fewer rows are too little evidence.
    #[serde(default = "min_rows")]
    pub min_rows: u64,
    /// Fewer units are too little evidence.
    #[serde(default = "min_units")]
    pub min_units: u64,
    /// What must hold.
    pub criteria: Vec<Criterion>,
}

fn confidence() -> f64 {
    0.95
}

fn resamples() -> u32 {
    1000
}

fn min_rows() -> u64 {
    1000
}

fn min_units() -> u64 {
    100
}

/// One thing that must hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Criterion {
    /// A metric of the challenger lies between limits.
    Absolute {
        /// The metric.
        metric: Metric,
        /// The label; the model's first where unset.
        #[serde(default)]
        label: Option<String>,
        /// The least value.
        #[serde(default)]
        min: Option<f64>,
        /// The greatest value.
        #[serde(default)]
        max: Option<f64>,
        /// Of these rows only.
        #[serde(default)]
        segment: Option<Segment>,
        /// In place of the gate's.
        #[serde(default)]
        min_rows: Option<u64>,
    },
    /// A metric is at most so much worse than another model's on the same rows.
    Change {
        /// The metric.
        metric: Metric,
        /// The label; the model's first where unset.
        #[serde(default)]
        label: Option<String>,
        /// The other model.
        against: Against,
        /// By how much it may be worse, 0 or more; a negative number asks for an improvement.
        max_worsening: f64,
        /// Of these rows only.
        #[serde(default)]
        segment: Option<Segment>,
        /// In place of the gate's.
        #[serde(default)]
        min_rows: Option<u64>,
    },
    /// A metric has a floor in each segment of a key column, and does not worsen there.
    Segments {
        /// The column.
        input: String,
        /// The metric.
        metric: Metric,
        /// The label; the model's first where unset.
        #[serde(default)]
        label: Option<String>,
        /// The least value.
        #[serde(default)]
        min: Option<f64>,
        /// The greatest value.
        #[serde(default)]
        max: Option<f64>,
        /// Another model to compare with.
        #[serde(default)]
        against: Option<Against>,
        /// By how much it may be worse than the other.
        #[serde(default)]
        max_worsening: Option<f64>,
        /// Segments of fewer rows are not judged by themselves.
        #[serde(default)]
        min_rows: Option<u64>,
        /// Texts of the column's values, to name segments by.
        #[serde(default)]
        names: Vec<String>,
    },
    /// Scoring a request takes at most so long.
    Latency {
        /// Which of the latencies, 0.5 to 0.999.
        quantile: f64,
        /// The most milliseconds.
        max_ms: f64,
        /// Rows of a request.
        rows: usize,
        /// Requests that are timed.
        #[serde(default = "requests")]
        requests: usize,
    },
    /// Behavioural tests are passed.
    Behaviour {
        /// One test; all of them where unset.
        #[serde(default)]
        test: Option<String>,
        /// The least share of cases that pass, of each test.
        min_pass_rate: f64,
        /// Fewer cases are too little evidence.
        #[serde(default = "one")]
        min_cases: u64,
    },
}

fn requests() -> usize {
    200
}

fn one() -> u64 {
    1
}

/// The rows with one value of a key column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// The column.
    pub input: String,
    /// The value: text, an integer or a truth value.
    pub value: SegmentValue,
}

/// A value of a key column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SegmentValue {
    /// A truth value.
    Boolean(bool),
    /// An integer.
    Integer(i64),
    /// Text.
    Text(String),
}

/// Which model a challenger is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// The live one.
    Champion,
    /// The frozen yardstick.
    Reference,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Area under the ROC curve.
    Auc,
    /// The AUC of each unit, weighted by its rows; units of one class do not count.
    Gauc,
    /// Mean negative log likelihood, in nats.
    LogLoss,
    /// Log loss over the entropy of the base rate.
    NormalisedEntropy,
    /// How far the sum of predictions is from the sum of labels, as a share of it: |p / y - 1|.
    CalibrationBias,
    /// The mean distance of predictions and labels in 20 bins of equal size, weighted by rows.
    CalibrationError,
}

impl Metric {
    /// Whether more is better.
    pub fn more_is_better(self) -> bool {
        matches!(self, Self::Auc | Self::Gauc)
    }
}

/// A gate that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GateConfigError {
    /// Its file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is wrong.
    #[error("the gate {} cannot be used:\n  {}", path.display(), problems.join("\n  "))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// All that is wrong.
        problems: Vec<String>,
    },
}

impl GateConfig {
    /// Reads a gate and gives the text it was read from, too.
    ///
    /// # Errors
    /// All that is wrong, at once.
    pub fn load(path: &Path) -> Result<(Self, String), GateConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| GateConfigError::File {
            path: path.to_owned(),
            source,
        })?;
        let wrong = |problems| GateConfigError::Wrong {
            path: path.to_owned(),
            problems,
        };
        let gate: Self = toml::from_str(&text).map_err(|error| wrong(vec![error.to_string()]))?;
        let problems = gate.problems();
        if problems.is_empty() {
            Ok((gate, text))
        } else {
            Err(wrong(problems))
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |good: bool, problem: String| {
            if !good {
                problems.push(problem);
            }
        };
        check(
            self.format_version == GATE_VERSION,
            format!(
                "format_version: expected {GATE_VERSION}, got {}",
                self.format_version
            ),
        );
        check(
            (0.5..=0.9999).contains(&self.confidence),
            format!(
                "confidence: expected 0.5 to 0.9999, got {}",
                self.confidence
            ),
        );
        check(
            (100..=1_000_000).contains(&self.resamples),
            format!("resamples: expected 100 to 1000000, got {}", self.resamples),
        );
        check(
            !self.criteria.is_empty(),
            "criteria: expected at least one".into(),
        );
        for (place, criterion) in self.criteria.iter().enumerate() {
            if let Some(problem) = criterion.problem() {
                check(false, format!("criteria[{place}]: {problem}"));
            }
        }
        problems
    }
}

impl Criterion {
    fn problem(&self) -> Option<String> {
        let finite = |value: &Option<f64>| value.is_none_or(f64::is_finite);
        match self {
            Self::Absolute { min, max, .. } => match (min, max) {
                (None, None) => Some("expected `min` or `max`".into()),
                _ if finite(min) && finite(max) => None,
                _ => Some("limits are finite numbers".into()),
            },
            Self::Change { max_worsening, .. } if !max_worsening.is_finite() => {
                Some("`max_worsening` is a finite number".into())
            }
            Self::Segments {
                min,
                max,
                against,
                max_worsening,
                ..
            } => match (against, max_worsening) {
                (Some(_), Some(worsening)) if worsening.is_finite() => None,
                (None, None) if min.is_some() || max.is_some() => None,
                (None, None) => {
                    Some("expected `min`, `max`, or `against` with `max_worsening`".into())
                }
                _ => Some("`against` and a finite `max_worsening` go together".into()),
            },
            Self::Latency {
                quantile,
                max_ms,
                rows,
                requests,
            } => {
                let good = (0.5..=0.999).contains(quantile)
                    && *max_ms > 0.0
                    && *rows > 0
                    && *requests >= 20;
                (!good).then(|| "expected quantile 0.5 to 0.999, max_ms above 0, rows, and 20 requests at least".into())
            }
            Self::Behaviour { min_pass_rate, .. } if !(0.0..=1.0).contains(min_pass_rate) => Some(
                format!("min_pass_rate: expected 0 to 1, got {min_pass_rate}"),
            ),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_says_all_that_is_wrong_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gate.toml");
        let text = r#"
            format_version = 2
            name = "g"
            unit = "user_id"
            confidence = 1.5
            [[criteria]]
            kind = "absolute"
            metric = "auc"
            [[criteria]]
            kind = "segments"
            input = "device"
            metric = "auc"
            against = "reference"
        "#;
        std::fs::write(&path, text).unwrap();
        let error = GateConfig::load(&path).unwrap_err().to_string();
        for part in [
            "expected 1, got 2",
            "0.9999, got 1.5",
            "criteria[0]",
            "criteria[1]",
        ] {
            assert!(error.contains(part), "{error}");
        }
        std::fs::write(
            &path,
            text.replace("kind = \"absolute\"", "kind = \"absolute\"\nminimum = 1"),
        )
        .unwrap();
        assert!(
            GateConfig::load(&path)
                .unwrap_err()
                .to_string()
                .contains("minimum")
        );
    }
}
