//! The rules and how each of them stands, by what the monitor said last.

use std::collections::BTreeMap;

use super::address::{Address, encoded};
use super::page::{Health, Page, link, moment};
use crate::monitoring::measure::Pillar;
use crate::monitoring::rules::{
    AlertKey, JudgedHour, Judgement, Pass, Rule, RuleBook, RuleHour, Severity,
};
use crate::monitoring::{Hour, MonitoringError, Store};
use crate::validation::report::chart::{escaped, number};

/// The rules of a monitoring folder, with what was said of the newest hour.
pub(super) struct Rules {
    pub(super) book: RuleBook,
    newest: BTreeMap<String, RuleHour>,
    /// The newest hour of each pass.
    hours: BTreeMap<Pass, Hour>,
}

impl Rules {
    /// `None` before the monitor ran.
    pub(super) fn read(store: &Store) -> Result<Option<Self>, MonitoringError> {
        let Some(book) = RuleBook::read(store)? else {
            return Ok(None);
        };
        let (mut newest, mut hours) = (BTreeMap::new(), BTreeMap::new());
        for pass in [Pass::Live, Pass::Labelled] {
            if let Some(hour) = JudgedHour::hours(store, pass)?.pop() {
                newest.extend(JudgedHour::read(store, pass, hour, |_| true)?.rules);
                hours.insert(pass, hour);
            }
        }
        Ok(Some(Self {
            book,
            newest,
            hours,
        }))
    }

    /// The newest hour that a rule judged, and what it said.
    pub(super) fn newest(&self, rule: &Rule) -> Option<(Hour, &RuleHour)> {
        let hour = self.hours.get(&Pass::of(rule.metric))?;
        Some((*hour, self.newest.get(&rule.name)?))
    }

    /// How a rule stands.
    pub(super) fn health(&self, rule: &Rule) -> Health {
        match self.newest(rule).map(|(_, said)| said) {
            None => Health::Unknown,
            Some(said) if !said.firing.is_empty() => match rule.severity {
                Severity::Critical => Health::Bad,
                _ => Health::Warn,
            },
            Some(said) if !said.pending.is_empty() => Health::Warn,
            Some(said) if said.judgements.is_empty() => Health::Unknown,
            Some(_) => Health::Good,
        }
    }

    /// The rules of a pillar.
    pub(super) fn of(&self, pillar: Pillar) -> Vec<&Rule> {
        let own = self.book.rules.iter();
        own.filter(|rule| rule.metric.pillar() == pillar).collect()
    }

    /// How many of the rules fire, and how the worst of them stands.
    pub(super) fn firing(&self, pillar: Pillar) -> (usize, Health) {
        let fires = |rule: &&&Rule| {
            let newest = self.newest(rule);
            newest.is_some_and(|(_, said)| !said.firing.is_empty())
        };
        let rules = self.of(pillar);
        let firing = rules.iter().filter(fires);
        let worst = firing.clone().map(|rule| self.health(rule)).max();
        (firing.count(), worst.unwrap_or(Health::Unknown))
    }

    /// Adds a table of rules; each leads to its page.
    pub(super) fn table(
        &self,
        page: &mut Page<'_>,
        address: &Address,
        caption: &str,
        rules: &[&Rule],
    ) {
        let row = |rule: &&Rule| {
            let newest = self.newest(rule).map(|(_, said)| said);
            let worst =
                newest.and_then(|said| said.judgements.iter().max_by(|a, b| by_need(said, a, b)));
            let figure = worst.map_or_else(
                || "-".to_owned(),
                |judgement| {
                    let about = self.book.about(&judgement.key);
                    format!("{} {}", number(judgement.value), escaped(&about))
                },
            );
            vec![
                link(&address.link(&path(&rule.name), &[]), &rule.name),
                self.badge(rule),
                severity(rule.severity).to_owned(),
                escaped(rule.metric.name()),
                figure,
                escaped(&rule.threshold.to_string()),
                escaped(&rule.owner),
            ]
        };
        let rows: Vec<Vec<String>> = rules.iter().map(row).collect();
        let head = [
            "Rule",
            "State",
            "Severity",
            "Measure",
            "Nearest to its limit",
            "Fires",
            "Owner",
        ];
        page.table(caption, &head, &rows);
    }

    /// How a rule stands, in words.
    pub(super) fn badge(&self, rule: &Rule) -> String {
        let newest = self.newest(rule).map(|(_, said)| said);
        let (class, words) = match newest {
            None => ("unknown", "not judged yet"),
            Some(said) if !said.firing.is_empty() => match rule.severity {
                Severity::Critical => ("fail", "fires"),
                _ => ("hold", "fires"),
            },
            Some(said) if !said.pending.is_empty() => ("hold", "pending"),
            Some(said) if said.judgements.is_empty() => ("unknown", "nothing to judge"),
            Some(_) => ("pass", "good"),
        };
        format!("<span class=\"badge {class}\">{words}</span>")
    }
}

/// The page of a rule.
pub(super) fn path(rule: &str) -> String {
    format!("/rules/{}", encoded(rule))
}

/// The pairs of an address that name what an alert is about.
pub(super) fn pairs(key: &AlertKey) -> Vec<(&'static str, String)> {
    let mut pairs = Vec::new();
    pairs.extend(key.input.iter().map(|input| ("input", input.clone())));
    pairs.extend(key.label.iter().map(|label| ("label", label.clone())));
    if let Some(segment) = &key.segment {
        pairs.push(("segment", segment.input.clone()));
        pairs.push(("key", segment.key.to_string()));
    }
    pairs
}

pub(super) fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    }
}

/// Which of two figures needs a look first: one that fires, else the one nearer to its limit.
pub(super) fn by_need(said: &RuleHour, a: &Judgement, b: &Judgement) -> std::cmp::Ordering {
    let fires = |judgement: &Judgement| said.firing.contains(&judgement.key);
    let rank = |judgement: &Judgement| (fires(judgement), judgement.breach);
    rank(a)
        .cmp(&rank(b))
        .then_with(|| nearness(a).total_cmp(&nearness(b)))
        // Of equals, the first by name.
        .then_with(|| b.key.cmp(&a.key))
}

/// How near to a limit a figure is: 1 at it, more beyond.
fn nearness(judgement: &Judgement) -> f64 {
    let value = judgement.value;
    let over = |share: f64| if share.is_finite() { share } else { 0.0 };
    match judgement.bounds {
        [Some(low), Some(high)] => {
            let middle = f64::midpoint(low, high);
            over((value - middle).abs() / (high - middle))
        }
        [None, Some(high)] => over(value / high),
        [Some(low), None] => over(low / value),
        [None, None] => 0.0,
    }
}

pub(super) fn list(
    store: &Store,
    address: &Address,
    now_ms: i64,
) -> Result<String, MonitoringError> {
    let mut page = Page::new("Rules", address);
    let Some(rules) = Rules::read(store)? else {
        page.paragraph("No rules judged so far: run `streamrec monitor run --rules RULES.toml`.");
        return Ok(page.html(now_ms));
    };
    let mut told = Vec::new();
    for (pass, hour) in &rules.hours {
        let what = match pass {
            Pass::Live => "Judged up to",
            Pass::Labelled => "by labels up to",
        };
        told.push(format!("{what} {} UTC", moment(hour.end_ms())));
    }
    if !told.is_empty() {
        page.paragraph(&format!("{}.", told.join(", ")));
    }
    let mut all: Vec<&Rule> = rules.book.rules.iter().collect();
    // What needs someone stands first; `Unknown` is least.
    all.sort_by_key(|rule| {
        (
            std::cmp::Reverse(rules.health(rule)),
            std::cmp::Reverse(rule.severity),
        )
    });
    rules.table(&mut page, address, "All rules, those that fire first", &all);
    Ok(page.html(now_ms))
}
