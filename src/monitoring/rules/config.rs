//! The rules file, checked.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::{Span, SpanRelativeTo};
use serde::{Deserialize, Serialize};
use streamrec_artifact::{InputColumn, Manifest, key};

use super::threshold::{RawThreshold, Threshold};
use crate::monitoring::MonitoringError;
use crate::monitoring::measure::{Measure, Metric};
use crate::monitoring::window::SegmentKey;

/// The version of rules that is read.
pub const RULES_VERSION: u32 = 1;
const HOUR_MS: i64 = 3_600_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRules {
    format_version: u32,
    #[serde(default)]
    external_url: String,
    #[serde(default)]
    windows: WindowSettings,
    #[serde(default)]
    webhooks: Vec<Webhook>,
    #[serde(default)]
    rules: Vec<RawRule>,
}

/// How windows are made and named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowSettings {
    /// Inputs whose values part the rows.
    #[serde(default)]
    pub segments: Vec<String>,
    /// The texts that stand for keys of segments, to be shown and to be named by rules.
    #[serde(default)]
    pub names: BTreeMap<String, Vec<String>>,
    /// The input that names the item.
    #[serde(default)]
    pub item: Option<String>,
    /// Items that could be shown; those of the item's vocabulary where unset.
    #[serde(default)]
    pub catalogue: Option<u64>,
    /// How long labels take: windows are measured when they are so old.
    #[serde(default = "a_day")]
    pub label_delay: String,
    /// Minutes that an hour waits for its last segments to be compacted.
    #[serde(default = "ten")]
    pub grace_minutes: u32,
}

fn a_day() -> String {
    "24h".into()
}

fn ten() -> u32 {
    10
}

impl Default for WindowSettings {
    fn default() -> Self {
        Self {
            segments: Vec::new(),
            names: BTreeMap::new(),
            item: None,
            catalogue: None,
            label_delay: a_day(),
            grace_minutes: ten(),
        }
    }
}

/// Where alerts are posted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// What it is called; `receiver` of what is posted.
    pub name: String,
    /// Where to.
    pub url: String,
    /// Only alerts at least as grave.
    #[serde(default = "info")]
    pub least: Severity,
    /// A file whose content is sent as a bearer token.
    #[serde(default)]
    pub bearer_token_file: Option<std::path::PathBuf>,
}

fn info() -> Severity {
    Severity::Info
}

/// How grave an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth a note.
    Info,
    /// Worth a look today.
    Warning,
    /// Someone must act now.
    Critical,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    name: String,
    metric: Metric,
    #[serde(default)]
    inputs: Vec<String>,
    #[serde(default)]
    segment: Option<String>,
    #[serde(default)]
    label: Option<String>,
    threshold: RawThreshold,
    #[serde(default = "an_hour")]
    over: String,
    #[serde(default, rename = "for")]
    lasting: Option<String>,
    #[serde(default = "min_rows")]
    min_rows: u64,
    severity: Severity,
    owner: String,
    runbook: String,
    #[serde(default)]
    retrain: bool,
}

fn an_hour() -> String {
    "1h".into()
}

fn min_rows() -> u64 {
    1000
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// What it judges.
    pub metric: Metric,
    /// Of which inputs; all where empty.
    pub inputs: Vec<String>,
    /// Of the values of this input, one by one; of all rows together where unset.
    pub segment: Option<String>,
    /// Of this value alone.
    pub segment_value: Option<u64>,
    /// Of which label; each where unset.
    pub label: Option<String>,
    /// When a figure is too much.
    pub threshold: Threshold,
    /// The hours that a window spans.
    pub over_h: usize,
    /// For how long a figure must be too much before the alert fires.
    pub for_ms: i64,
    /// Figures of fewer rows are not judged.
    pub min_rows: u64,
    /// How grave it is.
    pub severity: Severity,
    /// Who acts.
    pub owner: String,
    /// What to do, a link.
    pub runbook: String,
    /// Whether it asks for a new model.
    pub retrain: bool,
}

impl Rule {
    /// Hours before the end of a window that the rule reads to judge it.
    pub fn looks_back_h(&self) -> usize {
        let before = match self.threshold {
            Threshold::Sigmas { windows, .. } => windows,
            Threshold::Fixed { .. } | Threshold::FalseAlarm { .. } => 0,
        };
        self.over_h.saturating_mul(before.saturating_add(1))
    }
}

/// A rules file.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Where the dashboard is; links of alerts lead there.
    pub external_url: String,
    /// How windows are made.
    pub windows: WindowSettings,
    /// How long labels take.
    pub label_delay_ms: i64,
    /// Where alerts go.
    pub webhooks: Vec<Webhook>,
    /// The rules.
    pub rules: Vec<Rule>,
}

impl Rules {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or is wrong: all that is wrong is told at once.
    pub fn load(path: &Path) -> Result<Self, MonitoringError> {
        let text = std::fs::read_to_string(path).map_err(MonitoringError::file("read", path))?;
        Self::parse(&text).map_err(|problem| MonitoringError::Settings {
            problem: format!("the rules {} cannot be used: {problem}", path.display()),
        })
    }

    /// Checks a text.
    ///
    /// # Errors
    /// All that is wrong, a line each.
    pub fn parse(text: &str) -> Result<Self, String> {
        let raw: RawRules = toml::from_str(text).map_err(|error| error.to_string())?;
        if raw.format_version != RULES_VERSION {
            let got = raw.format_version;
            return Err(format!(
                "format_version: expected {RULES_VERSION}, got {got}"
            ));
        }
        let mut problems = Vec::new();
        let label_delay_ms = duration_ms(&raw.windows.label_delay).unwrap_or_else(|problem| {
            problems.push(format!("windows.label_delay: {problem}"));
            0
        });
        for webhook in &raw.webhooks {
            if !webhook.url.starts_with("http://") && !webhook.url.starts_with("https://") {
                problems.push(format!("webhooks `{}`: expected an http URL", webhook.name));
            }
        }
        let mut rules: Vec<Rule> = Vec::new();
        for rule in raw.rules {
            let name = rule.name.clone();
            if rules.iter().any(|known| known.name == name) {
                problems.push(format!("rule `{name}`: there are two of this name"));
            }
            match checked(rule, &raw.windows) {
                Ok(rule) => rules.push(rule),
                Err(problem) => problems.push(format!("rule `{name}`: {problem}")),
            }
        }
        if problems.is_empty() {
            return Ok(Self {
                external_url: raw.external_url,
                windows: raw.windows,
                label_delay_ms,
                webhooks: raw.webhooks,
                rules,
            });
        }
        Err(problems.join("\n"))
    }

    /// Whether they are rules of a model: one that names what the model does not have would never fire.
    ///
    /// # Errors
    /// All names that are unknown, a line each.
    pub fn fit(&self, manifest: &Manifest) -> Result<(), String> {
        let (inputs, labels) = (&manifest.schema.inputs, &manifest.schema.labels);
        let mut problems = Vec::new();
        let mut known = |place: String, name: &str| {
            if let Err(error) = InputColumn::position(inputs, name) {
                problems.push(format!("{place}: {error}"));
            }
        };
        for name in &self.windows.segments {
            known("windows.segments".into(), name);
        }
        if let Some(name) = &self.windows.item {
            known("windows.item".into(), name);
        }
        let is_score = |name: &str| {
            name.strip_prefix("score of ")
                .is_some_and(|name| labels.iter().any(|label| label == name))
        };
        for rule in &self.rules {
            for name in rule.inputs.iter().filter(|name| !is_score(name)) {
                known(format!("rule `{}`: inputs", rule.name), name);
            }
        }
        for rule in &self.rules {
            if let Some(label) = rule.label.as_ref().filter(|label| !labels.contains(label)) {
                problems.push(format!(
                    "rule `{}`: label: the model has no label `{label}`; it has {}",
                    rule.name,
                    labels.join(", ")
                ));
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(problems.join("\n  "))
    }

    /// The name of a segment's value: its text where the file tells it, else its key.
    pub fn name_of(&self, segment: &SegmentKey) -> String {
        let names = self.windows.names.get(&segment.input);
        segment.name(names.map_or(&[][..], Vec::as_slice))
    }
}

fn checked(raw: RawRule, windows: &WindowSettings) -> Result<Rule, String> {
    let name_is_plain = |name: &str| {
        !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    if !name_is_plain(&raw.name) {
        return Err("expected a name of letters, digits and _, not of a digit first".into());
    }
    if raw.owner.trim().is_empty() || raw.runbook.trim().is_empty() {
        return Err("expected an owner and a runbook: an alert without them helps nobody".into());
    }
    let threshold = raw.threshold.check()?;
    if matches!(threshold, Threshold::FalseAlarm { .. }) != (raw.metric == Metric::DriftP) {
        return Err(
            "threshold: false_alarm goes with the metric drift_p, and nothing else does".into(),
        );
    }
    let over_ms = duration_ms(&raw.over).map_err(|problem| format!("over: {problem}"))?;
    if over_ms % HOUR_MS != 0 || !(1..=24 * 31).contains(&(over_ms / HOUR_MS)) {
        return Err("over: expected whole hours, from 1h to 31d".into());
    }
    let lasting = raw.lasting.as_deref().map(duration_ms).transpose();
    let (segment, segment_value) = match raw
        .segment
        .as_deref()
        .map(|text| text.split_once('=').ok_or(text))
    {
        None => (None, None),
        Some(Err(input)) => (Some(input.to_owned()), None),
        Some(Ok((input, value))) => {
            let value = match value.parse::<i64>() {
                Ok(value) => key::from_integer(value).map_err(|error| error.to_string())?,
                Err(_) => key::from_text(value),
            };
            (Some(input.to_owned()), Some(value))
        }
    };
    if let Some(input) = segment
        .as_ref()
        .filter(|input| !windows.segments.contains(input))
    {
        return Err(format!("segment: `{input}` is not in windows.segments"));
    }
    Ok(Rule {
        name: raw.name,
        metric: raw.metric,
        inputs: raw.inputs,
        segment,
        segment_value,
        label: raw.label,
        threshold,
        over_h: (over_ms / HOUR_MS) as usize,
        for_ms: lasting
            .map_err(|problem| format!("for: {problem}"))?
            .unwrap_or(0),
        min_rows: raw.min_rows,
        severity: raw.severity,
        owner: raw.owner,
        runbook: raw.runbook,
        retrain: raw.retrain,
    })
}

impl Rule {
    /// Whether a figure is one that it judges, were there rows enough.
    pub fn takes(&self, measure: &Measure) -> bool {
        let input = |name: &String| self.inputs.is_empty() || self.inputs.contains(name);
        let of_segment = match (&measure.segment, &self.segment) {
            (None, None) => true,
            (Some(own), Some(wanted)) => {
                own.input == *wanted && self.segment_value.is_none_or(|value| value == own.key)
            }
            _ => false,
        };
        measure.metric == self.metric
            && of_segment
            && measure.input.as_ref().map_or(self.inputs.is_empty(), input)
            && (self.label.is_none() || self.label == measure.label)
    }
}

/// A length of time in milliseconds; a day has 24 hours.
fn duration_ms(text: &str) -> Result<i64, String> {
    let span: Option<Span> = text.parse().ok();
    let duration = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let milliseconds = duration.and_then(|duration| i64::try_from(duration.as_millis()).ok());
    let found = milliseconds.filter(|&milliseconds| milliseconds >= 0);
    found.ok_or_else(|| format!("expected a length of time such as 7d, 36h or 90m, got {text:?}"))
}
