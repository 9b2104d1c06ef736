//! Incidents: what happened, who knew, who acted. One file each, from the first alert of a rule to its close.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::payload::summary;
use super::{Alert, Transition, rfc3339};
use crate::monitoring::MonitoringError;
use crate::monitoring::rules::{Judgement, Rule, Rules, Severity};
use crate::monitoring::store::{names, read_json, write_json};

/// The version of incidents that is written and read.
pub const INCIDENT_VERSION: u32 = 1;

/// One episode of a rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Incident {
    /// The version of its form.
    pub format_version: u32,
    /// Its name, and that of its file.
    pub id: String,
    /// The rule.
    pub rule: String,
    /// What the rule judges.
    pub metric: String,
    /// How grave it is.
    pub severity: Severity,
    /// Who acts.
    pub owner: String,
    /// What to do.
    pub runbook: String,
    /// When the first alert fired.
    pub opened_ms: i64,
    /// When the last one ended.
    pub resolved_ms: Option<i64>,
    /// Who has seen it.
    pub acknowledged_by: Option<String>,
    /// The end of the window with which a new model was asked for.
    pub retraining_asked_ms: Option<i64>,
    /// Whether it was closed by a person.
    pub closed: bool,
    /// Its alerts.
    pub alerts: Vec<IncidentAlert>,
    /// What happened when.
    pub timeline: Vec<TimelineEntry>,
}

/// An alert of an incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IncidentAlert {
    /// What it says.
    pub summary: String,
    /// Where it lies: the first window that was too much.
    pub since_ms: i64,
    /// When it fired.
    pub fired_ms: i64,
    /// When it ended.
    pub resolved_ms: Option<i64>,
    /// What was said when it fired.
    pub judgement: Judgement,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimelineEntry {
    /// When.
    pub at_ms: i64,
    /// Who: `monitor` or a person.
    pub by: String,
    /// What.
    pub what: String,
}

/// Where an incident stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IncidentStatus {
    /// It fires, and nobody has said that they know.
    Open,
    /// It fires, and somebody knows.
    Acknowledged,
    /// It no longer fires; a person closes it.
    Resolved,
    /// It is closed.
    Closed,
}

impl Incident {
    /// Where it stands.
    pub fn status(&self) -> IncidentStatus {
        match (self.closed, self.resolved_ms, &self.acknowledged_by) {
            (true, ..) => IncidentStatus::Closed,
            (false, Some(_), _) => IncidentStatus::Resolved,
            (false, None, Some(_)) => IncidentStatus::Acknowledged,
            (false, None, None) => IncidentStatus::Open,
        }
    }

    /// Adds to its timeline, once.
    pub fn note(&mut self, at_ms: i64, by: &str, what: impl Into<String>) {
        let entry = TimelineEntry {
            at_ms,
            by: by.to_owned(),
            what: what.into(),
        };
        if !self.timeline.contains(&entry) {
            self.timeline.push(entry);
        }
    }

    fn new(rule: &Rule, opened_ms: i64) -> Self {
        let digits: String = rfc3339(opened_ms)
            .chars()
            .take(13)
            .filter(|c| *c != '-')
            .collect();
        Self {
            format_version: INCIDENT_VERSION,
            id: format!("{digits}-{}", rule.name),
            rule: rule.name.clone(),
            metric: rule.metric.name().to_owned(),
            severity: rule.severity,
            owner: rule.owner.clone(),
            runbook: rule.runbook.clone(),
            opened_ms,
            resolved_ms: None,
            acknowledged_by: None,
            retraining_asked_ms: None,
            closed: false,
            alerts: Vec::new(),
            timeline: Vec::new(),
        }
    }

    fn take(&mut self, rules: &Rules, rule: &Rule, transition: &Transition, end_ms: i64) {
        let alert = transition.alert();
        let what = summary(rules, rule, alert);
        let same = |own: &&mut IncidentAlert| {
            own.judgement.key == alert.judgement.key && Some(own.fired_ms) == alert.fired_ms
        };
        let known = self.alerts.iter_mut().find(same);
        match (transition, known) {
            (Transition::Fired(_), None) => {
                self.alerts.push(IncidentAlert {
                    summary: what.clone(),
                    since_ms: alert.since_ms,
                    fired_ms: end_ms,
                    resolved_ms: None,
                    judgement: alert.judgement.clone(),
                });
                self.note(alert.since_ms, "monitor", format!("first seen: {what}"));
                self.note(end_ms, "monitor", format!("firing: {what}"));
            }
            (Transition::Resolved(_), Some(known)) => {
                known.resolved_ms = Some(end_ms);
                self.note(end_ms, "monitor", format!("resolved: {what}"));
            }
            _ => {}
        }
    }
}

/// The folder `incidents/`.
#[derive(Debug, Clone)]
pub struct Incidents {
    folder: PathBuf,
}

impl Incidents {
    /// Those of a monitoring folder.
    pub fn new(root: &Path) -> Self {
        Self {
            folder: root.join("incidents"),
        }
    }

    /// All of them, by the time they were opened.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn all(&self) -> Result<Vec<Incident>, MonitoringError> {
        let mut files: Vec<String> = names(&self.folder)?;
        files.retain(|name| name.ends_with(".json") && !name.starts_with('.'));
        files.sort_unstable();
        let read = |name: &String| read_json(&self.folder.join(name), INCIDENT_VERSION);
        let mut found: Vec<Incident> = Vec::new();
        for name in &files {
            found.extend(read(name)?);
        }
        found.sort_by_key(|incident| incident.opened_ms);
        Ok(found)
    }

    /// One of them.
    ///
    /// # Errors
    /// There is none of this name, or it cannot be read.
    pub fn read(&self, id: &str) -> Result<Incident, MonitoringError> {
        let known = || MonitoringError::Settings {
            problem: format!("no incident `{id}`; `streamrec monitor incidents list` tells them"),
        };
        if id.contains(['/', '\\']) || id.starts_with('.') {
            return Err(known());
        }
        read_json(&self.folder.join(format!("{id}.json")), INCIDENT_VERSION)?.ok_or_else(known)
    }

    /// Writes one.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write(&self, incident: &Incident) -> Result<(), MonitoringError> {
        write_json(&self.folder.join(format!("{}.json", incident.id)), incident)
    }

    /// Takes what changed in a rule's alerts at `end_ms`; `firing` are those that fire now. The incident, which is new
    /// where none of the rule is open.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn take(
        &self,
        rules: &Rules,
        rule: &Rule,
        transitions: &[Transition],
        firing: &[Alert],
        end_ms: i64,
    ) -> Result<Option<Incident>, MonitoringError> {
        if transitions.is_empty() {
            return Ok(None);
        }
        let fresh = Incident::new(rule, end_ms);
        let open = |incident: &Incident| {
            incident.rule == rule.name
                && (incident.resolved_ms.is_none() || incident.id == fresh.id)
        };
        let mut incident = self.all()?.into_iter().rev().find(open).unwrap_or(fresh);
        for transition in transitions {
            incident.take(rules, rule, transition, end_ms);
        }
        if firing.is_empty() {
            incident.resolved_ms = Some(end_ms);
        }
        self.write(&incident)?;
        Ok(Some(incident))
    }
}
