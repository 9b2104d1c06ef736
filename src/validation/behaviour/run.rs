//! Runs behavioural tests against whatever scores raw rows.

use serde::{Deserialize, Serialize};
use streamrec_artifact::{InputColumn, RawBatch};

use super::BehaviourError;
use super::rows;
use super::suite::{BehaviourSuite, BehaviourTest, Case, Direction, Perturbation, Row, TestKind};

/// Failing cases that a report shows of each test.
const SHOWN: usize = 10;

/// Whatever scores raw rows: an artifact, or a live server.
pub trait Scorer {
    /// The inputs of a row.
    fn inputs(&self) -> &[InputColumn];

    /// The labels that it scores.
    fn labels(&self) -> &[String];

    /// The probabilities of rows, `[rows, labels]`.
    ///
    /// # Errors
    /// The rows cannot be scored.
    fn score(
        &mut self,
        rows: &RawBatch,
    ) -> Result<Vec<f32>, Box<dyn std::error::Error + Send + Sync>>;
}

/// What all tests came to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BehaviourReport {
    /// The suite's name.
    pub suite: String,
    /// Each test.
    pub tests: Vec<TestResult>,
}

/// What one test came to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestResult {
    /// Its name.
    pub name: String,
    /// MFT, INV or DIR.
    pub kind: String,
    /// What the model is to be capable of.
    pub capability: String,
    /// Cases that were looked at.
    pub cases: u64,
    /// Those that passed.
    pub passed: u64,
    /// The least share that must.
    pub min_pass_rate: f64,
    /// Some cases that failed.
    pub failing: Vec<String>,
}

impl TestResult {
    /// The share of cases that passed; NaN of none.
    pub fn pass_rate(&self) -> f64 {
        self.passed as f64 / self.cases as f64
    }

    /// Whether enough cases passed. Without cases nothing was shown.
    pub fn is_passed(&self) -> bool {
        self.cases > 0 && self.pass_rate() >= self.min_pass_rate
    }

    fn case(&mut self, passed: bool, told: impl FnOnce() -> String) {
        self.cases += 1;
        self.passed += u64::from(passed);
        if !passed && self.failing.len() < SHOWN {
            self.failing.push(told());
        }
    }
}

impl BehaviourReport {
    /// Whether every test passed.
    pub fn is_passed(&self) -> bool {
        !self.tests.is_empty() && self.tests.iter().all(TestResult::is_passed)
    }
}

/// Runs all tests. `sample` holds rows of the data, for tests that change them.
///
/// # Errors
/// A test does not fit the model, or rows cannot be scored.
pub fn run(
    suite: &BehaviourSuite,
    scorer: &mut dyn Scorer,
    sample: &RawBatch,
) -> Result<BehaviourReport, BehaviourError> {
    let tests = suite.tests.iter().map(|test| run_one(test, scorer, sample));
    Ok(BehaviourReport {
        suite: suite.name.clone(),
        tests: tests.collect::<Result<_, _>>()?,
    })
}

fn run_one(
    test: &BehaviourTest,
    scorer: &mut dyn Scorer,
    sample: &RawBatch,
) -> Result<TestResult, BehaviourError> {
    let refuse = |problem: String| BehaviourError::Test {
        test: test.name.clone(),
        problem,
    };
    let head = match &test.label {
        None => Some(0),
        Some(label) => scorer.labels().iter().position(|other| other == label),
    };
    let head = head.ok_or_else(|| {
        refuse(format!(
            "the model has no such label; it has {}",
            scorer.labels().join(", ")
        ))
    })?;
    let mut result = TestResult {
        name: test.name.clone(),
        capability: test.capability.clone(),
        min_pass_rate: test.min_pass_rate,
        ..TestResult::default()
    };
    let mut run = Run { test, head, scorer };
    match test.kind() {
        None => return Err(run.refuse("it says nothing that must happen".into())),
        Some(TestKind::MinimumFunctionality(test)) => {
            result.kind = "MFT".into();
            run.minimum(&test.base, &test.cases, &mut result)?;
        }
        Some(TestKind::Invariance(test)) => {
            result.kind = "INV".into();
            run.invariance(
                &test.perturb,
                &head_of(sample, test.examples),
                test.slate,
                &mut result,
            )?;
        }
        Some(TestKind::Directional(test)) => {
            result.kind = "DIR".into();
            run.directional(
                &test.perturb,
                test.expect,
                &head_of(sample, test.examples),
                &mut result,
            )?;
        }
    }
    Ok(result)
}

struct Run<'a> {
    test: &'a BehaviourTest,
    head: usize,
    scorer: &'a mut dyn Scorer,
}

impl Run<'_> {
    fn refuse(&self, problem: String) -> BehaviourError {
        BehaviourError::Test {
            test: self.test.name.clone(),
            problem,
        }
    }

    /// The label's score of each row.
    fn scores(&mut self, rows: &RawBatch) -> Result<Vec<f64>, BehaviourError> {
        let all = self
            .scorer
            .score(rows)
            .map_err(|source| BehaviourError::Score {
                test: self.test.name.clone(),
                source,
            })?;
        let heads = self.scorer.labels().len();
        Ok(all
            .iter()
            .skip(self.head)
            .step_by(heads)
            .map(|&score| f64::from(score))
            .collect())
    }

    fn minimum(
        &mut self,
        base: &Row,
        cases: &[Case],
        result: &mut TestResult,
    ) -> Result<(), BehaviourError> {
        let rows: Vec<&Row> = cases
            .iter()
            .flat_map(|case| match case {
                Case::Better { better, worse } => vec![better, worse],
                Case::Between { row, .. } => vec![row],
            })
            .collect();
        let batch = rows::written(self.scorer.inputs(), base, &rows)
            .map_err(|problem| self.refuse(problem))?;
        let scores = self.scores(&batch)?;
        let mut place = 0;
        for case in cases {
            match case {
                Case::Better { .. } => {
                    let (better, worse) = (scores[place], scores[place + 1]);
                    place += 2;
                    result.case(better > worse + self.test.tolerance, || {
                        format!(
                            "case {}: {better} is not above {worse}",
                            result_place(cases, case)
                        )
                    });
                }
                Case::Between { min, max, .. } => {
                    let score = scores[place];
                    place += 1;
                    let (min, max) = (
                        min.unwrap_or(f64::NEG_INFINITY),
                        max.unwrap_or(f64::INFINITY),
                    );
                    let inside =
                        score >= min - self.test.tolerance && score <= max + self.test.tolerance;
                    result.case(inside, || {
                        format!(
                            "case {}: {score} is not between {min} and {max}",
                            result_place(cases, case)
                        )
                    });
                }
            }
        }
        Ok(())
    }

    fn invariance(
        &mut self,
        perturb: &Perturbation,
        sample: &RawBatch,
        slate: usize,
        result: &mut TestResult,
    ) -> Result<(), BehaviourError> {
        let before = self.scores(sample)?;
        let changes = rows::perturbed(self.scorer.inputs(), sample, perturb)
            .map_err(|problem| self.refuse(problem))?;
        for (change, rows) in changes {
            let after = self.scores(&rows)?;
            for first in (0..sample.rows).step_by(slate) {
                let range = first..(first + slate).min(sample.rows);
                let (before, after) = (&before[range.clone()], &after[range]);
                let moved = if slate == 1 {
                    let off = (before[0] - after[0]).abs();
                    // A score that is no number has moved.
                    (off.is_nan() || off > self.test.tolerance)
                        .then(|| format!("{} became {}", before[0], after[0]))
                } else {
                    turned(before, after, self.test.tolerance)
                };
                result.case(moved.is_none(), || {
                    format!("{change}, rows from {first}: {}", moved.unwrap_or_default())
                });
            }
        }
        Ok(())
    }

    fn directional(
        &mut self,
        perturb: &Perturbation,
        expect: Direction,
        sample: &RawBatch,
        result: &mut TestResult,
    ) -> Result<(), BehaviourError> {
        let before = self.scores(sample)?;
        let changes = rows::perturbed(self.scorer.inputs(), sample, perturb)
            .map_err(|problem| self.refuse(problem))?;
        let slack = self.test.tolerance;
        for (change, rows) in changes {
            let after = self.scores(&rows)?;
            for (row, (&before, &after)) in before.iter().zip(&after).enumerate() {
                let holds = match expect {
                    Direction::Higher => after > before + slack,
                    Direction::NotLower => after >= before - slack,
                    Direction::Lower => after < before - slack,
                    Direction::NotHigher => after <= before + slack,
                };
                result.case(holds, || {
                    format!("{change}, row {row}: {before} became {after}")
                });
            }
        }
        Ok(())
    }
}

fn result_place(cases: &[Case], case: &Case) -> usize {
    cases
        .iter()
        .position(|other| std::ptr::eq(other, case))
        .unwrap_or(0)
}

/// Two rows that changed places, if any did.
fn turned(before: &[f64], after: &[f64], slack: f64) -> Option<String> {
    if after.iter().any(|score| score.is_nan()) {
        return Some("a score is no number".into());
    }
    for a in 0..before.len() {
        for b in 0..before.len() {
            if before[a] > before[b] + slack && after[b] > after[a] + slack {
                return Some(format!(
                    "row {a} was above row {b} ({} against {}), now it is below ({} against {})",
                    before[a], before[b], after[a], after[b]
                ));
            }
        }
    }
    None
}

/// The first rows of a batch.
fn head_of(sample: &RawBatch, rows: usize) -> RawBatch {
    let mut head = RawBatch {
        rows: 0,
        columns: sample
            .columns
            .iter()
            .map(|column| streamrec_artifact::RawColumn::new(column.kind()))
            .collect(),
    };
    (0..rows.min(sample.rows)).for_each(|row| head.push_row_of(sample, row));
    head
}

#[cfg(test)]
mod tests {
    use streamrec_artifact::{ColumnKind, RawColumn, SourceType};

    use super::*;

    /// Scores `0.1 x completions`, less what is on a television.
    struct Model {
        inputs: Vec<InputColumn>,
        labels: Vec<String>,
        television: f32,
    }

    impl Model {
        fn new(television: f32) -> Self {
            let input = |name: &str, kind, source| InputColumn {
                name: name.into(),
                kind,
                source,
                unit: None,
                range: None,
                required: false,
            };
            Self {
                inputs: vec![
                    input("completions", ColumnKind::Dense, SourceType::Float),
                    input("device", ColumnKind::Key, SourceType::Text),
                ],
                labels: vec!["click".into()],
                television,
            }
        }

        fn sample(&self) -> RawBatch {
            RawBatch {
                rows: 40,
                columns: vec![
                    RawColumn::Dense((0..40).map(|row| (row * 7 % 40) as f32 / 8.0).collect()),
                    RawColumn::Key(vec![streamrec_artifact::key::from_text("phone"); 40]),
                ],
            }
        }
    }

    impl Scorer for Model {
        fn inputs(&self) -> &[InputColumn] {
            &self.inputs
        }

        fn labels(&self) -> &[String] {
            &self.labels
        }

        fn score(
            &mut self,
            rows: &RawBatch,
        ) -> Result<Vec<f32>, Box<dyn std::error::Error + Send + Sync>> {
            let (RawColumn::Dense(completions), RawColumn::Key(devices)) =
                (&rows.columns[0], &rows.columns[1])
            else {
                return Err("other columns".into());
            };
            let tv = streamrec_artifact::key::from_text("tv");
            let score = |(&completions, &device): (&f32, &u64)| {
                let slope = if device == tv { self.television } else { 0.1 };
                slope * completions
            };
            Ok(completions.iter().zip(devices).map(score).collect())
        }
    }

    fn run_suite(tests: &str, model: &mut Model) -> Result<BehaviourReport, BehaviourError> {
        let suite = format!("format_version = 1\nname = 's'\n{tests}");
        let suite: BehaviourSuite = toml::from_str(&suite).expect("a suite");
        let sample = model.sample();
        run(&suite, model, &sample)
    }

    const TESTS: &str = r#"
        [[tests]]
        name = "device"
        capability = "robustness"
        invariance = { perturb = { input = "device", values = ["tv", "tablet"] }, slate = 10 }
        [[tests]]
        name = "completions"
        capability = "engagement"
        directional = { perturb = { input = "completions", add = 1.0 }, expect = "higher" }
        [[tests]]
        name = "fans"
        capability = "engagement"
        [tests.minimum_functionality]
        base = { device = "phone" }
        cases = [
            { better = { completions = 5.0 }, worse = { completions = 0.0 } },
            { row = { completions = 0.0 }, max = 0.1 },
        ]
    "#;

    #[test]
    fn a_model_that_behaves_passes_and_another_is_told_by_case() {
        let good = run_suite(TESTS, &mut Model::new(0.1)).unwrap();
        assert!(good.is_passed(), "{good:?}");
        let counts: Vec<_> = good
            .tests
            .iter()
            .map(|test| (test.kind.as_str(), test.cases))
            .collect();
        assert_eq!(counts, [("INV", 8), ("DIR", 40), ("MFT", 2)]);
        let bad = run_suite(TESTS, &mut Model::new(-0.1)).unwrap();
        assert_eq!((bad.tests[0].passed, bad.tests[0].cases), (4, 8));
        assert!(
            bad.tests[0].failing[0].contains("device = \"tv\""),
            "{bad:?}"
        );
        assert!(!bad.is_passed());
    }

    #[test]
    fn a_test_of_an_input_that_the_model_lacks_is_refused() {
        let error = run_suite(
            &TESTS.replace("input = \"device\"", "input = \"devise\""),
            &mut Model::new(0.1),
        )
        .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("`devise` is no input of the model"),
            "{error}"
        );
    }
}
