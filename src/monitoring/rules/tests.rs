//! Rules are checked as they are read, and judge what they say.

use std::path::Path;

use super::*;
use crate::monitoring::measure::{MEASURES_VERSION, Measure, Measures, Metric};

const RULE: &str = r#"
format_version = 1
[[rules]]
name = "one"
metric = "METRIC"
threshold = THRESHOLD
min_rows = 10
severity = "warning"
owner = "ml"
runbook = "docs/x.md"
"#;

fn rule(metric: &str, threshold: &str) -> Rule {
    let text = RULE
        .replace("METRIC", metric)
        .replace("THRESHOLD", threshold);
    let rules = Rules::parse(&text).unwrap_or_else(|problem| panic!("{problem}"));
    rules.rules[0].clone()
}

fn refusal(metric: &str, threshold: &str) -> String {
    let text = RULE
        .replace("METRIC", metric)
        .replace("THRESHOLD", threshold);
    Rules::parse(&text).expect_err("wrong")
}

fn window(metric: Metric, values: &[(&str, f64, u64)]) -> Measures {
    let measure = |&(input, value, rows): &(&str, f64, u64)| Measure {
        metric,
        input: Some(input.to_owned()),
        segment: None,
        label: None,
        value,
        rows,
    };
    Measures {
        format_version: MEASURES_VERSION,
        begin_ms: 0,
        end_ms: 3_600_000,
        measures: values.iter().map(measure).collect(),
    }
}

#[test]
fn every_rules_file_of_the_project_loads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/monitoring");
    let mut found = 0;
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let rules = Rules::load(&path).unwrap_or_else(|error| panic!("{error}"));
        assert!(!rules.rules.is_empty());
        found += 1;
    }
    assert!(found >= 2, "{found} files");
}

#[test]
fn what_is_wrong_with_rules_is_told_by_name() {
    assert!(refusal("psi", "{ above = 0.1, over = 3 }").contains("unknown field `over`"));
    assert!(refusal("psy", "{ above = 0.1 }").contains("unknown variant `psy`"));
    assert!(refusal("psi", "{ above = 0.1, below = 0.2 }").contains("exactly one of"));
    assert!(refusal("psi", "{ above = 0.1, clear = 0.2 }").contains("threshold.clear"));
    assert!(refusal("psi", "{ above = 0.1, windows = 9 }").contains("does not go with"));
    assert!(refusal("psi", "{ false_alarm = 0.1 }").contains("drift_p"));
    assert!(refusal("drift_p", "{ above = 0.1 }").contains("drift_p"));
    assert!(refusal("drift_p", "{ false_alarm = 1.5 }").contains("between 0 and 1"));
    let two = RULE
        .replace("METRIC", "psi")
        .replace("THRESHOLD", "{ above = 0.1 }");
    let rest = two.split_once("[[rules]]").expect("rules").1;
    let two = format!(
        "{two}[[rules]]{}",
        rest.replace("owner = \"ml\"", "owner = \"\"")
    );
    let problems = Rules::parse(&two).expect_err("two problems");
    assert!(
        problems.contains("two of this name") && problems.contains("an owner"),
        "{problems}"
    );
    assert!(
        Rules::parse("format_version = 2")
            .expect_err("late")
            .contains("expected 1, got 2")
    );
}

#[test]
fn fixed_thresholds_breach_and_clear_apart() {
    let rule = rule("psi", "{ above = 0.25, clear = 0.15 }");
    let window = window(
        Metric::Psi,
        &[
            ("a", 0.3, 100),
            ("b", 0.2, 100),
            ("c", 0.1, 100),
            ("d", 9.0, 9),
        ],
    );
    let found: Vec<(bool, bool)> = judge(&rule, &window, &[])
        .iter()
        .map(|judgement| (judgement.breach, judgement.clear))
        .collect();
    // The last has too few rows to be judged.
    assert_eq!(found, [(true, false), (false, false), (false, true)]);
}

#[test]
fn sigmas_are_of_windows_before_and_need_half_of_them() {
    let rule = rule("auc", "{ sigmas = 3.0, windows = 8, side = \"below\" }");
    let before: Vec<Measures> = (0..8)
        .map(|place| {
            window(
                Metric::Auc,
                &[("a", 0.75 + f64::from(place % 2) * 0.01, 100)],
            )
        })
        .collect();
    let judged = |value: f64, before: &[Measures]| {
        let found = judge(&rule, &window(Metric::Auc, &[("a", value, 100)]), before);
        found.first().map(|judgement| judgement.breach)
    };
    assert_eq!(judged(0.745, &before), Some(false));
    assert_eq!(judged(0.73, &before), Some(true));
    assert_eq!(judged(0.99, &before), Some(false), "the good side");
    assert_eq!(judged(0.73, &before[..3]), None, "too little history");
}

#[test]
fn a_false_alarm_rate_is_promised_for_all_inputs_together() {
    let rule = rule("drift_p", "{ false_alarm = 0.05, correction = \"holm\" }");
    let mut values: Vec<(String, f64, u64)> = (0..99)
        .map(|place| {
            (
                format!("input_{place}"),
                0.01 + f64::from(place) / 100.0,
                100,
            )
        })
        .collect();
    values.push(("drifted".to_owned(), 1e-6, 100));
    let values: Vec<(&str, f64, u64)> = values
        .iter()
        .map(|(name, value, rows)| (name.as_str(), *value, *rows))
        .collect();
    let found = judge(&rule, &window(Metric::DriftP, &values), &[]);
    let breaches: Vec<_> = found.iter().filter(|judgement| judgement.breach).collect();
    assert_eq!(breaches.len(), 1);
    assert_eq!(breaches[0].key.input.as_deref(), Some("drifted"));
}
