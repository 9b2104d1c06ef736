//! What is posted: the webhook of Alertmanager, version 4
//! (<https://prometheus.io/docs/alerting/latest/configuration/#webhook_config>).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use streamrec_artifact::key;

use super::{Alert, rfc3339};
use crate::monitoring::rules::{Rule, Rules};

/// A group of alerts of one rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Notification {
    /// Of the form: "4".
    pub version: String,
    /// The same for each post of the group.
    pub group_key: String,
    /// Alerts that were left out: none.
    pub truncated_alerts: u64,
    /// `firing` while one of them does, else `resolved`.
    pub status: String,
    /// The webhook's name.
    pub receiver: String,
    /// What the group shares by definition.
    pub group_labels: BTreeMap<String, String>,
    /// Labels that all alerts share.
    pub common_labels: BTreeMap<String, String>,
    /// Annotations that all alerts share.
    pub common_annotations: BTreeMap<String, String>,
    /// The dashboard.
    #[serde(rename = "externalURL")]
    pub external_url: String,
    /// The alerts.
    pub alerts: Vec<NotifiedAlert>,
}

/// One alert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NotifiedAlert {
    /// `firing` or `resolved`.
    pub status: String,
    /// What it is.
    pub labels: BTreeMap<String, String>,
    /// What it says.
    pub annotations: BTreeMap<String, String>,
    /// When it began to fire.
    pub starts_at: String,
    /// When it ended; year 1 while it fires.
    pub ends_at: String,
    /// Where to look.
    #[serde(rename = "generatorURL")]
    pub generator_url: String,
    /// The same for each post of the alert.
    pub fingerprint: String,
}

const NEVER: &str = "0001-01-01T00:00:00Z";

impl Notification {
    /// The post about a rule: alerts that fire, and those that ended at `end_ms`.
    pub fn new(
        rules: &Rules,
        rule: &Rule,
        receiver: &str,
        firing: &[Alert],
        resolved: &[Alert],
        end_ms: i64,
    ) -> Self {
        let told =
            |alert: &Alert, ended: bool| notified(rules, rule, alert, ended.then_some(end_ms));
        let alerts: Vec<NotifiedAlert> = firing
            .iter()
            .map(|alert| told(alert, false))
            .chain(resolved.iter().map(|alert| told(alert, true)))
            .collect();
        let shared = |of: fn(&NotifiedAlert) -> &BTreeMap<String, String>| {
            let mut shared = alerts.first().map(of).cloned().unwrap_or_default();
            shared.retain(|name, value| {
                alerts
                    .iter()
                    .all(|alert| of(alert).get(name) == Some(value))
            });
            shared
        };
        let status = if firing.is_empty() {
            "resolved"
        } else {
            "firing"
        };
        Self {
            version: "4".into(),
            group_key: format!("{{}}:{{alertname=\"{}\"}}", rule.name),
            truncated_alerts: 0,
            status: status.into(),
            receiver: receiver.to_owned(),
            group_labels: [("alertname".to_owned(), rule.name.clone())].into(),
            common_labels: shared(|alert| &alert.labels),
            common_annotations: shared(|alert| &alert.annotations),
            external_url: rules.external_url.clone(),
            alerts,
        }
    }
}

/// What an alert is about, as labels.
pub(super) fn labels(rules: &Rules, rule: &Rule, alert: &Alert) -> BTreeMap<String, String> {
    let key = &alert.judgement.key;
    let severity = format!("{:?}", rule.severity).to_lowercase();
    let mut labels: BTreeMap<String, String> = [
        ("alertname", rule.name.clone()),
        ("metric", rule.metric.name().to_owned()),
        ("severity", severity),
        ("owner", rule.owner.clone()),
        ("over", format!("{}h", rule.over_h)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    labels.extend(key.input.clone().map(|input| ("input".to_owned(), input)));
    labels.extend(key.label.clone().map(|label| ("label".to_owned(), label)));
    if let Some(segment) = &key.segment {
        let value = format!("{}={}", segment.input, rules.name_of(segment));
        labels.insert("segment".to_owned(), value);
    }
    labels
}

/// One line for people.
pub(super) fn summary(rules: &Rules, rule: &Rule, alert: &Alert) -> String {
    let key = &alert.judgement.key;
    let of = key.input.iter().map(|input| format!(" of {input}"));
    let label = key.label.iter().map(|label| format!(" of {label}"));
    let segment = key.segment.iter();
    let segment =
        segment.map(|segment| format!(" where {} = {}", segment.input, rules.name_of(segment)));
    let about: String = of.chain(label).chain(segment).collect();
    let figure = |value: f64| {
        if value != 0.0 && value.abs() < 1e-3 {
            format!("{value:.2e}")
        } else {
            format!("{value:.4}")
        }
    };
    let limit = match alert.judgement.bounds {
        [Some(low), Some(high)] => format!("expected {} to {}", figure(low), figure(high)),
        [None, Some(high)] => format!("expected at most {}", figure(high)),
        [Some(low), None] => format!("expected at least {}", figure(low)),
        [None, None] => String::new(),
    };
    let (value, rows) = (figure(alert.judgement.value), alert.judgement.rows);
    format!("{}{about} is {value}, {limit} ({rows} rows)", rule.metric)
}

/// Where the dashboard draws the rule's measure.
fn chart_of(rules: &Rules, rule: &Rule) -> String {
    match rules.external_url.trim_end_matches('/') {
        "" => String::new(),
        root => format!("{root}/rules/{}", rule.name),
    }
}

fn notified(rules: &Rules, rule: &Rule, alert: &Alert, ended_ms: Option<i64>) -> NotifiedAlert {
    let labels = labels(rules, rule, alert);
    let annotations = [
        ("summary", summary(rules, rule, alert)),
        ("description", rule.metric.says().to_owned()),
        ("runbook_url", rule.runbook.clone()),
        ("value", alert.judgement.value.to_string()),
    ];
    let told: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}={value:?}"))
        .collect();
    NotifiedAlert {
        status: if ended_ms.is_some() {
            "resolved"
        } else {
            "firing"
        }
        .into(),
        fingerprint: format!("{:016x}", key::from_text(&told.join(","))),
        labels,
        annotations: annotations
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
        starts_at: rfc3339(alert.fired_ms.unwrap_or(alert.since_ms)),
        ends_at: ended_ms.map_or_else(|| NEVER.to_owned(), rfc3339),
        generator_url: chart_of(rules, rule),
    }
}
