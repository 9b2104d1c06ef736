//! Definitions for others are what others read.

use std::process::Command;

use super::*;
use crate::monitoring::measure::{MEASURES_VERSION, Measure, Measures, Metric};
use crate::monitoring::rules::Rules;
use crate::monitoring::window::SegmentKey;

fn rules(name: &str) -> Rules {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/monitoring");
    Rules::load(&folder.join(name)).unwrap_or_else(|error| panic!("{error}"))
}

/// Asks `promtool`, where it is installed (Debian's `prometheus` has it).
fn promtool(arguments: &[&str], input: &str) -> bool {
    let mut folder = std::env::temp_dir();
    folder.push(format!(
        "streamrec-promtool-{}-{}",
        std::process::id(),
        arguments.len()
    ));
    std::fs::write(&folder, input).expect("written");
    let file = std::fs::File::open(&folder).expect("opened");
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(file);
    if arguments.contains(&"rules") {
        command.arg(&folder);
    }
    let output = command.output();
    let found = match output {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{said}");
            true
        }
        Err(_) => {
            println!("skipped: promtool is not installed; Debian's package prometheus has it");
            false
        }
    };
    std::fs::remove_file(&folder).expect("removed");
    found
}

#[test]
fn promtool_accepts_the_rules_of_the_project() {
    for name in ["default.toml", "streamrec.toml"] {
        let rules = rules(name);
        let file = prometheus_rules(&rules);
        let alerts = file["groups"][0]["rules"].as_array().expect("rules");
        assert_eq!(alerts.len(), rules.rules.len());
        for (alert, rule) in alerts.iter().zip(&rules.rules) {
            assert_eq!(alert["alert"], rule.name.as_str());
            assert_eq!(alert["annotations"]["runbook_url"], rule.runbook.as_str());
        }
        promtool(&["check", "rules"], &file.to_string());
    }
}

#[test]
fn hysteresis_is_an_expression_over_the_alerts_own_state() {
    let file = prometheus_rules(&rules("default.toml"));
    let expression = file["groups"][0]["rules"][0]["expr"].as_str().expect("one");
    assert_eq!(
        expression,
        "streamrec_window_missing_change{over=\"1h\",segment=\"\"} > 0.2 or \
         (streamrec_window_missing_change{over=\"1h\",segment=\"\"} > 0.1 and on (input, segment, label) \
         ALERTS{alertname=\"inputs_missing\", alertstate=\"firing\"})"
    );
}

#[test]
fn the_dashboard_has_a_panel_for_each_metric_and_no_two_overlap() {
    let dashboard = grafana_dashboard(&rules("default.toml"), "StreamRec");
    let panels = dashboard["panels"].as_array().expect("panels");
    for metric in Metric::ALL {
        assert!(
            panels.iter().any(|panel| panel["title"] == metric.name()),
            "{metric}"
        );
    }
    let place = |panel: &serde_json::Value| {
        let [x, y, w, h] =
            ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().expect("a side"));
        (x, y, w, h)
    };
    for (place_a, a) in panels.iter().enumerate() {
        for b in &panels[place_a + 1..] {
            assert_ne!(a["id"], b["id"]);
            let ((ax, ay, aw, ah), (bx, by, bw, bh)) = (place(a), place(b));
            let apart = ax + aw <= bx || bx + bw <= ax || ay + ah <= by || by + bh <= ay;
            assert!(apart, "{} on {}", a["title"], b["title"]);
        }
    }
}

#[test]
fn promtool_accepts_the_figures() {
    let measure = |segment: Option<SegmentKey>| Measure {
        metric: Metric::MissingRate,
        input: Some("odd \"name\"\\".to_owned()),
        segment,
        label: None,
        value: 0.25,
        rows: 100,
    };
    let segment = SegmentKey {
        input: "client".to_owned(),
        key: streamrec_artifact::key::from_text("ios"),
    };
    let window = Measures {
        format_version: MEASURES_VERSION,
        begin_ms: 0,
        end_ms: 1,
        measures: vec![measure(None), measure(Some(segment))],
    };
    let every = Metric::ALL.iter().map(|&metric| Measure {
        metric,
        input: None,
        segment: None,
        label: Some("click".to_owned()),
        value: 1.5,
        rows: 10,
    });
    let mut window = window;
    window.measures.extend(every);
    let text = open_metrics(&rules("streamrec.toml"), &[(1, window)], &[]);
    assert!(text.contains(
        "streamrec_window_missing_rate{input=\"odd \\\"name\\\"\\\\\",segment=\"client=ios\",over=\"1h\"} 0.25\n"
    ), "{text}");
    assert!(text.ends_with("# EOF\n"));
    promtool(&["check", "metrics"], &text.replace("# EOF\n", ""));
}
