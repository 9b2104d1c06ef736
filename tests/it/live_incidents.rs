//! Incidents that only live traffic shows, replayed end to end on generated data: tables of predictions and labels
//! in, alerts, incidents, posts, triggers and a post-mortem out. `docs/guides/incidents.md` holds what was said.

use std::fs;

use serde_json::Value;
use streamrec::monitoring::rules::{JudgedHour, Pass, RuleBook};
use streamrec::monitoring::{Hour, Store};

use crate::dashboard::{dashboard_of, get};
use crate::live_traffic::{Incident, Traffic};
use crate::monitoring::monitor;
use crate::webhook_receiver::receiver;
use crate::workbench::{expect_success, said, streamrec};

const RULES: &str = include_str!("live_incidents.toml");

#[test]
fn incidents_of_live_traffic_are_caught_told_once_and_end() {
    let traffic = Traffic::new();
    let (url, received) = receiver();
    let rules = RULES.replace("URL", &url);
    let story = [
        (0..3, Incident::None),
        (3..5, Incident::NullDurations),
        (5..7, Incident::None),
        (7..10, Incident::UtcHours),
        (10..12, Incident::None),
        (12..15, Incident::CompletionMismatch),
        (15..16, Incident::None),
        (16..17, Incident::Outage),
        (17..18, Incident::None),
    ];
    for (hours, incident) in story {
        for hour in hours {
            traffic.hour(hour, 2500, incident);
            if hour == 2 {
                let said = traffic.watch(&rules, 3);
                assert_eq!(
                    said.trim(),
                    "3 hours judged, 2 by their labels; 0 alerts fire",
                    "{said}"
                );
            }
        }
    }
    let said = traffic.watch(&rules, 18);
    println!("{said}");
    for line in [
        "missing_for_a_client: firing: missing_change of item_duration_s where platform = ios",
        "missing_for_a_client: resolved",
        "not_by_chance: firing: drift_p of local_hour",
        "skew: firing: psi of user_clicks",
        "errors: firing: error_rate is 0.",
        "saturated: firing: queue_share",
        "15 hours judged, 15 by their labels; 0 alerts fire",
    ] {
        assert!(said.contains(line), "no {line:?} in\n{said}");
    }
    assert!(
        !said.contains("missing_over_all"),
        "the whole hides it:\n{said}"
    );
    let triggers = traffic.files("triggers");
    assert_eq!(triggers.len(), 2, "one for each episode: {triggers:?}");
    assert!(traffic.files("outbox").is_empty(), "all was delivered");
    let posts: Vec<Value> = received.try_iter().collect();
    let count = |status: &str| posts.iter().filter(|post| post["status"] == status).count();
    assert!(count("firing") >= 4 && count("resolved") >= 4, "{posts:?}");
    assert!(
        posts
            .iter()
            .all(|post| post["commonLabels"]["severity"] == "critical")
    );
    let again = traffic.watch(&rules, 18);
    assert_eq!(
        again.trim(),
        "nothing to judge: every hour that is over was judged before; 0 alerts fire"
    );
    what_was_judged_stays_to_be_seen(&traffic);
    people_close_what_is_over(&traffic);
    the_same_tables_give_the_same_incidents(&traffic, &rules);
}

/// What the monitor measured stands behind the dashboard's own figures, as one text of OpenMetrics.
fn metrics_tell_what_was_judged(traffic: &Traffic) {
    let (_running, address) = dashboard_of(&traffic.bench.path("live"), &traffic.artifact);
    let (status, _, text) = get(&address, "/metrics");
    assert_eq!(status, 200);
    assert!(
        text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1,
        "{text}"
    );
    let families: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let different: std::collections::BTreeSet<&&str> = families.iter().collect();
    assert_eq!(
        different.len(),
        families.len(),
        "each family stands once: {families:?}"
    );
    let value = |sample: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(sample));
        let line = line.unwrap_or_else(|| panic!("no {sample} in\n{text}"));
        let value = line[sample.len()..].rsplit(' ').next().expect("a value");
        value.parse().expect("a number")
    };
    assert_eq!(
        value("streamrec_alert{input=\"item_id\",rule=\"few_items\"}"),
        1.0
    );
    assert_eq!(
        value("streamrec_alert{segment=\"platform=ios\",rule=\"a_client_vanished\"}"),
        1.0
    );
    assert!(value("streamrec_window_psi{input=\"user_clicks\",over=\"1h\"}") < 0.25);
    assert_eq!(
        value("streamrec_window_exposure_share{segment=\"platform=ios\",over=\"1h\"}"),
        0.0
    );
    assert!(value("streamrec_monitoring_window_seconds") > 0.0);
}

fn people_close_what_is_over(traffic: &Traffic) {
    let dir = traffic.bench.path("live");
    let incidents = |arguments: &[&str]| {
        let command = [&["monitor", "incidents"], arguments, &["--dir", &dir]].concat();
        streamrec(&command)
    };
    let listed = incidents(&["list"]);
    expect_success(&listed);
    let listed = said(&listed);
    let id = listed
        .lines()
        .find_map(|line| {
            line.split_once(" resolved critical")
                .map(|(id, _)| id.to_owned())
        })
        .expect("a resolved incident");
    expect_success(&incidents(&[
        "ack",
        &id,
        "--by",
        "Ana",
        "--note",
        "asked the app's team",
    ]));
    expect_success(&incidents(&["close", &id, "--by", "Ana"]));
    assert_eq!(
        incidents(&["close", &id, "--by", "Ana"]).status.code(),
        Some(2)
    );
    assert_eq!(
        incidents(&["ack", "none", "--by", "Ana"]).status.code(),
        Some(2)
    );
    assert!(!said(&incidents(&["list"])).contains(&id));
    assert!(said(&incidents(&["list", "--all"])).contains(&id));
    let report = incidents(&["postmortem", &id]);
    expect_success(&report);
    let report = said(&report);
    println!("{report}");
    for part in [
        "# Post-mortem: ",
        "asked the app's team",
        "## Timeline (UTC)",
        "## Actions",
        "| Ana |",
    ] {
        assert!(report.contains(part), "no {part:?} in\n{report}");
    }
}

/// Of each hour, the bounds of a rule's figures and whether it fired.
fn judgements(traffic: &Traffic) -> Vec<(bool, Vec<[Option<f64>; 2]>)> {
    let store = Store::new(traffic.bench.path("live").as_ref());
    let hours = JudgedHour::hours(&store, Pass::Live).expect("listed");
    let of_hour = |hour: &Hour| {
        let judged = JudgedHour::read(&store, Pass::Live, *hour, |name| {
            name == "missing_for_a_client"
        });
        let rule = &judged.expect("read").rules["missing_for_a_client"];
        let bounds = rule.judgements.iter().map(|judgement| judgement.bounds);
        (!rule.firing.is_empty(), bounds.collect())
    };
    hours.iter().map(of_hour).collect()
}

fn what_was_judged_stays_to_be_seen(traffic: &Traffic) {
    let judged = judgements(traffic);
    let fired: Vec<usize> = (0..judged.len()).filter(|&hour| judged[hour].0).collect();
    assert_eq!(
        (judged.len(), fired),
        (18, vec![3, 4]),
        "while durations were null"
    );
    for (_, bounds) in &judged {
        assert!(bounds.len() > 4, "of each platform and input: {bounds:?}");
        assert!(bounds.iter().all(|bounds| *bounds == [None, Some(0.3)]));
    }
    let store = Store::new(traffic.bench.path("live").as_ref());
    let book = RuleBook::read(&store).expect("read").expect("a book");
    assert_eq!(book.rules.len(), 6);
    let text = fs::read_to_string(traffic.bench.path("live/rules.json")).expect("a book");
    assert!(
        !text.contains("http://"),
        "where alerts are posted is not told: {text}"
    );
}

fn the_same_tables_give_the_same_incidents(traffic: &Traffic, rules: &str) {
    let ids = traffic.files("incidents");
    let judgements = judgements(traffic);
    for folder in ["incidents", "triggers", "windows", "measures", "judgements"] {
        fs::remove_dir_all(traffic.bench.path(&format!("live/{folder}"))).expect("removed");
    }
    fs::remove_file(traffic.bench.path("live/watch.json")).expect("removed");
    for hours in 1..=18 {
        traffic.watch(rules, hours);
    }
    assert_eq!(traffic.files("incidents"), ids, "hour by hour as at once");
    assert_eq!(self::judgements(traffic), judgements);
}

#[test]
fn dates_ahead_longer_windows_a_new_event_and_a_narrow_list_are_seen_live() {
    let traffic = Traffic::new();
    let story = [
        (0..24, Incident::None),
        (24..26, Incident::PublishedAhead),
        (26..27, Incident::None),
        (27..29, Incident::NinetyDays),
        (29..30, Incident::None),
        (30..36, Incident::Bookmarks),
        (36..39, Incident::None),
        (39..41, Incident::Narrow),
    ];
    for (hours, incident) in story {
        hours.for_each(|hour| traffic.hour(hour, 2500, incident));
    }
    let rules = include_str!("live_incidents_book.toml");
    let before = traffic.watch(rules, 30);
    what_nothing_needs_goes(&traffic);
    let said = before + &traffic.watch(rules, 41);
    println!("{said}");
    for line in [
        "published_ahead: firing: ahead_rate of event_time is 0.0",
        "impossible_ages: firing: out_of_range_rate of item_age_days is 0.0",
        "window_changed: firing: psi of item_age_days",
        "clicks_fell: firing: label_rate of click",
        "few_items: firing: coverage of item_id is 0.1",
        "a_client_vanished: firing: exposure_share where platform = ios is 0.0000",
        "2 alerts fire",
    ] {
        assert!(said.contains(line), "no {line:?} in\n{said}");
    }
    let incidents = traffic.files("incidents");
    assert_eq!(incidents.len(), 6, "each is told once: {incidents:?}");
    metrics_tell_what_was_judged(&traffic);
}

/// Half an hour after hour 30: rows that were judged, and windows that no rule looks back to. `clicks_fell` compares
/// with eight windows of three hours, so it would never fire without them.
fn what_nothing_needs_goes(traffic: &Traffic) {
    let dir = traffic.bench.path("live");
    let prune = |more: &[&str]| {
        let ages = [
            "prune",
            "--dir",
            &dir,
            "--rows",
            "4h",
            "--windows",
            "4h",
            "--now",
            "2027-03-15T16:30:00Z",
        ];
        monitor(&[&ages, more].concat())
    };
    let would = prune(&["--dry-run"]);
    assert_eq!(prune(&[]), would);
    let counts = [
        "predicted_hours",
        "labelled_hours",
        "unjudged_hours",
        "compared_windows",
    ];
    assert_eq!(
        counts.map(|count| would[count].as_u64().expect("a count")),
        [26, 26, 0, 24]
    );
    assert_eq!(traffic.files("predictions").len(), 41 - 26);
    assert_eq!(traffic.files("windows").len(), 30 - 2);
    assert_eq!(traffic.files("judgements/live").len(), 30 - 2);
    assert_eq!(prune(&[])["bytes"], 0, "nothing is left to go");
}

#[test]
fn a_slow_decline_is_seen_by_labels_and_by_detectors_and_not_by_estimates() {
    let traffic = Traffic::new();
    let rules = r#"
format_version = 1
[windows]
label_delay = "2h"
[[rules]]
name = "below_the_frozen_level"
metric = "auc"
over = "3h"
threshold = { below = 0.70, clear = 0.72 }
for = "2h"
severity = "critical"
owner = "ml"
runbook = "docs/guides/incidents.md"
retrain = true
[[rules]]
name = "concept_drifted"
metric = "adwin_alarms"
threshold = { above = 0.0 }
min_rows = 100
severity = "warning"
owner = "ml"
runbook = "docs/guides/incidents.md"
retrain = true
[[rules]]
name = "estimated_auc_fell"
metric = "estimated_auc"
threshold = { below = 0.70 }
severity = "warning"
owner = "ml"
runbook = "docs/guides/incidents.md"
"#;
    for hour in 0..24u64 {
        let left = 1.0 - (hour as f64 - 5.0).max(0.0) / 18.0;
        traffic.hour(hour, 1500, Incident::Decline(left));
    }
    let said = traffic.watch(rules, 24);
    println!("{said}");
    assert!(
        said.contains("below_the_frozen_level: firing: auc of click is 0.6"),
        "{said}"
    );
    assert!(
        said.contains("concept_drifted: firing: adwin_alarms of click"),
        "{said}"
    );
    assert!(
        !said.contains("estimated_auc_fell"),
        "scores look as well as ever:\n{said}"
    );
    let triggers = traffic.files("triggers");
    let own = |rule: &str| {
        triggers
            .iter()
            .filter(|name| name.ends_with(&format!("-{rule}.json")))
            .count()
    };
    assert_eq!(own("below_the_frozen_level"), 1, "{triggers:?}");
    let name = triggers
        .iter()
        .find(|name| name.contains("below"))
        .expect("one");
    let text = fs::read(traffic.bench.path(&format!("live/triggers/{name}"))).expect("a trigger");
    let trigger: Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(trigger["cause"], "performance");
    assert!(
        trigger["evidence"][0]["judgement"]["value"]
            .as_f64()
            .expect("a figure")
            < 0.70
    );
}
