//! Judges evidence: each criterion by itself, the gate by the worst.
//!
//! A limit counts as kept or broken only if the whole confidence interval is on one side of it. In between, and
//! with fewer rows or units than asked for, there is too little evidence: hold. Evidence that is missing or
//! is no number fails.

use std::collections::HashMap;

use streamrec_artifact::{MISSING_KEY, Outcome, key};

use super::bootstrap::{Bootstrap, Estimate, Resampled};
use super::config::{Against, Criterion, GateConfig, Metric, Segment, SegmentValue};
use super::evidence::Evidence;
use super::finding::Finding;
use crate::validation::normal;

/// Judges every criterion.
pub fn judge(gate: &GateConfig, evidence: &Evidence) -> Vec<Finding> {
    let judge = Judge { gate, evidence };
    let criteria = gate.criteria.iter().enumerate();
    criteria
        .flat_map(|(place, criterion)| judge.criterion(place, criterion))
        .collect()
}

/// What all findings come to.
pub fn outcome(findings: &[Finding]) -> Outcome {
    findings
        .iter()
        .map(|finding| finding.outcome)
        .max()
        .unwrap_or(Outcome::Fail)
}

struct Judge<'a> {
    gate: &'a GateConfig,
    evidence: &'a Evidence,
}

/// One question to the models: a metric of a label on some rows.
struct Question<'a> {
    place: usize,
    asked: String,
    metric: Metric,
    label: Option<&'a String>,
    rows: Option<Vec<usize>>,
    against: Option<Against>,
    limits: [f64; 2],
    min_rows: u64,
}

impl Judge<'_> {
    fn criterion(&self, place: usize, criterion: &Criterion) -> Vec<Finding> {
        match criterion {
            Criterion::Absolute {
                metric,
                label,
                min,
                max,
                segment,
                min_rows,
            } => {
                let asked = format!(
                    "{}{} {}",
                    named(*metric, label),
                    of_segment(segment),
                    limits_text(*min, *max)
                );
                vec![self.of_segment(
                    segment,
                    |rows| Question {
                        place,
                        asked: asked.clone(),
                        metric: *metric,
                        label: label.as_ref(),
                        rows,
                        against: None,
                        limits: limits(*min, *max),
                        min_rows: min_rows.unwrap_or(self.gate.min_rows),
                    },
                    place,
                    &asked,
                )]
            }
            Criterion::Change {
                metric,
                label,
                against,
                max_worsening,
                segment,
                min_rows,
            } => {
                let asked = change_text(*metric, label, segment, *against, *max_worsening);
                vec![self.of_segment(
                    segment,
                    |rows| Question {
                        place,
                        asked: asked.clone(),
                        metric: *metric,
                        label: label.as_ref(),
                        rows,
                        against: Some(*against),
                        limits: [f64::NEG_INFINITY, *max_worsening],
                        min_rows: min_rows.unwrap_or(self.gate.min_rows),
                    },
                    place,
                    &asked,
                )]
            }
            Criterion::Segments { .. } => self.segments(place, criterion),
            Criterion::Latency {
                quantile,
                max_ms,
                rows,
                ..
            } => vec![self.latency(place, *quantile, *max_ms, *rows)],
            Criterion::Behaviour {
                test,
                min_pass_rate,
                min_cases,
            } => self.behaviour(place, test.as_deref(), *min_pass_rate, *min_cases),
        }
    }

    fn of_segment<'a>(
        &self,
        segment: &Option<Segment>,
        question: impl FnOnce(Option<Vec<usize>>) -> Question<'a>,
        place: usize,
        asked: &str,
    ) -> Finding {
        let Some(segment) = segment else {
            return self.ask(question(None));
        };
        let Some((_, keys)) = self.evidence.columns.get(&segment.input) else {
            let reason = format!("the data has no column `{}`", segment.input);
            return Finding::without(place, asked.to_owned(), Outcome::Fail, reason);
        };
        let wanted = key_of(&segment.value);
        let rows = (0..keys.len())
            .filter(|&row| Some(keys[row]) == wanted)
            .collect();
        self.ask(question(Some(rows)))
    }

    /// Asks the models, on rows where there are some.
    fn ask(&self, question: Question<'_>) -> Finding {
        let evidence = self.evidence;
        let Question {
            place,
            asked,
            metric,
            rows,
            ..
        } = question;
        let fail = |reason: String| Finding::without(place, asked.clone(), Outcome::Fail, reason);
        let head = match question.label {
            None => Some(0),
            Some(label) => evidence.labels.iter().position(|other| other == label),
        };
        let Some(head) = head.filter(|head| *head < evidence.labels.len()) else {
            return fail(format!(
                "the model has no such label; it has {}",
                evidence.labels.join(", ")
            ));
        };
        let other = match question
            .against
            .map(|against| evidence.others.get(&against))
        {
            Some(None) => {
                return fail("there is no such model to compare with: evidence is missing".into());
            }
            Some(Some(scores)) => Some(&scores[head]),
            None => None,
        };
        let rows = rows.unwrap_or_else(|| (0..evidence.unit_of.len()).collect());
        let (units, unit_of) = renumbered(&evidence.unit_of, &rows);
        let pick = |values: &[f32]| -> Vec<f32> { rows.iter().map(|&row| values[row]).collect() };
        let labels = pick(&evidence.label_values[head]);
        let scores = pick(&evidence.challenger[head]);
        let other = other.map(|scores| pick(scores));
        let mut finding = Finding::without(place, asked.clone(), Outcome::Hold, "");
        (finding.rows, finding.units) = (rows.len() as u64, units as u64);
        let all = scores.iter().chain(other.iter().flatten()).chain(&labels);
        if all.into_iter().any(|value| !value.is_finite()) {
            finding.outcome = Outcome::Fail;
            finding.reason = "a score or a label is no number".into();
            return finding;
        }
        if finding.rows < question.min_rows || finding.units < self.gate.min_units {
            finding.reason = format!(
                "too little evidence: {} rows of {} {}s, asked for are {} and {}",
                finding.rows, finding.units, self.gate.unit, question.min_rows, self.gate.min_units
            );
            return finding;
        }
        let of = |scores: &[f32]| Resampled::new(metric, units, &unit_of, &labels, scores);
        let (model, other) = (of(&scores), other.map(|scores| of(&scores)));
        let estimate = self.bootstrap().estimate(&model, other.as_ref());
        let estimate = match question.against {
            // What is more and better is turned round: worse is more.
            Some(_) if metric.more_is_better() => Estimate {
                // 0 is not turned into -0.
                value: 0.0 - estimate.value,
                low: 0.0 - estimate.high,
                high: 0.0 - estimate.low,
            },
            _ => estimate,
        };
        finding.between(estimate, question.limits)
    }

    fn bootstrap(&self) -> Bootstrap {
        Bootstrap {
            confidence: self.gate.confidence,
            resamples: self.gate.resamples,
            seed: self.gate.seed,
        }
    }

    fn segments(&self, place: usize, criterion: &Criterion) -> Vec<Finding> {
        let Criterion::Segments {
            input,
            metric,
            label,
            min,
            max,
            against,
            max_worsening,
            min_rows,
            names,
        } = criterion
        else {
            return Vec::new();
        };
        let asked = format!("{} in each segment of {input}", named(*metric, label));
        let Some((_, keys)) = self.evidence.columns.get(input) else {
            let reason = format!("the data has no column `{input}`");
            return vec![Finding::without(place, asked, Outcome::Fail, reason)];
        };
        let least = min_rows.unwrap_or(self.gate.min_rows);
        let mut rows_of: HashMap<u64, Vec<usize>> = HashMap::new();
        for (row, &key) in keys.iter().enumerate() {
            rows_of.entry(key).or_default().push(row);
        }
        rows_of.retain(|key, rows| *key != MISSING_KEY && rows.len() as u64 >= least);
        let mut segments: Vec<(u64, Vec<usize>)> = rows_of.into_iter().collect();
        segments.sort_by_key(|(key, rows)| (std::cmp::Reverse(rows.len()), *key));
        if segments.is_empty() {
            let reason = format!("no segment has {least} rows");
            return vec![Finding::without(place, asked, Outcome::Hold, reason)];
        }
        let mut findings = Vec::new();
        for (key, rows) in segments {
            let name = names.iter().find(|name| key::from_text(name) == key);
            let name = name.map_or_else(|| key.cast_signed().to_string(), Clone::clone);
            let of = format!("{} where {input} = {name}", named(*metric, label));
            let mut ask = |against, limits, asked| {
                findings.push(self.ask(Question {
                    place,
                    asked,
                    metric: *metric,
                    label: label.as_ref(),
                    rows: Some(rows.clone()),
                    against,
                    limits,
                    min_rows: least,
                }));
            };
            if min.is_some() || max.is_some() {
                ask(
                    None,
                    limits(*min, *max),
                    format!("{of} {}", limits_text(*min, *max)),
                );
            }
            if let (Some(against), Some(worsening)) = (against, max_worsening) {
                let asked = format!(
                    "{of} at most {worsening} worse than the {}",
                    against_name(*against)
                );
                ask(Some(*against), [f64::NEG_INFINITY, *worsening], asked);
            }
        }
        findings
    }

    fn latency(&self, place: usize, quantile: f64, max_ms: f64, rows: usize) -> Finding {
        let asked = format!(
            "p{} of scoring {rows} rows at most {max_ms} ms",
            quantile * 100.0
        );
        let Some(took) = self
            .evidence
            .latencies
            .get(&rows)
            .filter(|took| !took.is_empty())
        else {
            return Finding::without(
                place,
                asked,
                Outcome::Fail,
                "nothing was timed: evidence is missing",
            );
        };
        // Ends of an interval of a quantile are order statistics (normal approximation of the binomial).
        let n = took.len() as f64;
        let z = normal::quantile(0.5 + self.gate.confidence / 2.0);
        let spread = z * (n * quantile * (1.0 - quantile)).sqrt();
        let at = |rank: f64| took[(rank.max(1.0).min(n) as usize) - 1];
        let estimate = Estimate {
            value: at((n * quantile).ceil()),
            low: at((n * quantile - spread).floor()),
            high: at((n * quantile + spread).ceil()),
        };
        let finding = Finding::without(place, asked, Outcome::Hold, "");
        Finding {
            rows: rows as u64 * took.len() as u64,
            ..finding
        }
        .between(estimate, [0.0, max_ms])
    }

    fn behaviour(
        &self,
        place: usize,
        test: Option<&str>,
        min_pass_rate: f64,
        min_cases: u64,
    ) -> Vec<Finding> {
        let asked = |name: &str| {
            format!(
                "behaviour `{name}` passes in at least {} of cases",
                min_pass_rate
            )
        };
        let tests = self
            .evidence
            .behaviour
            .iter()
            .flat_map(|report| &report.tests);
        let tests: Vec<_> = tests
            .filter(|result| test.is_none_or(|test| test == result.name))
            .collect();
        if tests.is_empty() {
            let name = test.unwrap_or("any");
            return vec![Finding::without(
                place,
                asked(name),
                Outcome::Fail,
                "no such test was run: evidence is missing",
            )];
        }
        let of = |result: &&crate::validation::behaviour::TestResult| {
            let rate = result.passed as f64 / result.cases as f64;
            let (outcome, reason) = if result.cases < min_cases {
                (
                    Outcome::Hold,
                    format!(
                        "too little evidence: {} cases, asked for are {min_cases}",
                        result.cases
                    ),
                )
            } else if rate >= min_pass_rate {
                (Outcome::Pass, "enough cases pass".to_owned())
            } else {
                (
                    Outcome::Fail,
                    format!(
                        "{} of {} cases fail",
                        result.cases - result.passed,
                        result.cases
                    ),
                )
            };
            let finding = Finding::without(place, asked(&result.name), outcome, reason);
            Finding {
                observed: rate.is_finite().then_some(rate),
                rows: result.cases,
                ..finding
            }
        };
        tests.iter().map(of).collect()
    }
}

/// The units of some rows, numbered anew from 0.
fn renumbered(unit_of: &[u32], rows: &[usize]) -> (usize, Vec<u32>) {
    let mut places: HashMap<u32, u32> = HashMap::new();
    let place = |&row: &usize| {
        let next = places.len() as u32;
        *places.entry(unit_of[row]).or_insert(next)
    };
    let unit_of: Vec<u32> = rows.iter().map(place).collect();
    (places.len(), unit_of)
}

fn key_of(value: &SegmentValue) -> Option<u64> {
    match value {
        SegmentValue::Boolean(value) => Some(key::from_boolean(*value)),
        SegmentValue::Integer(value) => key::from_integer(*value).ok(),
        SegmentValue::Text(text) => Some(key::from_text(text)),
    }
}

fn limits(min: Option<f64>, max: Option<f64>) -> [f64; 2] {
    [
        min.unwrap_or(f64::NEG_INFINITY),
        max.unwrap_or(f64::INFINITY),
    ]
}

fn limits_text(min: Option<f64>, max: Option<f64>) -> String {
    match (min, max) {
        (Some(min), Some(max)) => format!("between {min} and {max}"),
        (Some(min), None) => format!("at least {min}"),
        (None, Some(max)) => format!("at most {max}"),
        (None, None) => String::new(),
    }
}

fn named(metric: Metric, label: &Option<String>) -> String {
    let metric = serde_json::to_value(metric).ok();
    let metric = metric
        .as_ref()
        .and_then(|value| value.as_str())
        .unwrap_or_default();
    match label {
        Some(label) => format!("{metric} of {label}"),
        None => metric.to_owned(),
    }
}

fn of_segment(segment: &Option<Segment>) -> String {
    segment.as_ref().map_or_else(String::new, |segment| {
        let value = serde_json::to_string(&segment.value).unwrap_or_default();
        format!(" where {} = {value}", segment.input)
    })
}

fn against_name(against: Against) -> &'static str {
    match against {
        Against::Champion => "champion",
        Against::Reference => "reference",
    }
}

fn change_text(
    metric: Metric,
    label: &Option<String>,
    segment: &Option<Segment>,
    against: Against,
    worsening: f64,
) -> String {
    let of = format!("{}{}", named(metric, label), of_segment(segment));
    format!(
        "{of} at most {worsening} worse than the {}",
        against_name(against)
    )
}
