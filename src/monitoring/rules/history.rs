//! What rules said, hour by hour: what a dashboard draws beside an alert.
//!
//! A measure may be computed again when more is known (labels that came late, scores that were calibrated anew); what a
//! rule judged stays as it was judged, with the bounds of that moment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{AlertKey, Judgement, Rule, Rules};
use crate::monitoring::measure::Metric;
use crate::monitoring::store::{names, read_json, write_json};
use crate::monitoring::{Hour, MonitoringError, Store};

/// The version of what rules said that is written and read.
pub const HISTORY_VERSION: u32 = 1;

/// When rules judge an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pass {
    /// As soon as it is over.
    Live,
    /// Once its labels are complete.
    Labelled,
}

impl Pass {
    /// When rules of a metric judge.
    pub fn of(metric: Metric) -> Self {
        if metric.needs_labels() {
            Self::Labelled
        } else {
            Self::Live
        }
    }

    /// Its folder in `judgements/`.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Labelled => "labelled",
        }
    }
}

/// The rules that judged last, with all that is needed to show them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleBook {
    /// The version of its form.
    pub format_version: u32,
    /// The texts that stand for keys of segments, by input.
    pub names: BTreeMap<String, Vec<String>>,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// What a rule said of the window that ends with an hour.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleHour {
    /// Figures that had rows enough, and a history to compare with.
    pub judgements: Vec<Judgement>,
    /// Alerts that were too much, but not yet for long enough.
    pub pending: Vec<AlertKey>,
    /// Alerts that fired; also those of which nothing was known.
    pub firing: Vec<AlertKey>,
}

/// What all rules of a pass said of an hour.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JudgedHour {
    /// By rule.
    pub rules: BTreeMap<String, RuleHour>,
}

#[derive(Serialize)]
struct Written<'a> {
    format_version: u32,
    end_ms: i64,
    rules: &'a BTreeMap<String, RuleHour>,
}

/// As it is read: rules that nobody asks for stay text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    #[serde(rename = "format_version")]
    _format_version: u32,
    #[serde(rename = "end_ms")]
    _end_ms: i64,
    rules: BTreeMap<String, Box<RawValue>>,
}

impl RuleBook {
    /// The rules of a file, without what they are not to tell: where alerts are posted.
    pub fn of(rules: &Rules) -> Self {
        Self {
            format_version: HISTORY_VERSION,
            names: rules.windows.names.clone(),
            rules: rules.rules.clone(),
        }
    }

    /// The book of a monitoring folder; none before the first run.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(store: &Store) -> Result<Option<Self>, MonitoringError> {
        read_json(&store.rule_book(), HISTORY_VERSION)
    }

    /// Writes it, if it is another one than before.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write(&self, store: &Store) -> Result<(), MonitoringError> {
        if matches!(Self::read(store), Ok(Some(before)) if before == *self) {
            return Ok(());
        }
        write_json(&store.rule_book(), self)
    }

    /// A rule by its name.
    pub fn rule(&self, name: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.name == name)
    }

    /// What an alert is about, for people; nothing where it is all rows together.
    pub fn about(&self, key: &AlertKey) -> String {
        let input = key.input.iter().map(|input| format!(" of {input}"));
        let label = key.label.iter().map(|label| format!(" of {label}"));
        let segment = key.segment.iter().map(|segment| {
            let names = self
                .names
                .get(&segment.input)
                .map_or(&[][..], Vec::as_slice);
            format!(" where {} = {}", segment.input, segment.name(names))
        });
        let about: String = input.chain(label).chain(segment).collect();
        about.trim_start().to_owned()
    }
}

impl JudgedHour {
    /// Writes what was said; once more where an hour is judged once more.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write(&self, store: &Store, pass: Pass, hour: Hour) -> Result<(), MonitoringError> {
        let written = Written {
            format_version: HISTORY_VERSION,
            end_ms: hour.end_ms(),
            rules: &self.rules,
        };
        write_json(&store.judgements(pass, hour), &written)
    }

    /// The hours that were judged, ascending.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn hours(store: &Store, pass: Pass) -> Result<Vec<Hour>, MonitoringError> {
        let files = names(&store.judgements_folder(pass))?;
        let hour = |name: &String| name.strip_suffix(".json")?.parse().ok();
        let mut hours: Vec<Hour> = files.iter().filter_map(hour).collect();
        hours.sort_unstable();
        Ok(hours)
    }

    /// What was said of an hour by those rules that `wanted` picks; nothing where it was not judged.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(
        store: &Store,
        pass: Pass,
        hour: Hour,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Self, MonitoringError> {
        let path = store.judgements(pass, hour);
        let read: Option<Read> = read_json(&path, HISTORY_VERSION)?;
        let mut rules = BTreeMap::new();
        for (name, text) in read.into_iter().flat_map(|read| read.rules) {
            if wanted(&name) {
                let said = serde_json::from_str(text.get());
                let said =
                    said.map_err(|error| MonitoringError::table(&path, error.to_string()))?;
                rules.insert(name, said);
            }
        }
        Ok(Self { rules })
    }
}
