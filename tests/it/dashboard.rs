//! The dashboard: a real program, real tables, a real browser.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;

use crate::browser::Browser;
use crate::monitoring::with_log;
use crate::workbench::{Running, Workbench, command, expect_success, streamrec};

/// Tables, labels and an incident, and the dashboard of them.
fn started() -> (Workbench, Running, String) {
    let bench = with_log(40, 25);
    let (log, out) = (bench.path("log"), bench.path("out"));
    expect_success(&streamrec(&[
        "monitor", "compact", "--log", &log, "--out", &out,
    ]));
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis();
    let mut labels = "request_id,row,label,label_time_ms,value\n".to_owned();
    for request in 0..40 {
        for row in 0..25 {
            labels += &format!(
                "request {request},{row},{},{now},1.5\n",
                (request + row) % 7 / 6
            );
        }
    }
    let file = bench.path("labels.csv");
    fs::write(&file, labels).unwrap();
    expect_success(&streamrec(&[
        "monitor", "labels", "--labels", &file, "--out", &out,
    ]));
    let incidents = Path::new(&out).join("incidents");
    fs::create_dir_all(&incidents).unwrap();
    let incident = json!({
        "format_version": 1, "id": "nulls-1", "rule": "nulls <on one client>", "metric": "missing_rate",
        "severity": "critical", "owner": "data", "runbook": "https://example.com/runbooks/nulls",
        "opened_ms": now as u64, "resolved_ms": null, "acknowledged_by": null, "closed": false,
        "retraining_asked_ms": null,
        "alerts": [{
            "summary": "68 % of item_duration_s are missing where client = 7.2",
            "since_ms": now as u64, "fired_ms": now as u64, "resolved_ms": null,
            "judgement": {
                "key": {"input": "item_duration_s", "segment": {"input": "client", "key": 7}, "label": null},
                "value": 0.68, "rows": 1000, "bounds": [null, 0.35], "breach": true, "clear": false,
            },
        }],
        "timeline": [{"at_ms": now as u64, "by": "monitor", "what": "firing: 0.68, limit 0.35"}],
    });
    fs::write(incidents.join("nulls-1.json"), incident.to_string()).unwrap();
    let (running, address) = dashboard_of(&out, &bench.path("run-artifact"));
    (bench, running, address)
}

/// Serves the tables in `dir`.
pub fn dashboard_of(dir: &str, artifact: &str) -> (Running, String) {
    let mut serve = command();
    serve
        .args(["monitor", "serve", "--dir", dir, "--artifact", artifact])
        .args(["--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped());
    let mut running = Running(serve.spawn().expect("starts"));
    let stdout = running.0.stdout.take().expect("piped");
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    let address = line
        .trim()
        .strip_prefix("listening on ")
        .expect("an address")
        .to_owned();
    (running, address)
}

/// Lets the same tables stand for some hours before, so that lines have points.
fn earlier_hours(out: &str) {
    let now = jiff::Timestamp::now().as_millisecond();
    for table in ["predictions", "labelled"] {
        let root = Path::new(out).join(table);
        let files: Vec<PathBuf> = fs::read_dir(&root)
            .unwrap()
            .flat_map(|hour| fs::read_dir(hour.unwrap().path()).unwrap())
            .map(|file| file.unwrap().path())
            .collect();
        for ago in [1, 2, 3, 4, 7] {
            let hour = streamrec::monitoring::Hour::of(now - ago * 3_600_000).to_string();
            fs::create_dir_all(root.join(&hour)).unwrap();
            for file in files.iter().skip(ago as usize % files.len()) {
                fs::copy(file, root.join(&hour).join(file.file_name().unwrap())).unwrap();
            }
        }
    }
}

const RULES: &str = r#"
format_version = 1
[windows]
segments = ["platform"]
names.platform = ["ios", "android"]
label_delay = "1h"
grace_minutes = 0
[[rules]]
name = "slow"
metric = "latency_p50_ms"
threshold = { above = 1e-6 }
min_rows = 1
severity = "critical"
owner = "platform <team>"
runbook = "https://example.com/runbooks/slow"
[[rules]]
name = "missing"
metric = "missing_rate"
segment = "platform"
threshold = { above = 0.99, clear = 0.9 }
min_rows = 1
severity = "critical"
owner = "data"
runbook = "docs/guides/monitoring.md"
[[rules]]
name = "ranked_badly"
metric = "auc"
threshold = { below = 0.999 }
for = "2h"
min_rows = 1
severity = "warning"
owner = "ml"
runbook = "docs/guides/monitoring.md"
retrain = true
[[rules]]
name = "never_judged"
metric = "psi"
threshold = { above = 0.25 }
min_rows = 1000000
severity = "info"
owner = "ml"
runbook = "docs/guides/monitoring.md"
"#;

/// Judges the hours that are over, by rules of which one fires in each of them.
fn judged(bench: &Workbench) {
    let (out, rules) = (bench.path("out"), bench.path("rules.toml"));
    fs::write(&rules, RULES).unwrap();
    let artifact = bench.path("run-artifact");
    let arguments = ["--artifact", &artifact, "--rules", &rules, "--once"];
    expect_success(&streamrec(
        &[&["monitor", "run", "--dir", &out][..], &arguments].concat(),
    ));
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .build()
        .into()
}

/// Status, content type and text of a page.
pub fn get(address: &str, path: &str) -> (u16, String, String) {
    let mut answer = agent().get(format!("{address}{path}")).call().unwrap();
    let header = answer.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    (
        answer.status().as_u16(),
        header,
        answer.body_mut().read_to_string().unwrap(),
    )
}

#[test]
fn pages_lead_from_a_pillar_to_a_request_and_know_no_other_host() {
    let (bench, _running, address) = started();
    for path in [
        "/",
        "/pillar/data",
        "/pillar/model",
        "/pillar/system",
        "/pillar/business",
        "/requests",
        "/rules",
        "/incidents",
    ] {
        let (status, kind, page) = get(&address, path);
        assert_eq!(
            (status, kind.as_str()),
            (200, "text/html; charset=utf-8"),
            "{path}"
        );
        assert!(
            !page.contains("src=\"http")
                && !page.contains("<script>")
                && !page.contains("style=\""),
            "{path}"
        );
        assert!(!page.contains("<on one client>"), "{path} is not escaped");
    }
    let (status, _, page) = get(&address, "/requests/request%207");
    assert!(
        status == 200 && page.contains("What became of it"),
        "{page}"
    );
    let (_, _, overview) = get(&address, "/");
    assert!(overview.contains("1 open incident<"), "{overview}");
    assert_eq!(get(&address, "/feature/nothing").0, 404);
    assert_eq!(get(&address, "/rules/slow").0, 404);
    assert!(get(&address, "/rules").2.contains("streamrec monitor run"));
    judged(&bench);
    let (status, _, page) = get(&address, "/rules/slow");
    assert!(
        status == 200 && page.contains("platform &lt;team&gt;"),
        "{page}"
    );
    assert_eq!(get(&address, "/rules/none%20such").0, 404);
    let (_, _, page) = get(&address, "/rules/slow?hours=72&until=7200000&label=click");
    assert!(
        page.contains("It judged nothing in these 72 hours"),
        "{page}"
    );
    assert_eq!(get(&address, "/requests/none%20such").0, 200);
    let (_, _, none) = get(&address, "/requests?input=user_id&value=none%20such");
    assert!(none.contains("None."), "{none}");

    // What comes later is on the page at the next look.
    let out = bench.path("out");
    let folder = fs::read_dir(Path::new(&out).join("predictions"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let file = fs::read_dir(&folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let requests = |page: &str| -> u64 {
        let line = page
            .lines()
            .find(|line| line.starts_with("streamrec_monitoring_requests{status=\"ok\"}"))
            .unwrap();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64
    };
    assert_eq!(requests(&get(&address, "/metrics").2), 40);
    fs::copy(&file, folder.join("another.parquet")).unwrap();
    assert!(requests(&get(&address, "/metrics").2) > 40);
}

#[test]
fn metrics_are_openmetrics_with_units_and_an_end() {
    let (_bench, _running, address) = started();
    let (status, kind, text) = get(&address, "/metrics");
    assert_eq!(status, 200);
    assert_eq!(
        kind,
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert!(text.ends_with("# EOF\n"));
    for part in [
        "# UNIT streamrec_monitoring_latency_seconds seconds",
        "streamrec_monitoring_latency_seconds{quantile=\"0.99\"} 0.0",
        "# UNIT streamrec_monitoring_window_seconds seconds",
        "streamrec_monitoring_drift{input=\"user_id\",statistic=\"psi\"}",
        "streamrec_monitoring_labelled_rows{label=\"click\"} 1000.0",
        "streamrec_monitoring_open_incidents 1.0",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn forms_of_other_sites_and_other_names_of_this_machine_are_refused() {
    let (bench, _running, address) = started();
    let post = |headers: &[(&str, &str)], body: &str| {
        let mut post = agent().post(format!("{address}/incidents"));
        for (name, value) in headers {
            post = post.header(*name, *value);
        }
        post.send(body).unwrap().status().as_u16()
    };
    let form = "id=nulls-1&by=Ada&note=seen";
    let own = [("origin", address.as_str())];
    assert_eq!(post(&[], form), 403);
    assert_eq!(post(&[("origin", "http://evil.example")], form), 403);
    assert_eq!(post(&[("sec-fetch-site", "cross-site"), own[0]], form), 403);
    assert_eq!(post(&own, "id=../../labels&by=Ada"), 404);
    assert_eq!(post(&own, "id=nulls-1&by="), 400);
    let incident = PathBuf::from(bench.path("out")).join("incidents/nulls-1.json");
    let read =
        || serde_json::from_slice::<serde_json::Value>(&fs::read(&incident).unwrap()).unwrap();
    assert_eq!(read()["acknowledged_by"], json!(null));
    assert_eq!(post(&own, form), 303);
    assert_eq!(post(&own, "id=nulls-1&by=Bob"), 303);
    assert_eq!(read()["acknowledged_by"], json!("Ada"));
    assert_eq!(read()["timeline"][1]["what"], json!("acknowledged: seen"));
    assert_eq!(read()["timeline"].as_array().unwrap().len(), 2);
    assert_eq!(read()["metric"], json!("missing_rate"));
    let foreign = agent()
        .get(format!("{address}/"))
        .header("host", "evil.example")
        .call()
        .unwrap();
    assert_eq!(foreign.status().as_u16(), 421);
}

#[test]
fn a_real_browser_reads_drills_and_acknowledges_by_mouse_and_keyboard() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let (bench, _running, address) = started();
    earlier_hours(&bench.path("out"));
    judged(&bench);
    browser.holds("dashboard.py", &address, 7);
}
