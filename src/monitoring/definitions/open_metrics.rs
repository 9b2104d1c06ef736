//! Figures and alerts as a scrape: OpenMetrics text
//! (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).

use std::fmt::Write;

use crate::monitoring::alert::{Alert, Phase};
use crate::monitoring::measure::{Measures, Metric};
use crate::monitoring::rules::{AlertKey, Rules};

/// The family of a metric, in Prometheus's base units.
pub(super) fn family(metric: Metric) -> String {
    let name = metric.name();
    let name = match (name.strip_suffix("_ms"), name.strip_suffix("_s")) {
        (Some(stem), _) => format!("{stem}_seconds"),
        (None, Some("requests_per")) => "requests_per_second".to_owned(),
        (None, Some(stem)) => format!("{stem}_seconds"),
        (None, None) => name.to_owned(),
    };
    format!("streamrec_window_{name}")
}

/// A figure of a metric in those units.
pub(super) fn in_base_units(metric: Metric, value: f64) -> f64 {
    if metric.name().ends_with("_ms") {
        value / 1000.0
    } else {
        value
    }
}

/// The newest figures of each length of window, in hours, and the alerts.
pub fn open_metrics(rules: &Rules, windows: &[(usize, Measures)], alerts: &[Alert]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    for &metric in Metric::ALL {
        let mut lines = String::new();
        for (over, window) in windows {
            let own = window
                .measures
                .iter()
                .filter(|measure| measure.metric == metric);
            for measure in own {
                let key = AlertKey {
                    input: measure.input.clone(),
                    segment: measure.segment.clone(),
                    label: measure.label.clone(),
                };
                let labels = labels(rules, &key, &[("over", &format!("{over}h"))]);
                let _ = writeln!(
                    lines,
                    "{}{labels} {}",
                    family(metric),
                    in_base_units(metric, measure.value)
                );
            }
        }
        if !lines.is_empty() {
            let family = family(metric);
            let _ = writeln!(
                text,
                "# TYPE {family} gauge\n# HELP {family} {}.",
                metric.says()
            );
            text.push_str(&lines);
        }
    }
    let family = "streamrec_alert";
    let _ = writeln!(
        text,
        "# TYPE {family} gauge\n# HELP {family} 1 where an alert fires, 0 where it is pending."
    );
    for alert in alerts {
        let labels = labels(rules, &alert.judgement.key, &[("rule", &alert.rule)]);
        let value = u8::from(alert.phase == Phase::Firing);
        let _ = writeln!(text, "{family}{labels} {value}");
    }
    text.push_str("# EOF\n");
    text
}

fn labels(rules: &Rules, key: &AlertKey, further: &[(&str, &str)]) -> String {
    let segment = key.segment.as_ref();
    let segment = segment.map(|segment| format!("{}={}", segment.input, rules.name_of(segment)));
    let own = [
        ("input", key.input.as_deref()),
        ("segment", segment.as_deref()),
        ("label", key.label.as_deref()),
    ];
    let own = own
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    let told: Vec<String> = own
        .chain(further.iter().copied())
        .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
        .collect();
    format!("{{{}}}", told.join(","))
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
