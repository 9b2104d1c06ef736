//! Alerts wait, fire once, and end once; posts arrive, whatever the receiver does.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;

use serde_json::Value;

use super::*;
use crate::monitoring::rules::{AlertKey, Judgement, Rule, Rules, Webhook};

const HOUR_MS: i64 = 3_600_000;

fn rules() -> Rules {
    Rules::parse(
        r#"
format_version = 1
external_url = "http://dashboard.example"
[[rules]]
name = "missing"
metric = "missing_rate"
threshold = { above = 0.3, clear = 0.2 }
for = "2h"
severity = "critical"
owner = "data"
runbook = "https://runbooks.example/missing"
retrain = true
"#,
    )
    .unwrap_or_else(|problem| panic!("{problem}"))
}

fn judged(value: f64) -> Vec<Judgement> {
    vec![Judgement {
        key: AlertKey {
            input: Some("duration".into()),
            segment: None,
            label: None,
        },
        value,
        rows: 5000,
        bounds: [None, Some(0.3)],
        breach: value > 0.3,
        clear: value <= 0.2,
    }]
}

/// What the alert does with each value, an hour each; `None` is a window that could not be judged.
fn replay(rule: &Rule, values: &[Option<f64>]) -> Vec<(usize, &'static str)> {
    let mut alerts = Vec::new();
    let mut found = Vec::new();
    for (hour, value) in values.iter().enumerate() {
        let judgements = value.map(judged).unwrap_or_default();
        let end_ms = (hour as i64 + 1) * HOUR_MS;
        for transition in step(rule, &judgements, end_ms, &mut alerts) {
            found.push((
                hour,
                match transition {
                    Transition::Fired(_) => "fired",
                    Transition::Resolved(_) => "resolved",
                },
            ));
        }
    }
    found
}

#[test]
fn an_alert_waits_fires_once_and_ends_below_its_clear_threshold() {
    let rules = rules();
    let rule = &rules.rules[0];
    let of = |values: &[f64]| {
        let values: Vec<Option<f64>> = values.iter().copied().map(Some).collect();
        replay(rule, &values)
    };
    assert_eq!(of(&[0.1, 0.5, 0.5, 0.1]), [], "not for long enough");
    assert_eq!(of(&[0.5, 0.5, 0.5, 0.5]), [(2, "fired")]);
    assert_eq!(
        of(&[0.5, 0.5, 0.5, 0.25, 0.35, 0.25, 0.15]),
        [(2, "fired"), (6, "resolved")],
        "between the thresholds it goes on"
    );
    let gap = [Some(0.5), Some(0.5), Some(0.5), None, None, Some(0.1)];
    assert_eq!(replay(rule, &gap), [(2, "fired"), (5, "resolved")]);
    let unknown = [Some(0.5), None, Some(0.5), Some(0.5)];
    assert_eq!(
        replay(rule, &unknown),
        [],
        "what is not known is not lasting"
    );
}

fn fired() -> (Rules, Vec<Alert>, Vec<Transition>) {
    let rules = rules();
    let mut alerts = Vec::new();
    let mut transitions = Vec::new();
    for hour in 1..=3 {
        transitions = step(&rules.rules[0], &judged(0.68), hour * HOUR_MS, &mut alerts);
    }
    (rules, alerts, transitions)
}

#[test]
fn an_incident_tells_its_story_and_leaves_its_trigger() {
    let folder = tempfile::tempdir().expect("a folder");
    let incidents = Incidents::new(folder.path());
    let (rules, alerts, transitions) = fired();
    let rule = &rules.rules[0];
    let take = |transitions: &[Transition], firing: &[Alert], end_ms| {
        let taken = incidents.take(&rules, rule, transitions, firing, end_ms);
        taken.expect("written").expect("an incident")
    };
    let incident = take(&transitions, &alerts, 3 * HOUR_MS);
    assert_eq!(incident.id, "19700101T03-missing");
    assert_eq!(incident.status(), IncidentStatus::Open);
    let again = take(&transitions, &alerts, 3 * HOUR_MS);
    assert_eq!(again, incident, "a run that was killed changes nothing");
    let own = (&rules, rule);
    Trigger::leave(
        folder.path(),
        ["m", "v"],
        own,
        &incident,
        &alerts,
        3 * HOUR_MS,
    )
    .expect("written");
    let text = std::fs::read(folder.path().join("triggers/19700101T03-missing.json")).expect("it");
    let trigger: Trigger = serde_json::from_slice(&text).expect("a trigger");
    assert_eq!(trigger.cause, Cause::DataDrift);
    assert_eq!(trigger.evidence[0].judgement.value, 0.68);
    let over = [Transition::Resolved(alerts[0].clone())];
    let resolved = take(&over, &[], 5 * HOUR_MS);
    assert_eq!(resolved.status(), IncidentStatus::Resolved);
    let text = postmortem(&resolved);
    for part in [
        "19700101T03-missing",
        "2 h 0 min",
        "missing_rate of duration is 0.6800",
        "| Owner | data |",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert!(incidents.read("../watch").is_err());
    let next = take(&transitions, &alerts, 9 * HOUR_MS);
    assert_ne!(next.id, resolved.id, "another episode is another incident");
}

/// Answers each post with the next of `answers`, and gives what came.
fn receiver(answers: Vec<u16>) -> (String, mpsc::Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    let (sender, received) = mpsc::channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("a caller");
            let mut bytes = Vec::new();
            let mut part = [0; 4096];
            let body = loop {
                let count = stream.read(&mut part).expect("bytes");
                bytes.extend_from_slice(&part[..count]);
                let text = String::from_utf8_lossy(&bytes);
                let Some((head, body)) = text.split_once("\r\n\r\n") else {
                    continue;
                };
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length")
                        .then(|| value.trim().parse::<usize>())
                });
                if length.is_some_and(|length| length.is_ok_and(|length| body.len() >= length)) {
                    break body.to_owned();
                }
            };
            let head =
                format!("HTTP/1.1 {answer} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).expect("answered");
            if answer < 300 {
                sender
                    .send(serde_json::from_str(&body).expect("JSON"))
                    .expect("someone asks");
            }
        }
    });
    (url, received)
}

fn webhook(url: &str) -> Vec<Webhook> {
    vec![Webhook {
        name: "on call".into(),
        url: url.to_owned(),
        least: crate::monitoring::rules::Severity::Info,
        bearer_token_file: None,
    }]
}

#[test]
fn posts_are_retried_in_order_and_never_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let outbox = Outbox::new(folder.path());
    let (rules, alerts, _) = fired();
    let rule = &rules.rules[0];
    let post = |firing: &[Alert], resolved: &[Alert], end_ms| {
        let post = Notification::new(&rules, rule, "on call", firing, resolved, end_ms);
        outbox
            .put(end_ms, &rule.name, "on call", &post)
            .expect("put in");
    };
    post(&alerts, &[], 3 * HOUR_MS);
    post(&[], &alerts, 5 * HOUR_MS);
    // Nobody listens on port 1.
    let away = outbox
        .deliver(&webhook("http://127.0.0.1:1/hook"))
        .expect("tried");
    assert_eq!((away.delivered, away.waiting), (0, 2));
    assert!(
        away.problems[0].contains("no answer from"),
        "{:?}",
        away.problems
    );
    let (url, received) = receiver(vec![503, 200, 200]);
    let there = outbox.deliver(&webhook(&url)).expect("tried");
    assert_eq!((there.delivered, there.waiting), (2, 0));
    let [first, second] = [received.recv().expect("one"), received.recv().expect("two")];
    assert_eq!(
        [&first["status"], &second["status"]],
        ["firing", "resolved"]
    );
    assert_eq!(first["version"], "4");
    assert_eq!(first["groupKey"], "{}:{alertname=\"missing\"}");
    assert_eq!(first["truncatedAlerts"], 0);
    assert_eq!(first["receiver"], "on call");
    assert_eq!(first["externalURL"], "http://dashboard.example");
    assert_eq!(first["commonLabels"]["severity"], "critical");
    let alert = &first["alerts"][0];
    assert_eq!(alert["startsAt"], "1970-01-01T03:00:00Z");
    assert_eq!(alert["endsAt"], "0001-01-01T00:00:00Z");
    assert_eq!(second["alerts"][0]["endsAt"], "1970-01-01T05:00:00Z");
    assert_eq!(alert["fingerprint"], second["alerts"][0]["fingerprint"]);
    assert_eq!(
        alert["annotations"]["runbook_url"],
        "https://runbooks.example/missing"
    );
    let empty = outbox.deliver(&webhook(&url)).expect("nothing in");
    assert_eq!(empty, Delivery::default());
}
