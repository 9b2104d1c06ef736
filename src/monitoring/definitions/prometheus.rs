//! Alerting rules for Prometheus, which reads `streamrec monitor serve`'s `/metrics`.
//!
//! A fixed threshold is an expression over the figure, its hysteresis one over the alert's own state. What needs
//! windows before, or all inputs at once, is judged here and told as `streamrec_alert`.

use serde_json::{Value, json};

use super::open_metrics::{family, in_base_units};
use crate::monitoring::rules::{Rule, Rules, Threshold};

/// A rule file. JSON is YAML, and needs no writer of its own.
pub fn prometheus_rules(rules: &Rules) -> Value {
    let alert = |rule: &Rule| {
        let (expression, lasting) = match rule.threshold {
            Threshold::Fixed {
                above,
                value,
                clear,
            } => (fixed(rule, above, value, clear), rule.for_ms),
            // It has waited already.
            _ => (format!("streamrec_alert{{rule=\"{}\"}} == 1", rule.name), 0),
        };
        json!({
            "alert": rule.name,
            "expr": expression,
            "for": format!("{}s", lasting / 1000),
            "labels": {
                "severity": format!("{:?}", rule.severity).to_lowercase(),
                "owner": rule.owner,
                "pillar": rule.metric.pillar(),
            },
            "annotations": {
                "summary": format!(
                    "{} of {{{{ $labels.input }}}} {{{{ $labels.label }}}} {{{{ $labels.segment }}}} is {{{{ $value }}}}",
                    rule.metric
                ),
                "description": rule.metric.says(),
                "runbook_url": rule.runbook,
            },
        })
    };
    let alerts: Vec<Value> = rules.rules.iter().map(alert).collect();
    json!({ "groups": [{ "name": "streamrec", "rules": alerts }] })
}

fn fixed(rule: &Rule, above: bool, value: f64, clear: f64) -> String {
    let selector = selector(rule);
    let [value, clear] = [value, clear].map(|value| in_base_units(rule.metric, value));
    let sign = if above { ">" } else { "<" };
    let breach = format!("{selector} {sign} {value}");
    if clear == value {
        return breach;
    }
    format!(
        "{breach} or ({selector} {sign} {clear} and on (input, segment, label) \
         ALERTS{{alertname=\"{}\", alertstate=\"firing\"}})",
        rule.name
    )
}

/// The figures that a rule judges.
pub(super) fn selector(rule: &Rule) -> String {
    let mut matchers = vec![format!("over=\"{}h\"", rule.over_h)];
    let regex = |names: &[String]| -> String {
        let quoted = names
            .iter()
            .map(|name| regex::escape(name).replace('\\', "\\\\"));
        quoted.collect::<Vec<_>>().join("|")
    };
    if !rule.inputs.is_empty() {
        matchers.push(format!("input=~\"{}\"", regex(&rule.inputs)));
    }
    if let Some(label) = &rule.label {
        matchers.push(format!("label=\"{label}\""));
    }
    matchers.push(match &rule.segment {
        None => "segment=\"\"".to_owned(),
        Some(input) => format!("segment=~\"{}=.*\"", regex(std::slice::from_ref(input))),
    });
    format!("{}{{{}}}", family(rule.metric), matchers.join(","))
}
