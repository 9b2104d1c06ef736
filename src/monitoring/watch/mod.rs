//! Watches a model: hours become windows, windows measures, measures alerts.
//!
//! ```text
//! hour is over ──► summary ─► measures ─► rules that need no labels
//! labels are in ─► summary ─► measures, detectors of concept drift ─► rules that do
//! ```
//!
//! Time is that of the windows, never the clock: the same tables give the same alerts, whenever they are judged. A run
//! that was killed is done again from the last hour whose state was written; what it wrote is written once more.

mod state;
mod windows;

use std::collections::BTreeSet;

pub use state::{WATCH_VERSION, WatchState};

use super::alert::{Alert, Incidents, Notification, Outbox, Phase, Transition, Trigger, step};
use super::definitions::open_metrics;
use super::measure::Measures;
use super::rules::{
    JudgedHour, Judgement, Pass, Rule, RuleBook, RuleHour, Rules, Threshold, judge,
};
use super::store::{read_json, write_json};
use super::window::WindowSummary;
use super::{Hour, MonitoringError, Store, Table};
use streamrec_artifact::Artifact;

const HOUR_MS: i64 = 3_600_000;
/// Hours without a row that are judged after the last one with rows, besides those that labels take.
const EMPTY_HOURS_MAX: i64 = 24;

/// Who is watched, by which rules, where.
#[derive(Debug)]
pub struct Watch<'a> {
    /// The monitoring folder.
    pub store: &'a Store,
    /// The model.
    pub artifact: &'a Artifact,
    /// The rules.
    pub rules: &'a Rules,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct WatchReport {
    /// Hours with predictions.
    pub predicted_hours: usize,
    /// Hours that were judged.
    pub hours: usize,
    /// Hours whose labels were complete, and were judged by them.
    pub labelled_hours: usize,
    /// Incidents that were opened or changed, as lines for people.
    pub changes: Vec<String>,
    /// Triggers that were left.
    pub triggers: Vec<String>,
    /// Alerts that fire now.
    pub firing: usize,
}

impl Watch<'_> {
    /// Judges all hours that are over at `now_ms` and were not judged yet.
    ///
    /// # Errors
    /// Another command judges, a table is wrong, or the file system refuses.
    pub fn run(&self, now_ms: i64) -> Result<WatchReport, MonitoringError> {
        let _lock = self.store.lock_windows()?;
        let mut state = WatchState::open(self.store, self.artifact)?;
        let mut report = WatchReport::default();
        self.forget_rules(&mut state)?;
        RuleBook::of(self.rules).write(self.store)?;
        let hours = self.store.hours(Table::Predictions)?;
        report.predicted_hours = hours.len();
        let (Some(first), Some(last)) = (hours.first(), hours.last()) else {
            return Ok(report);
        };
        let over_ms = now_ms - i64::from(self.rules.windows.grace_minutes) * 60_000;
        let empty_ms = EMPTY_HOURS_MAX * HOUR_MS + self.rules.label_delay_ms;
        let end_ms = over_ms.min(last.end_ms().saturating_add(empty_ms));
        let mut hour = state.live.map_or(*first, Hour::of);
        self.refresh(&state, &hours, hour)?;
        while hour.end_ms() <= end_ms {
            self.live(hour, &mut state, &mut report)?;
            state.live = Some(hour.end_ms());
            let mut late = state.labelled.map_or(*first, Hour::of);
            while late.end_ms() + self.rules.label_delay_ms <= hour.end_ms() {
                self.labelled(late, &mut state, &mut report)?;
                state.labelled = Some(late.end_ms());
                late = Hour::of(late.end_ms());
            }
            state.write(self.store)?;
            hour = Hour::of(hour.end_ms());
        }
        self.expose(&state)?;
        let firing = state.alerts.iter();
        report.firing = firing.filter(|alert| alert.phase == Phase::Firing).count();
        Ok(report)
    }

    fn live(
        &self,
        hour: Hour,
        state: &mut WatchState,
        report: &mut WatchReport,
    ) -> Result<(), MonitoringError> {
        self.build(hour)?;
        report.hours += 1;
        self.judge(Pass::Live, hour, state, report)
    }

    fn labelled(
        &self,
        hour: Hour,
        state: &mut WatchState,
        report: &mut WatchReport,
    ) -> Result<(), MonitoringError> {
        let summary = self.build_labelled(hour, state)?;
        report.labelled_hours += 1;
        self.judge(Pass::Labelled, hour, state, report)?;
        state.learn(&summary);
        Ok(())
    }

    fn judge(
        &self,
        pass: Pass,
        hour: Hour,
        state: &mut WatchState,
        report: &mut WatchReport,
    ) -> Result<(), MonitoringError> {
        let own = |rule: &&Rule| Pass::of(rule.metric) == pass;
        let mut judged = JudgedHour::default();
        let rules: Vec<&Rule> = self.rules.rules.iter().filter(own).collect();
        // An hour is measured whatever the rules: dashboards show it.
        let spans: BTreeSet<usize> = rules.iter().map(|rule| rule.over_h).chain([1]).collect();
        for span in spans {
            let Some(window) = self.merged(span, hour)? else {
                continue;
            };
            let measures = self.measure(&window, state)?;
            write_json(&self.store.measures(span, hour), &measures)?;
            for &rule in rules.iter().filter(|rule| rule.over_h == span) {
                let before = self.before(rule, hour)?;
                let judgements = judge(rule, &measures, &before);
                let changes = step(rule, &judgements, hour.end_ms(), &mut state.alerts);
                self.tell(rule, &changes, hour.end_ms(), state, report)?;
                let said = said(rule, judgements, &state.alerts);
                judged.rules.insert(rule.name.clone(), said);
            }
        }
        // Windows without rows judge nothing, and end nothing.
        for rule in rules {
            let silent = || said(rule, Vec::new(), &state.alerts);
            judged.rules.entry(rule.name.clone()).or_insert_with(silent);
        }
        judged.write(self.store, pass, hour)
    }

    /// Windows before this one that do not overlap, newest last; as many as the rule compares with.
    fn before(&self, rule: &Rule, hour: Hour) -> Result<Vec<Measures>, MonitoringError> {
        let Threshold::Sigmas { windows, .. } = rule.threshold else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for step in (1..=windows as i64).rev() {
            let begin = hour.begin_ms() - step * rule.over_h as i64 * HOUR_MS;
            let path = self.store.measures(rule.over_h, Hour::of(begin));
            found.extend(read_json::<Measures>(
                &path,
                super::measure::MEASURES_VERSION,
            )?);
        }
        Ok(found)
    }

    /// Leaves what people and programs are to know of a rule's alerts.
    fn tell(
        &self,
        rule: &Rule,
        changes: &[Transition],
        end_ms: i64,
        state: &WatchState,
        report: &mut WatchReport,
    ) -> Result<(), MonitoringError> {
        let of_rule = |alert: &&Alert| alert.rule == rule.name && alert.phase == Phase::Firing;
        let firing: Vec<Alert> = state.alerts.iter().filter(of_rule).cloned().collect();
        let incidents = Incidents::new(self.store.root());
        let taken = incidents.take(self.rules, rule, changes, &firing, end_ms)?;
        let Some(mut incident) = taken else {
            return Ok(());
        };
        let fired = changes
            .iter()
            .any(|change| matches!(change, Transition::Fired(_)));
        // The incident remembers, so that a trigger that was taken away does not come again.
        if rule.retrain && fired && incident.retraining_asked_ms.is_none() {
            let manifest = &self.artifact.manifest;
            let model = [manifest.name.as_str(), manifest.data_version.as_str()];
            let own = (self.rules, rule);
            Trigger::leave(self.store.root(), model, own, &incident, &firing, end_ms)?;
            incident.retraining_asked_ms = Some(end_ms);
            incident.note(end_ms, "monitor", "asked for a new model");
            incidents.write(&incident)?;
            report.triggers.push(incident.id.clone());
        }
        let resolved: Vec<Alert> = changes
            .iter()
            .filter(|change| matches!(change, Transition::Resolved(_)))
            .map(|change| change.alert().clone())
            .collect();
        let outbox = Outbox::new(self.store.root());
        for webhook in &self.rules.webhooks {
            if rule.severity >= webhook.least {
                let name = &webhook.name;
                let post = Notification::new(self.rules, rule, name, &firing, &resolved, end_ms);
                outbox.put(end_ms, &rule.name, name, &post)?;
            }
        }
        let lines = incident
            .timeline
            .iter()
            .filter(|entry| entry.at_ms == end_ms);
        let line = |what: &str| format!("{}: {what}", incident.id);
        report.changes.extend(lines.map(|entry| line(&entry.what)));
        Ok(())
    }

    /// Leaves the newest figures and the alerts where `/metrics` finds them.
    fn expose(&self, state: &WatchState) -> Result<(), MonitoringError> {
        let spans: BTreeSet<usize> = self
            .rules
            .rules
            .iter()
            .map(|rule| rule.over_h)
            .chain([1])
            .collect();
        let mut windows = Vec::new();
        for span in spans {
            // Figures on labels are those of the newest window that has all of its labels.
            for (end_ms, late) in [(state.live, false), (state.labelled, true)] {
                let Some(end_ms) = end_ms else { continue };
                let path = self.store.measures(span, Hour::of(end_ms - HOUR_MS));
                let found = read_json::<Measures>(&path, super::measure::MEASURES_VERSION)?;
                windows.extend(found.map(|mut window| {
                    window
                        .measures
                        .retain(|measure| measure.metric.needs_labels() == late);
                    (span, window)
                }));
            }
        }
        let text = open_metrics(self.rules, &windows, &state.alerts);
        super::store::replace(&self.store.figures(), text.as_bytes())
    }

    /// Alerts of rules that are no more end with them.
    fn forget_rules(&self, state: &mut WatchState) -> Result<(), MonitoringError> {
        let known = |name: &str| self.rules.rules.iter().any(|rule| rule.name == name);
        let gone: Vec<Alert> = state
            .alerts
            .extract_if(.., |alert| !known(&alert.rule))
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        let incidents = Incidents::new(self.store.root());
        let end_ms = state.live.unwrap_or_default();
        for mut incident in incidents.all()? {
            if incident.resolved_ms.is_none() && !known(&incident.rule) {
                incident.resolved_ms = Some(end_ms);
                incident.note(end_ms, "monitor", "resolved: the rule is no more");
                incidents.write(&incident)?;
            }
        }
        Ok(())
    }

    /// The figures of a window, by what is known of scores now.
    fn measure(
        &self,
        window: &WindowSummary,
        state: &WatchState,
    ) -> Result<Measures, MonitoringError> {
        let calibration = state.calibration();
        Measures::of(
            window,
            &super::measure::Yardstick {
                artifact: self.artifact,
                reference: &self.artifact.profile,
                calibration: &calibration,
                item: self.rules.windows.item.as_deref(),
                catalogue: self.rules.windows.catalogue,
            },
        )
    }
}

/// What a rule said, and which of its alerts stand.
fn said(rule: &Rule, judgements: Vec<Judgement>, alerts: &[Alert]) -> RuleHour {
    let keys = |phase: Phase| {
        let own = alerts
            .iter()
            .filter(|alert| alert.rule == rule.name && alert.phase == phase);
        own.map(|alert| alert.judgement.key.clone()).collect()
    };
    RuleHour {
        judgements,
        pending: keys(Phase::Pending),
        firing: keys(Phase::Firing),
    }
}
