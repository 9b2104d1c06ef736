//! Behavioural tests in CheckList's terms, in TOML.
//! Ribeiro et al., "Beyond Accuracy: Behavioral Testing of NLP Models with CheckList", ACL 2020,
//! <https://arxiv.org/abs/2005.04118>.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::BehaviourError;

/// The version of suites that is read.
pub const BEHAVIOUR_VERSION: u32 = 1;

/// A suite of behavioural tests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BehaviourSuite {
    /// The version of its form, 1.
    pub format_version: u32,
    /// Its name.
    pub name: String,
    /// The tests.
    pub tests: Vec<BehaviourTest>,
}

/// One test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BehaviourTest {
    /// Its name, unique in the suite.
    pub name: String,
    /// What the model is to be capable of, such as `robustness` or `freshness`.
    pub capability: String,
    /// Whose probability is looked at; the model's first label where unset.
    #[serde(default)]
    pub label: Option<String>,
    /// The least share of cases that pass.
    #[serde(default = "all")]
    pub min_pass_rate: f64,
    /// How far a score may be off before it counts.
    #[serde(default = "tolerance")]
    pub tolerance: f64,
    /// MFT: simple rows whose scores everybody agrees on.
    #[serde(default)]
    pub minimum_functionality: Option<MinimumFunctionality>,
    /// INV: a change of an irrelevant value must not move the ranking.
    #[serde(default)]
    pub invariance: Option<Invariance>,
    /// DIR: a change must move the score one way.
    #[serde(default)]
    pub directional: Option<Directional>,
}

fn all() -> f64 {
    1.0
}

fn tolerance() -> f64 {
    1e-6
}

/// What must happen: one of the three kinds of test.
#[derive(Debug, Clone, Copy)]
pub enum TestKind<'a> {
    /// MFT.
    MinimumFunctionality(&'a MinimumFunctionality),
    /// INV.
    Invariance(&'a Invariance),
    /// DIR.
    Directional(&'a Directional),
}

/// Simple rows whose scores everybody agrees on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MinimumFunctionality {
    /// Values of all rows that a case does not set.
    #[serde(default)]
    pub base: Row,
    /// The cases.
    pub cases: Vec<Case>,
}

/// A change of an irrelevant value that must not move the ranking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invariance {
    /// The change.
    pub perturb: Perturbation,
    /// Rows of the sample to look at.
    #[serde(default = "examples")]
    pub examples: usize,
    /// Rows that are ranked together; of 1, the score itself must not move.
    #[serde(default = "slate")]
    pub slate: usize,
}

/// A change that must move the score one way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Directional {
    /// The change.
    pub perturb: Perturbation,
    /// Which way.
    pub expect: Direction,
    /// Rows of the sample to look at.
    #[serde(default = "examples")]
    pub examples: usize,
}

fn examples() -> usize {
    500
}

fn slate() -> usize {
    20
}

/// Values of inputs by name; inputs that are not named are missing.
pub type Row = BTreeMap<String, toml::Value>;

/// A case of minimum functionality.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Case {
    /// One row scores higher than another.
    Better {
        /// The one that scores higher.
        better: Row,
        /// The other.
        worse: Row,
    },
    /// A row's score lies between limits.
    Between {
        /// The row.
        row: Row,
        /// The least score.
        #[serde(default)]
        min: Option<f64>,
        /// The greatest score.
        #[serde(default)]
        max: Option<f64>,
    },
}

/// A change of one input in all rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Perturbation {
    /// The input.
    pub input: String,
    /// Set it to each of these values in turn.
    #[serde(default)]
    pub values: Vec<toml::Value>,
    /// Leave it out.
    #[serde(default)]
    pub missing: bool,
    /// Add to it; to times, milliseconds.
    #[serde(default)]
    pub add: Option<f64>,
    /// Multiply it.
    #[serde(default)]
    pub scale: Option<f64>,
}

/// Which way a score must move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Up.
    Higher,
    /// Up, or not at all.
    NotLower,
    /// Down.
    Lower,
    /// Down, or not at all.
    NotHigher,
}

impl BehaviourSuite {
    /// Reads a suite.
    ///
    /// # Errors
    /// All that is wrong, at once.
    pub fn load(path: &Path) -> Result<Self, BehaviourError> {
        let text = std::fs::read_to_string(path).map_err(|source| BehaviourError::File {
            path: path.to_owned(),
            source,
        })?;
        let wrong = |problems| BehaviourError::Suite {
            path: path.to_owned(),
            problems,
        };
        let suite: Self = toml::from_str(&text).map_err(|error| wrong(vec![error.to_string()]))?;
        let problems = suite.problems();
        if problems.is_empty() {
            Ok(suite)
        } else {
            Err(wrong(problems))
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.format_version != BEHAVIOUR_VERSION {
            problems.push(format!(
                "format_version: expected {BEHAVIOUR_VERSION}, got {}",
                self.format_version
            ));
        }
        if self.tests.is_empty() {
            problems.push("tests: expected at least one".into());
        }
        for (place, test) in self.tests.iter().enumerate() {
            if self.tests[..place]
                .iter()
                .any(|other| other.name == test.name)
            {
                problems.push(format!("test `{}` is there twice", test.name));
            }
            if let Some(problem) = test.problem() {
                problems.push(format!("test `{}`: {problem}", test.name));
            }
        }
        problems
    }
}

impl BehaviourTest {
    fn problem(&self) -> Option<String> {
        if !(0.0..=1.0).contains(&self.min_pass_rate) {
            return Some(format!(
                "min_pass_rate: expected 0 to 1, got {}",
                self.min_pass_rate
            ));
        }
        if !(0.0..1.0).contains(&self.tolerance) {
            return Some(format!(
                "tolerance: expected 0 to less than 1, got {}",
                self.tolerance
            ));
        }
        match self.kind() {
            None => Some(
                "expected one of `minimum_functionality`, `invariance` and `directional`".into(),
            ),
            Some(TestKind::MinimumFunctionality(test)) if test.cases.is_empty() => {
                Some("cases: expected at least one".into())
            }
            Some(TestKind::MinimumFunctionality(test)) => {
                let endless = |case: &Case| {
                    matches!(
                        case,
                        Case::Between {
                            min: None,
                            max: None,
                            ..
                        }
                    )
                };
                test.cases
                    .iter()
                    .any(endless)
                    .then(|| "a row needs `min` or `max`".into())
            }
            Some(TestKind::Invariance(test)) if test.examples == 0 || test.slate == 0 => {
                Some("examples and slate are at least 1".into())
            }
            Some(TestKind::Invariance(test)) => test.perturb.problem(),
            Some(TestKind::Directional(test)) if test.examples == 0 => {
                Some("examples: expected at least 1".into())
            }
            Some(TestKind::Directional(test)) => test.perturb.problem(),
        }
    }

    /// What must happen; none where it is not said, or said twice.
    pub fn kind(&self) -> Option<TestKind<'_>> {
        match (
            &self.minimum_functionality,
            &self.invariance,
            &self.directional,
        ) {
            (Some(test), None, None) => Some(TestKind::MinimumFunctionality(test)),
            (None, Some(test), None) => Some(TestKind::Invariance(test)),
            (None, None, Some(test)) => Some(TestKind::Directional(test)),
            _ => None,
        }
    }
}

impl Perturbation {
    fn problem(&self) -> Option<String> {
        let ways = [
            !self.values.is_empty(),
            self.missing,
            self.add.is_some() || self.scale.is_some(),
        ];
        let count = ways.into_iter().filter(|way| *way).count();
        (count != 1).then(|| "perturb: expected `values`, `missing`, or `add` and `scale`".into())
    }
}
