//! One rule: what it asks, its measure over the hours with the limits of each moment, and when it fired.

use super::HOURS_MAX;
use super::address::{Address, encoded};
use super::incidents;
use super::page::{Page, link, moment};
use super::rules::{Rules, by_need, pairs, path, severity};
use crate::monitoring::rules::{AlertKey, JudgedHour, Judgement, Pass, Rule, RuleBook, RuleHour};
use crate::monitoring::{Hour, MonitoringError, Store};
use crate::validation::report::chart::{Chart, Series, escaped, number};
use crate::validation::report::table::with_figures;

const HOUR_MS: i64 = 3_600_000;
/// Charts of a page at most; the table leads to the others.
const CHARTS: usize = 8;

/// What was said of the hours that a page shows.
struct Story {
    hours: i64,
    /// The hour at 0.
    last: Hour,
    /// Whether that is the hour of now.
    is_now: bool,
    said: Vec<(Hour, RuleHour)>,
}

/// `None` where there is no such rule.
pub(super) fn page(
    store: &Store,
    address: &Address,
    name: &str,
    now_ms: i64,
) -> Result<Option<String>, MonitoringError> {
    let Some(rules) = Rules::read(store)? else {
        return Ok(None);
    };
    let Some(rule) = rules.book.rule(name) else {
        return Ok(None);
    };
    let mut page = Page::new(&format!("Rule {name}"), address);
    about(&mut page, &rules, rule);
    let story = Story::read(store, address, rule, now_ms)?;
    page.section("Over the hours");
    story.charts(&mut page, &rules.book, rule, &wanted(address));
    page.section("Figures of the newest window");
    match story.newest() {
        Some((hour, said)) => figures(&mut page, address, &rules.book, rule, hour, said),
        None => page.paragraph("There is none in these hours."),
    }
    page.section("Incidents");
    incidents::of_rule(store, &mut page, address, name)?;
    Ok(Some(page.html(now_ms)))
}

/// What the rule is, as its file has it.
fn about(page: &mut Page<'_>, rules: &Rules, rule: &Rule) {
    page.html_part(&format!("<p>{}</p>", rules.badge(rule)));
    page.paragraph(&format!("{}.", rule.metric.says()));
    let after = match rule.for_ms {
        0 => "the first window".to_owned(),
        ms => hours(ms as f64 / HOUR_MS as f64),
    };
    let facts = [
        ("Fires", rule.threshold.to_string()),
        ("After", after),
        ("Window", hours(rule.over_h as f64)),
        ("Least rows", rule.min_rows.to_string()),
        ("Severity", severity(rule.severity).to_owned()),
        ("Owner", rule.owner.clone()),
    ];
    let fact = |(name, value): (&str, String)| {
        format!("<div><dt>{name}</dt><dd>{}</dd></div>", escaped(&value))
    };
    let facts: String = facts.into_iter().map(fact).collect();
    page.html_part(&format!("<dl class=\"facts\">{facts}</dl>"));
    if rule.retrain {
        page.paragraph("When it fires, it asks for a new model.");
    }
    incidents::runbook(page, &rule.name, &rule.runbook);
}

fn hours(count: f64) -> String {
    match count {
        1.0 => "1 hour".to_owned(),
        count if count.fract() == 0.0 => format!("{count:.0} hours"),
        count => format!("{} hours", number(count)),
    }
}

/// The one alert that an address asks for; all where it names none.
fn wanted(address: &Address) -> impl Fn(&AlertKey) -> bool {
    let of = |name: &str| address.get(name).map(str::to_owned);
    let (input, label, segment) = (of("input"), of("label"), of("segment"));
    let key: Option<u64> = address.get("key").and_then(|key| key.parse().ok());
    move |own: &AlertKey| {
        let own_segment = own.segment.as_ref();
        (input.is_none() || own.input == input)
            && (label.is_none() || own.label == label)
            && segment
                .as_ref()
                .is_none_or(|wanted| own_segment.is_some_and(|own| own.input == *wanted))
            && key.is_none_or(|wanted| own_segment.is_some_and(|own| own.key == wanted))
    }
}

/// All figures of a window; each leads to its own chart, and on to its input.
fn figures(
    page: &mut Page<'_>,
    address: &Address,
    book: &RuleBook,
    rule: &Rule,
    hour: Hour,
    said: &RuleHour,
) {
    let mut judgements: Vec<&Judgement> = said.judgements.iter().collect();
    judgements.sort_by(|a, b| by_need(said, b, a));
    let row = |judgement: &&Judgement| {
        let key = &judgement.key;
        let about = named(book, key);
        let own = pairs(key);
        let own: Vec<(&str, &str)> = own
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let feature = match &key.input {
            // Scores are no input, and have no page.
            Some(input) if !input.starts_with("score of ") => {
                let by = key
                    .segment
                    .iter()
                    .map(|segment| ("by", segment.input.as_str()));
                let by: Vec<(&str, &str)> = by.collect();
                link(
                    &address.link(&format!("/feature/{}", encoded(input)), &by),
                    input,
                )
            }
            _ => "-".to_owned(),
        };
        let [low, high] = limits(judgement);
        vec![
            link(&address.link(&path(&rule.name), &own), &about),
            number(judgement.value),
            low,
            high,
            judgement.rows.to_string(),
            state(said, key, judgement.breach).to_owned(),
            feature,
        ]
    };
    let rows: Vec<Vec<String>> = judgements.iter().map(row).collect();
    let end = moment(hour.end_ms());
    let caption = format!(
        "The window of {} to {end} UTC, nearest to its limit first",
        hours(rule.over_h as f64)
    );
    let head = [
        "What", "Value", "At least", "At most", "Rows", "State", "Feature",
    ];
    page.table(&caption, &head, &rows);
}

fn named(book: &RuleBook, key: &AlertKey) -> String {
    match book.about(key) {
        about if about.is_empty() => "all rows".to_owned(),
        about => about,
    }
}

fn limits(judgement: &Judgement) -> [String; 2] {
    judgement
        .bounds
        .map(|bound| bound.map_or_else(|| "-".to_owned(), number))
}

/// How an alert stands in a window.
fn state(said: &RuleHour, key: &AlertKey, breach: bool) -> &'static str {
    if said.firing.contains(key) {
        "fires"
    } else if said.pending.contains(key) {
        "pending"
    } else if breach {
        "too much"
    } else {
        "good"
    }
}

impl Story {
    fn read(
        store: &Store,
        address: &Address,
        rule: &Rule,
        now_ms: i64,
    ) -> Result<Self, MonitoringError> {
        let hours = address.number("hours").unwrap_or(24).clamp(1, HOURS_MAX);
        let until = address.number("until").filter(|until| *until > 0);
        let last = Hour::of(until.unwrap_or(now_ms));
        let first = Hour::of(last.begin_ms().saturating_sub((hours - 1) * HOUR_MS));
        let pass = Pass::of(rule.metric);
        let mut said = Vec::new();
        for hour in JudgedHour::hours(store, pass)? {
            if (first..=last).contains(&hour) {
                let mut judged = JudgedHour::read(store, pass, hour, |name| name == rule.name)?;
                said.extend(judged.rules.remove(&rule.name).map(|said| (hour, said)));
            }
        }
        Ok(Self {
            hours,
            last,
            is_now: until.is_none(),
            said,
        })
    }

    /// The newest hour that has figures.
    fn newest(&self) -> Option<(Hour, &RuleHour)> {
        let mut newest = self.said.iter().rev();
        let (hour, said) = newest.find(|(_, said)| !said.judgements.is_empty())?;
        Some((*hour, said))
    }

    /// Hours from the last one.
    fn at(&self, hour: Hour) -> f64 {
        (hour.begin_ms() - self.last.begin_ms()) as f64 / HOUR_MS as f64
    }

    /// A chart for each alert, those that need a look first.
    fn charts(
        &self,
        page: &mut Page<'_>,
        book: &RuleBook,
        rule: &Rule,
        wanted: &impl Fn(&AlertKey) -> bool,
    ) {
        let mut keys: Vec<(AlertKey, (usize, usize))> = Vec::new();
        for (_, said) in &self.said {
            for judgement in &said.judgements {
                let key = &judgement.key;
                if !wanted(key) {
                    continue;
                }
                let place = keys.iter().position(|(own, _)| own == key);
                let place = place.unwrap_or_else(|| {
                    keys.push((key.clone(), (0, 0)));
                    keys.len() - 1
                });
                let need = &mut keys[place].1;
                need.0 += usize::from(said.firing.contains(key));
                need.1 += usize::from(judgement.breach);
            }
        }
        keys.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        if keys.is_empty() {
            page.paragraph(&format!(
                "It judged nothing in these {} hours: a window needs at least {} rows. Look back further.",
                self.hours, rule.min_rows
            ));
            return;
        }
        let count = keys.len();
        let charts: String = keys
            .iter()
            .take(CHARTS)
            .map(|(key, _)| self.chart(&title(book, rule, key), key))
            .collect();
        page.html_part(&format!("<div class=\"charts\">{charts}</div>"));
        if count > CHARTS {
            page.paragraph(&format!(
                "{CHARTS} of {count}, those that fired longest first; the table leads to each."
            ));
        }
    }

    fn chart(&self, title: &str, key: &AlertKey) -> String {
        let mut value = Vec::new();
        let mut bounds = [Vec::new(), Vec::new()];
        let mut rows = Vec::new();
        for (hour, said) in &self.said {
            let at = self.at(*hour);
            let judgement = said
                .judgements
                .iter()
                .find(|judgement| judgement.key == *key);
            let Some(judgement) = judgement else { continue };
            value.push([at, judgement.value]);
            for (points, bound) in bounds.iter_mut().zip(judgement.bounds) {
                points.extend(bound.map(|bound| [at, bound]));
            }
            let [low, high] = limits(judgement);
            rows.push(vec![
                moment(hour.end_ms()),
                number(judgement.value),
                low,
                high,
                judgement.rows.to_string(),
                state(said, key, judgement.breach).to_owned(),
            ]);
        }
        let series = |name: &str, points| Series {
            name: name.to_owned(),
            points,
        };
        let [low, high] = bounds;
        let x = if self.is_now {
            "hours from the current one".to_owned()
        } else {
            format!("hours from {} UTC", moment(self.last.begin_ms()))
        };
        let chart = Chart {
            title,
            x: &x,
            series: &[series("measured", value)],
            limits: &[series("at least", low), series("at most", high)],
            spans: &self.spans(key),
            spans_name: "fires",
            range: Some([1.0 - self.hours as f64, 0.0]),
            ..Chart::default()
        };
        let head = [
            "End of the window",
            "Measured",
            "At least",
            "At most",
            "Rows",
            "State",
        ];
        with_figures(title, &chart.figure(), &head, &rows)
    }

    /// When an alert fired, half an hour to each side of its windows.
    fn spans(&self, key: &AlertKey) -> Vec<[f64; 2]> {
        let mut spans: Vec<[f64; 2]> = Vec::new();
        for (hour, said) in &self.said {
            if !said.firing.contains(key) {
                continue;
            }
            let at = self.at(*hour);
            match spans.last_mut() {
                Some(span) if span[1] >= at - 0.5 => span[1] = at + 0.5,
                _ => spans.push([at - 0.5, at + 0.5]),
            }
        }
        spans
    }
}

fn title(book: &RuleBook, rule: &Rule, key: &AlertKey) -> String {
    format!("{} {}", rule.metric, book.about(key))
        .trim_end()
        .to_owned()
}
