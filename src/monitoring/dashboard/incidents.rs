//! Incidents: what `incidents/ID.json` tells, and who has seen it.
//!
//! An acknowledgement is written into the incident's own file, as an entry of its timeline; whoever judges the
//! windows holds `.windows.lock` meanwhile, and so do we.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};
use streamrec_serving::http::SiteAnswer;

use super::HOURS_MAX;
use super::address::{Address, encoded, pairs};
use super::page::{Page, link, moment};
use super::rules::{pairs as pairs_of, path};
use crate::monitoring::rules::Judgement;
use crate::monitoring::store::replace;
use crate::monitoring::{MonitoringError, Store};
use crate::validation::report::chart::escaped;

/// Letters of a name or a note at most.
const TEXT_MAX: usize = 500;
const HOUR_MS: i64 = 3_600_000;
/// Hours that the chart of an alert shows before and after it.
const AROUND_H: i64 = 12;

/// What is shown of an incident; a file may say more.
#[derive(Debug, Clone, Deserialize)]
struct Incident {
    id: String,
    rule: String,
    #[serde(default)]
    severity: String,
    #[serde(default)]
    owner: String,
    #[serde(default)]
    runbook: String,
    opened_ms: i64,
    #[serde(default)]
    resolved_ms: Option<i64>,
    #[serde(default)]
    acknowledged_by: Option<String>,
    #[serde(default)]
    closed: bool,
    #[serde(default)]
    alerts: Vec<Alert>,
    #[serde(default)]
    timeline: Vec<Event>,
}

#[derive(Debug, Clone, Deserialize)]
struct Alert {
    summary: String,
    #[serde(default)]
    since_ms: Option<i64>,
    #[serde(default)]
    resolved_ms: Option<i64>,
    #[serde(default)]
    judgement: Option<Judgement>,
}

#[derive(Debug, Clone, Deserialize)]
struct Event {
    at_ms: i64,
    by: String,
    what: String,
}

impl Incident {
    /// Where it stands, and the class of its badge.
    fn state(&self) -> (&'static str, &'static str) {
        match (self.closed, self.resolved_ms, &self.acknowledged_by) {
            (true, ..) => ("closed", "pass"),
            (false, Some(_), _) => ("resolved, not closed", "hold"),
            (false, None, Some(_)) => ("acknowledged", "hold"),
            (false, None, None) => ("open", "fail"),
        }
    }
}

fn folder(store: &Store) -> PathBuf {
    store.root().join("incidents")
}

/// All incidents, the newest first.
fn read(store: &Store) -> Result<Vec<Incident>, MonitoringError> {
    let folder = folder(store);
    let failed = |error| MonitoringError::file("read", &folder)(error);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut incidents: Vec<Incident> = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.ends_with(".json") && !name.starts_with('.')) {
            let text = fs::read(&path).map_err(MonitoringError::file("read", &path))?;
            let incident = serde_json::from_slice(&text).map_err(|error| {
                MonitoringError::table(&path, format!("it is no incident: {error}"))
            })?;
            incidents.push(incident);
        }
    }
    incidents.sort_by(|a, b| b.opened_ms.cmp(&a.opened_ms).then_with(|| a.id.cmp(&b.id)));
    Ok(incidents)
}

/// How many are neither resolved nor closed.
pub(super) fn open_incidents(store: &Store) -> Result<usize, MonitoringError> {
    let is_open = |incident: &&Incident| !incident.closed && incident.resolved_ms.is_none();
    Ok(read(store)?.iter().filter(is_open).count())
}

pub(super) fn list(
    store: &Store,
    address: &Address,
    now_ms: i64,
) -> Result<String, MonitoringError> {
    let mut page = Page::new("Incidents", address);
    let incidents = read(store)?;
    if incidents.is_empty() {
        page.paragraph("None so far.");
    }
    for incident in &incidents {
        add(&mut page, address, incident, now_ms);
    }
    Ok(page.html(now_ms))
}

/// The incidents of a rule, as a table.
pub(super) fn of_rule(
    store: &Store,
    page: &mut Page<'_>,
    address: &Address,
    rule: &str,
) -> Result<(), MonitoringError> {
    let row = |incident: &Incident| {
        let (state, class) = incident.state();
        let to = format!(
            "{}#{}",
            address.link("/incidents", &[]),
            encoded(&incident.id)
        );
        vec![
            link(&to, &incident.id),
            format!("<span class=\"badge {class}\">{state}</span>"),
            moment(incident.opened_ms),
            incident.resolved_ms.map_or_else(|| "-".to_owned(), moment),
            escaped(incident.acknowledged_by.as_deref().unwrap_or("-")),
        ]
    };
    let incidents = read(store)?;
    let own = incidents.iter().filter(|incident| incident.rule == rule);
    let rows: Vec<Vec<String>> = own.map(row).collect();
    let head = [
        "Incident",
        "State",
        "Opened (UTC)",
        "Resolved (UTC)",
        "Acknowledged by",
    ];
    page.table(
        &format!("Incidents of {rule}, the newest first"),
        &head,
        &rows,
    );
    Ok(())
}

/// Adds a link to what is to be done, where it is one.
pub(super) fn runbook(page: &mut Page<'_>, rule: &str, runbook: &str) {
    // Nothing that a script could be: the file is not ours.
    if runbook.starts_with("https://") || runbook.starts_with("http://") {
        let name = format!("Runbook of {rule}");
        page.html_part(&format!("<p>{}</p>", link(runbook, &name)));
    } else if !runbook.is_empty() {
        page.paragraph(&format!("Runbook: {runbook}"));
    }
}

/// A link to the rule's measure over the hours of an alert, and some before and after.
fn chart_of(address: &Address, incident: &Incident, alert: &Alert, now_ms: i64) -> String {
    let begin = alert.since_ms.unwrap_or(incident.opened_ms);
    let end = alert.resolved_ms.or(incident.resolved_ms).unwrap_or(now_ms);
    let until = end.saturating_add(AROUND_H * HOUR_MS);
    // A page that looks at now goes on with it.
    let is_now = (begin..until).contains(&now_ms);
    let last = if is_now { now_ms } else { until };
    let hours = (last.saturating_sub(begin) / HOUR_MS + AROUND_H).clamp(24, HOURS_MAX);
    let mut pairs = alert
        .judgement
        .as_ref()
        .map_or_else(Vec::new, |judgement| pairs_of(&judgement.key));
    if !is_now {
        pairs.push(("until", until.to_string()));
    }
    pairs.push(("hours", hours.to_string()));
    let pairs: Vec<(&str, &str)> = pairs
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    link(
        &address.link(&path(&incident.rule), &pairs),
        "Chart of the measure",
    )
}

fn add(page: &mut Page<'_>, address: &Address, incident: &Incident, now_ms: i64) {
    let title = format!("{} of {}", incident.rule, moment(incident.opened_ms));
    page.html_part(&format!(
        "<h2 id=\"{}\">{}</h2>",
        encoded(&incident.id),
        escaped(&title)
    ));
    let (state, class) = incident.state();
    let about = [
        ("", incident.severity.as_str()),
        ("owner: ", &incident.owner),
    ];
    let about = about.into_iter().filter(|(_, value)| !value.is_empty());
    let about: Vec<String> = about
        .map(|(name, value)| format!("{name}{}", escaped(value)))
        .collect();
    page.html_part(&format!(
        "<p><span class=\"badge {class}\">{state}</span> {}</p>",
        about.join(", ")
    ));
    for alert in &incident.alerts {
        let (summary, chart) = (
            escaped(&alert.summary),
            chart_of(address, incident, alert, now_ms),
        );
        page.html_part(&format!("<p>{summary} - {chart}</p>"));
    }
    runbook(page, &incident.rule, &incident.runbook);
    let event = |event: &Event| {
        vec![
            moment(event.at_ms),
            escaped(&event.by),
            escaped(&event.what),
        ]
    };
    let rows: Vec<Vec<String>> = incident.timeline.iter().map(event).collect();
    page.table(
        &format!("Timeline of {title}"),
        &["Time (UTC)", "Who", "What"],
        &rows,
    );
    if !incident.closed && incident.acknowledged_by.is_none() {
        page.html_part(&form(incident));
    }
}

fn form(incident: &Incident) -> String {
    let (id, rule) = (escaped(&incident.id), escaped(&incident.rule));
    format!(
        "<form class=\"filter\" method=\"post\" action=\"/incidents\" aria-label=\"Acknowledge {id}\">\
         <input type=\"hidden\" name=\"id\" value=\"{id}\"><div><label for=\"by-{id}\">Your name</label>\
         <input id=\"by-{id}\" name=\"by\" required maxlength=\"{TEXT_MAX}\" autocomplete=\"name\"></div><div>\
         <label for=\"note-{id}\">Note</label><input id=\"note-{id}\" name=\"note\" maxlength=\"{TEXT_MAX}\"></div>\
         <button>Acknowledge<span class=\"unseen\"> {rule}</span></button></form>"
    )
}

/// Takes the form of a page of this site; the first acknowledgement stays.
pub(super) fn acknowledge(
    store: &Store,
    address: &Address,
    body: &[u8],
    now_ms: i64,
) -> Result<SiteAnswer, MonitoringError> {
    let refuse = |status, why: &str| {
        let told = "text/plain; charset=utf-8";
        Ok(SiteAnswer::new(status, told, why))
    };
    if address.path != "/incidents" {
        return refuse(405, "this page takes no form");
    }
    let pairs = pairs(&String::from_utf8_lossy(body));
    let field = |name: &str| {
        let found = pairs.iter().find(|(own, _)| own == name);
        found.map_or("", |(_, value)| value.trim())
    };
    let (id, by, note) = (field("id"), field("by"), field("note"));
    // Against the incidents that are there: a name from a form makes no path.
    if !read(store)?.iter().any(|incident| incident.id == id) || id.contains(['/', '\\']) {
        return refuse(404, "there is no such incident");
    }
    if by.is_empty() || by.len() > TEXT_MAX || note.len() > TEXT_MAX {
        return refuse(400, "expected a name, and texts of up to 500 letters");
    }
    write(store, id, by, note, now_ms)?;
    Ok(SiteAnswer::see_other("/incidents"))
}

fn write(
    store: &Store,
    id: &str,
    by: &str,
    note: &str,
    now_ms: i64,
) -> Result<(), MonitoringError> {
    let lock = store.root().join(".windows.lock");
    let file = File::options().create(true).append(true).open(&lock);
    let file = file.map_err(MonitoringError::file("open", &lock))?;
    // Until this drops; those who judge hold it for moments.
    file.lock().map_err(MonitoringError::file("lock", &lock))?;
    let path = folder(store).join(format!("{id}.json"));
    let text = fs::read(&path).map_err(MonitoringError::file("read", &path))?;
    let mut incident: Value = serde_json::from_slice(&text)
        .map_err(|error| MonitoringError::table(&path, error.to_string()))?;
    if incident["acknowledged_by"].is_string() {
        return Ok(());
    }
    incident["acknowledged_by"] = json!(by);
    let what = match note {
        "" => "acknowledged".to_owned(),
        note => format!("acknowledged: {note}"),
    };
    if let Some(timeline) = incident["timeline"].as_array_mut() {
        timeline.push(json!({"at_ms": now_ms, "by": by, "what": what}));
    }
    replace(&path, format!("{incident:#}\n").as_bytes())
}
