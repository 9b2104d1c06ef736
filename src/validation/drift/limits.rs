//! How much drift is a warning, and how much fails.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use streamrec_artifact::InputColumn;

use super::DriftError;
use super::compare::score_name;

/// The version of limits that is read.
pub const DRIFT_VERSION: u32 = 1;

/// Limits of all inputs, and of some by themselves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriftLimits {
    /// The version of its form, 1.
    pub format_version: u32,
    /// Fewer rows are too little evidence.
    #[serde(default = "min_rows")]
    pub min_rows: u64,
    /// Limits of every input.
    #[serde(default)]
    pub all: Limits,
    /// Limits of inputs by name, in place of those of all.
    #[serde(default)]
    pub inputs: BTreeMap<String, Limits>,
}

fn min_rows() -> u64 {
    1000
}

/// Limits of one input; a statistic without limit is told and judges nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Population stability index.
    #[serde(default = "psi")]
    pub psi: Option<Limit>,
    /// Jensen-Shannon distance.
    #[serde(default)]
    pub jensen_shannon: Option<Limit>,
    /// Kolmogorov-Smirnov distance.
    #[serde(default)]
    pub kolmogorov_smirnov: Option<Limit>,
    /// Wasserstein distance in standard deviations.
    #[serde(default)]
    pub wasserstein: Option<Limit>,
    /// Change of the share of missing values.
    #[serde(default = "missing")]
    pub missing_rate: Option<Limit>,
    /// Growth of the share of values out of range.
    #[serde(default = "out_of_range")]
    pub out_of_range_rate: Option<Limit>,
    /// Growth of the share of keys without a row of their own.
    #[serde(default = "unseen")]
    pub unseen_rate: Option<Limit>,
    /// Cardinality over that of the reference, or the inverse, whichever is greater.
    #[serde(default)]
    pub cardinality_ratio: Option<Limit>,
}

/// From where on a statistic is a warning, and from where on it fails.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Worth a look.
    pub warn: f64,
    /// Too much.
    pub fail: f64,
}

fn psi() -> Option<Limit> {
    Some(Limit {
        warn: 0.10,
        fail: 0.25,
    })
}

fn missing() -> Option<Limit> {
    Some(Limit {
        warn: 0.05,
        fail: 0.20,
    })
}

fn out_of_range() -> Option<Limit> {
    Some(Limit {
        warn: 0.001,
        fail: 0.01,
    })
}

fn unseen() -> Option<Limit> {
    Some(Limit {
        warn: 0.10,
        fail: 0.30,
    })
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            psi: psi(),
            jensen_shannon: None,
            kolmogorov_smirnov: None,
            wasserstein: None,
            missing_rate: missing(),
            out_of_range_rate: out_of_range(),
            unseen_rate: unseen(),
            cardinality_ratio: None,
        }
    }
}

impl Default for DriftLimits {
    fn default() -> Self {
        Self {
            format_version: DRIFT_VERSION,
            min_rows: min_rows(),
            all: Limits::default(),
            inputs: BTreeMap::new(),
        }
    }
}

impl Limits {
    /// What is wrong with limits called `name`.
    fn problems(&self, name: &str) -> Vec<String> {
        let limits = [
            ("psi", self.psi),
            ("jensen_shannon", self.jensen_shannon),
            ("kolmogorov_smirnov", self.kolmogorov_smirnov),
            ("wasserstein", self.wasserstein),
            ("missing_rate", self.missing_rate),
            ("out_of_range_rate", self.out_of_range_rate),
            ("unseen_rate", self.unseen_rate),
            ("cardinality_ratio", self.cardinality_ratio),
        ];
        let wrong = |limit: &Limit| !(limit.warn >= 0.0 && limit.warn <= limit.fail);
        let found = limits
            .into_iter()
            .filter_map(|(of, limit)| Some((of, limit.filter(wrong)?)));
        found
            .map(|(of, Limit { warn, fail })| {
                format!("{name}.{of}: expected 0 <= warn <= fail, got warn {warn} and fail {fail}")
            })
            .collect()
    }
}

impl DriftLimits {
    /// Reads limits.
    ///
    /// # Errors
    /// The file cannot be read or is wrong.
    pub fn load(path: &Path) -> Result<Self, DriftError> {
        let text = std::fs::read_to_string(path).map_err(|source| DriftError::File {
            path: path.to_owned(),
            source,
        })?;
        let wrong = |problem: String| DriftError::Limits {
            path: path.to_owned(),
            problem,
        };
        let limits: Self = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if limits.format_version != DRIFT_VERSION {
            return Err(wrong(format!(
                "format_version: expected {DRIFT_VERSION}, got {}",
                limits.format_version
            )));
        }
        let all = limits.inputs.iter().map(|(name, own)| (name.as_str(), own));
        let problems: Vec<String> = all
            .chain([("all", &limits.all)])
            .flat_map(|(name, own)| own.problems(name))
            .collect();
        if problems.is_empty() {
            Ok(limits)
        } else {
            Err(wrong(problems.join("\n  ")))
        }
    }

    /// Whether they are limits of a model with these inputs and labels: one that nothing is held to would pass silently.
    ///
    /// # Errors
    /// All names that are unknown.
    pub fn fit(&self, inputs: &[InputColumn], labels: &[String]) -> Result<(), DriftError> {
        let of_score = |name: &str| labels.iter().any(|label| *name == score_name(label));
        let names = self.inputs.keys().filter(|name| !of_score(name));
        let problems: Vec<String> = names
            .filter_map(|name| InputColumn::position(inputs, name).err())
            .map(|error| error.to_string())
            .collect();
        if problems.is_empty() {
            return Ok(());
        }
        Err(DriftError::Unknown {
            problems: problems.join("\n  "),
        })
    }

    /// Those of an input.
    pub fn of(&self, input: &str) -> &Limits {
        self.inputs.get(input).unwrap_or(&self.all)
    }
}
