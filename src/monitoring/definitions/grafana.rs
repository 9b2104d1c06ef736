//! A dashboard for Grafana: a row a pillar, a panel a metric, thresholds as the rules have them.

use serde_json::{Value, json};

use super::open_metrics::{family, in_base_units};
use super::prometheus::selector;
use crate::monitoring::measure::{Metric, Pillar};
use crate::monitoring::rules::{Rule, Rules, Severity, Threshold};

const PILLARS: [(Pillar, &str); 4] = [
    (Pillar::DataQuality, "Data quality"),
    (Pillar::Model, "Model"),
    (Pillar::System, "System"),
    (Pillar::Business, "Business"),
];

/// The dashboard's model, to be imported; it asks for its Prometheus data source.
pub fn grafana_dashboard(rules: &Rules, title: &str) -> Value {
    let mut panels = Vec::new();
    let (mut id, mut y) = (1, 0);
    for (pillar, name) in PILLARS {
        panels.push(json!({
            "id": id, "type": "row", "title": name, "collapsed": false, "panels": [],
            "gridPos": { "h": 1, "w": 24, "x": 0, "y": y },
        }));
        (id, y) = (id + 1, y + 1);
        let metrics = Metric::ALL
            .iter()
            .filter(|metric| metric.pillar() == pillar);
        let mut count = 0;
        for &metric in metrics {
            let x = (count % 3) * 8;
            let mut panel = panel(rules, metric);
            panel["id"] = json!(id);
            panel["gridPos"] = json!({ "h": 7, "w": 8, "x": x, "y": y + (count / 3) * 7 });
            panels.push(panel);
            (id, count) = (id + 1, count + 1);
        }
        y += (count + 2) / 3 * 7;
    }
    json!({
        "__inputs": [{
            "name": "DS_PROMETHEUS", "label": "Prometheus", "type": "datasource",
            "pluginId": "prometheus", "pluginName": "Prometheus",
        }],
        "uid": "streamrec-monitoring",
        "title": title,
        "tags": ["streamrec"],
        "timezone": "utc",
        "schemaVersion": 39,
        "version": 1,
        "refresh": "1m",
        "time": { "from": "now-7d", "to": "now" },
        "annotations": { "list": [{
            "name": "Alerts", "enable": true, "iconColor": "red",
            "datasource": source(),
            "expr": "ALERTS{alertstate=\"firing\", alertname=~\".+\"}",
        }] },
        "templating": { "list": [] },
        "panels": panels,
    })
}

fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${DS_PROMETHEUS}" })
}

fn panel(rules: &Rules, metric: Metric) -> Value {
    let own: Vec<&Rule> = rules
        .rules
        .iter()
        .filter(|rule| rule.metric == metric)
        .collect();
    let mut expressions: Vec<String> = own.iter().map(|rule| selector(rule)).collect();
    expressions.sort_unstable();
    expressions.dedup();
    if expressions.is_empty() {
        expressions.push(format!("{}{{over=\"1h\",segment=\"\"}}", family(metric)));
    }
    let targets: Vec<Value> = expressions
        .iter()
        .zip('A'..='Z')
        .map(|(expression, name)| {
            json!({
                "refId": name.to_string(), "expr": expression, "datasource": source(),
                "legendFormat": "{{input}} {{label}} {{segment}}",
            })
        })
        .collect();
    let mut steps = vec![json!({ "color": "green", "value": null })];
    for rule in &own {
        if let Threshold::Fixed {
            above: true, value, ..
        } = rule.threshold
        {
            let color = if rule.severity == Severity::Critical {
                "red"
            } else {
                "orange"
            };
            steps.push(json!({ "color": color, "value": in_base_units(metric, value) }));
        }
    }
    let owners: Vec<String> = own
        .iter()
        .map(|rule| format!("{}: {}, {}", rule.name, rule.owner, rule.runbook))
        .collect();
    let description: Vec<String> = [metric.says().to_owned()]
        .into_iter()
        .chain(owners)
        .collect();
    json!({
        "type": "timeseries",
        "title": metric.name(),
        "description": description.join("\n"),
        "datasource": source(),
        "targets": targets,
        "fieldConfig": {
            "defaults": {
                "thresholds": { "mode": "absolute", "steps": steps },
                "custom": { "thresholdsStyle": { "mode": "line" } },
            },
            "overrides": [],
        },
        "options": { "legend": { "displayMode": "list", "placement": "bottom" } },
    })
}
