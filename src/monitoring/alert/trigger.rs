//! A request for a new model, with its evidence: a file that those who train read.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::payload::summary;
use super::{Alert, Incident};
use crate::monitoring::MonitoringError;
use crate::monitoring::measure::{Metric, Pillar};
use crate::monitoring::rules::{Judgement, Rule, Rules};
use crate::monitoring::store::write_json;

/// The version of triggers that is written and read.
pub const TRIGGER_VERSION: u32 = 1;

/// Why a new model is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Inputs are no longer what the model was trained on.
    DataDrift,
    /// What follows from them has changed.
    ConceptDrift,
    /// The model is worse than it was, by labels or by estimate.
    Performance,
    /// Users act otherwise, or the service does.
    Behaviour,
}

/// One request, once per episode of a rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    /// The version of its form.
    pub format_version: u32,
    /// The incident's name, and that of the file.
    pub id: String,
    /// Why.
    pub cause: Cause,
    /// The rule.
    pub rule: String,
    /// The model that is live.
    pub model: String,
    /// The data that it was trained on.
    pub data_version: String,
    /// The end of the window that decided.
    pub at_ms: i64,
    /// The hours that the window spans.
    pub over_h: u64,
    /// What was found.
    pub evidence: Vec<Evidence>,
}

/// One alert of a trigger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// For people.
    pub summary: String,
    /// For programs.
    pub judgement: Judgement,
}

impl Trigger {
    /// Writes the trigger of an incident.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn leave(
        root: &Path,
        model: [&str; 2],
        (rules, rule): (&Rules, &Rule),
        incident: &Incident,
        firing: &[Alert],
        at_ms: i64,
    ) -> Result<(), MonitoringError> {
        let path = root.join("triggers").join(format!("{}.json", incident.id));
        let [model, data_version] = model.map(str::to_owned);
        let evidence = firing.iter().map(|alert| Evidence {
            summary: summary(rules, rule, alert),
            judgement: alert.judgement.clone(),
        });
        let trigger = Self {
            format_version: TRIGGER_VERSION,
            id: incident.id.clone(),
            cause: cause(rule.metric),
            rule: rule.name.clone(),
            model,
            data_version,
            at_ms,
            over_h: rule.over_h as u64,
            evidence: evidence.collect(),
        };
        write_json(&path, &trigger)
    }
}

fn cause(metric: Metric) -> Cause {
    match (metric, metric.pillar()) {
        (Metric::AdwinAlarms | Metric::DdmAlarms | Metric::PageHinkleyAlarms, _) => {
            Cause::ConceptDrift
        }
        (_, Pillar::DataQuality) => Cause::DataDrift,
        (_, Pillar::Model) => Cause::Performance,
        (_, Pillar::System | Pillar::Business) => Cause::Behaviour,
    }
}
