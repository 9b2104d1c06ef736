//! Gates on evidence whose truth is known.

use std::collections::{BTreeMap, HashMap};

use streamrec_artifact::{Outcome, key};

use super::*;
use crate::data::SourceType;
use crate::validation::behaviour::{BehaviourReport, TestResult};

/// Rows of users whose clicks follow known rates; a model is the truth with noise on the logit.
struct World {
    seed: u64,
}

impl World {
    fn uniform(&self, row: usize, what: u64) -> f64 {
        let bits = key::hash(key::hash(self.seed ^ what << 32) ^ row as u64);
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&self, row: usize, what: u64) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform(row, what)).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform(row, what + 1)).cos()
    }

    fn logit(&self, row: usize) -> f64 {
        1.2 * self.normal(row, 1) - 1.0
    }

    fn scores(&self, rows: usize, model: u64, noise: f64) -> Vec<f32> {
        let score =
            |row| 1.0 / (1.0 + (-self.logit(row) - noise * self.normal(row, 100 + model)).exp());
        (0..rows).map(|row| score(row) as f32).collect()
    }

    fn evidence(&self, rows: usize, noise: f64) -> Evidence {
        let label = |row| {
            f32::from(u8::from(
                self.uniform(row, 9) < 1.0 / (1.0 + (-self.logit(row)).exp()),
            ))
        };
        let device = |row: usize| {
            key::from_text(if row.is_multiple_of(10) {
                "tv"
            } else {
                "phone"
            })
        };
        Evidence {
            labels: vec!["click".into()],
            label_values: vec![(0..rows).map(label).collect()],
            unit_of: (0..rows).map(|row| (row / 8) as u32).collect(),
            units: rows.div_ceil(8),
            columns: BTreeMap::from([(
                "device".to_owned(),
                (SourceType::Text, (0..rows).map(device).collect()),
            )]),
            challenger: vec![self.scores(rows, 1, noise)],
            others: HashMap::new(),
            latencies: BTreeMap::new(),
            behaviour: None,
        }
    }
}

fn gate(criteria: &str) -> GateConfig {
    let text =
        format!("format_version = 1\nname = 'g'\nunit = 'user_id'\nresamples = 300\n{criteria}");
    toml::from_str(&text).expect("a gate")
}

fn judged(criteria: &str, evidence: &Evidence) -> (Outcome, Vec<Finding>) {
    let findings = judge(&gate(criteria), evidence);
    (outcome(&findings), findings)
}

const FLOOR: &str = "[[criteria]]\nkind = 'absolute'\nmetric = 'auc'\nmin = ";

#[test]
fn a_limit_is_kept_or_broken_by_the_whole_interval_and_else_holds() {
    let evidence = World { seed: 1 }.evidence(20_000, 0.3);
    let (_, found) = judged(&format!("{FLOOR}0.5"), &evidence);
    let auc = found[0].observed.unwrap();
    assert!(auc > 0.7, "{found:?}");
    assert_eq!(
        judged(&format!("{FLOOR}{}", auc - 0.05), &evidence).0,
        Outcome::Pass
    );
    assert_eq!(judged(&format!("{FLOOR}{auc}"), &evidence).0, Outcome::Hold);
    assert_eq!(
        judged(&format!("{FLOOR}{}", auc + 0.05), &evidence).0,
        Outcome::Fail
    );
}

#[test]
fn too_little_evidence_holds_and_missing_or_nan_evidence_fails() {
    let world = World { seed: 2 };
    assert_eq!(
        judged(&format!("{FLOOR}0.1"), &world.evidence(500, 0.3)).0,
        Outcome::Hold
    );
    let mut evidence = world.evidence(20_000, 0.3);
    let change =
        "[[criteria]]\nkind = 'change'\nmetric = 'auc'\nagainst = 'champion'\nmax_worsening = 0.5";
    assert_eq!(judged(change, &evidence).0, Outcome::Fail, "no champion");
    let latency = "[[criteria]]\nkind = 'latency'\nquantile = 0.99\nmax_ms = 5\nrows = 10";
    assert_eq!(judged(latency, &evidence).0, Outcome::Fail, "nothing timed");
    let behaviour = "[[criteria]]\nkind = 'behaviour'\nmin_pass_rate = 0.9";
    assert_eq!(judged(behaviour, &evidence).0, Outcome::Fail, "no tests");
    let label = "[[criteria]]\nkind = 'absolute'\nmetric = 'auc'\nmin = 0.1\nlabel = 'buy'";
    assert_eq!(judged(label, &evidence).0, Outcome::Fail, "no such label");
    evidence.challenger[0][7] = f32::NAN;
    assert_eq!(judged(&format!("{FLOOR}0.1"), &evidence).0, Outcome::Fail);
}

#[test]
fn pairing_tells_models_apart_that_their_own_intervals_do_not() {
    let world = World { seed: 3 };
    let mut evidence = world.evidence(40_000, 0.35);
    evidence
        .others
        .insert(Against::Champion, vec![world.scores(40_000, 1, 0.30)]);
    let change = "[[criteria]]\nkind = 'change'\nmetric = 'log_loss'\nagainst = 'champion'\nmax_worsening = ";
    assert_eq!(judged(&format!("{change}0.02"), &evidence).0, Outcome::Pass);
    assert_eq!(judged(&format!("{change}0.0"), &evidence).0, Outcome::Fail);
}

#[test]
fn a_segment_that_suffers_fails_though_the_whole_passes() {
    let world = World { seed: 4 };
    let mut evidence = world.evidence(60_000, 0.3);
    // On televisions, scores are turned round.
    for row in (0..60_000).step_by(10) {
        evidence.challenger[0][row] = 1.0 - evidence.challenger[0][row];
    }
    assert_eq!(judged(&format!("{FLOOR}0.6"), &evidence).0, Outcome::Pass);
    let segments = "[[criteria]]\nkind = 'segments'\ninput = 'device'\nmetric = 'auc'\nmin = 0.6\nnames = ['tv', 'phone']";
    let (outcome, findings) = judged(segments, &evidence);
    assert_eq!(outcome, Outcome::Fail);
    let broken: Vec<&str> = findings
        .iter()
        .filter(|finding| finding.outcome == Outcome::Fail)
        .map(|finding| finding.asked.as_str())
        .collect();
    assert_eq!(broken, ["auc where device = tv at least 0.6"]);
    let one = "[[criteria]]\nkind = 'absolute'\nmetric = 'auc'\nmin = 0.6\nsegment = { input = 'device', value = 'phone' }";
    assert_eq!(judged(one, &evidence).0, Outcome::Pass);
}

#[test]
fn latency_and_behaviour_count_too() {
    let mut evidence = World { seed: 5 }.evidence(10_000, 0.3);
    evidence.latencies.insert(
        10,
        (1..=400).map(|place| f64::from(place) / 100.0).collect(),
    );
    let latency = |max: f64| {
        format!("[[criteria]]\nkind = 'latency'\nquantile = 0.95\nmax_ms = {max}\nrows = 10")
    };
    assert_eq!(judged(&latency(4.0), &evidence).0, Outcome::Pass);
    assert_eq!(judged(&latency(3.8), &evidence).0, Outcome::Hold);
    assert_eq!(judged(&latency(3.0), &evidence).0, Outcome::Fail);
    let result = |name: &str, passed| TestResult {
        name: name.into(),
        cases: 100,
        passed,
        ..TestResult::default()
    };
    evidence.behaviour = Some(BehaviourReport {
        tests: vec![result("a", 100), result("b", 80)],
        ..BehaviourReport::default()
    });
    let behaviour =
        |rest: &str| format!("[[criteria]]\nkind = 'behaviour'\nmin_pass_rate = 0.9\n{rest}");
    assert_eq!(judged(&behaviour(""), &evidence).0, Outcome::Fail);
    assert_eq!(judged(&behaviour("test = 'a'"), &evidence).0, Outcome::Pass);
    assert_eq!(
        judged(&behaviour("test = 'a'\nmin_cases = 500"), &evidence).0,
        Outcome::Hold
    );
}

/// Three months in which each challenger is a little worse than the champion that it replaces.
#[test]
fn a_slow_decline_passes_against_each_champion_and_fails_against_the_frozen_reference() {
    let world = World { seed: 6 };
    let rows = 60_000;
    let criteria = "[[criteria]]
kind = 'change'
metric = 'auc'
against = 'champion'
max_worsening = 0.012
[[criteria]]
kind = 'change'
metric = 'auc'
against = 'reference'
max_worsening = 0.02";
    let scores = |week: u32| vec![world.scores(rows, 1, 0.3 + 0.11 * f64::from(week))];
    let mut evidence = world.evidence(rows, 0.3);
    let others = &mut evidence.others;
    others.insert(Against::Reference, evidence.challenger.clone());
    let (mut passed_champion, mut first_stopped) = (0, None);
    for week in 1..=12 {
        let champion = std::mem::replace(&mut evidence.challenger, scores(week));
        evidence.others.insert(Against::Champion, champion);
        let (outcome, findings) = judged(criteria, &evidence);
        passed_champion += u32::from(findings[0].outcome == Outcome::Pass);
        if outcome == Outcome::Fail {
            first_stopped.get_or_insert(week);
        }
    }
    assert_eq!(
        passed_champion, 12,
        "the champion alone lets every week pass"
    );
    assert!(
        first_stopped.is_some_and(|week| week <= 5),
        "{first_stopped:?}"
    );
}
