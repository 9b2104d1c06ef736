//! A suite calibrated from days of data, for a person to review.
//!
//! Every limit is what was seen on any day, and a margin: twice or half the rows, a fifth more missing values, the
//! quantiles' range and half of it on either side. What was observed stands in each expectation's `meta`.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::history::{self, Day, DayColumn, Days, Gather, SET_MAX};
use super::source::Table;
use super::suite::{Severity, WrittenExpectation, WrittenSuite};
use super::{ExpectationError, Suite};

/// Fewer rows of a segment say nothing of its share of missing values.
const SEGMENT_ROWS_MIN: u64 = 200;
/// Fewer days do not say how much a mean may move before it is a fault.
const DAYS_SURE: usize = 7;
const QUANTILES: [f64; 3] = [0.1, 0.5, 0.9];

/// What a suite is calibrated from.
#[derive(Debug, Clone, Default)]
pub struct SuggestSettings {
    /// The suite's name.
    pub name: String,
    /// A column of times: its UTC days are the days. Where unset, each table is a day.
    pub time: Option<String>,
    /// A column of texts: missing values are expected by its values, too.
    pub segment: Option<String>,
}

/// A suite that all these days meet.
///
/// # Errors
/// Tables that cannot be read, of different columns, or without the columns that the settings name.
pub fn suggest(
    tables: &[Table],
    settings: &SuggestSettings,
) -> Result<WrittenSuite, ExpectationError> {
    let first = tables
        .first()
        .ok_or_else(|| ExpectationError::Arrow("there is no data to learn from".into()))?;
    let mut days = Days::new();
    for (place, table) in tables.iter().enumerate() {
        if table.schema().fields() != first.schema().fields() {
            return Err(table.failed(&format!(
                "its columns differ from those of {}; give days of one table",
                first.name()
            )));
        }
        let column = |name: &Option<String>| {
            let place = name.as_ref().map(|name| {
                let found = table.schema().index_of(name);
                found.map_err(|_| table.without(name))
            });
            place.transpose()
        };
        let gather = Gather {
            table,
            columns: (0..table.schema().fields().len()).collect(),
            time: column(&settings.time)?,
            segment: column(&settings.segment)?,
            place: place as i64,
        };
        let bundles = [gather.columns.clone()];
        table.scan(&bundles, None, true, &gather, |_, found| {
            history::merge(&mut days, found)
        })?;
    }
    let days: Vec<Day> = days.into_values().filter(|day| day.rows > 0).collect();
    if days.is_empty() {
        return Err(first.failed(&"it has no rows to learn from; give days with rows"));
    }
    let names: Vec<String> = first
        .schema()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    let mut writer = Writer {
        names: &names,
        days: &days,
        settings,
        expectations: Vec::new(),
    };
    writer.table();
    (0..names.len()).for_each(|column| writer.column(column));
    writer.pairs();
    let written = WrittenSuite {
        name: settings.name.clone(),
        expectations: writer.expectations,
        meta: json!({"days": days.len(), "rows": days.iter().map(|day| day.rows).sum::<u64>()}),
        id: None,
        notes: None,
        suite_parameters: None,
    };
    // What is suggested can be judged.
    Suite::of(written.clone()).map_err(|problems| ExpectationError::Arrow(problems.join("; ")))?;
    Ok(written)
}

struct Writer<'a> {
    names: &'a [String],
    days: &'a [Day],
    settings: &'a SuggestSettings,
    expectations: Vec<WrittenExpectation>,
}

impl Writer<'_> {
    fn add(&mut self, kind: &str, kwargs: Value, observed: Value, severity: Severity) {
        let kwargs = kwargs.as_object().cloned().unwrap_or_default();
        let mut meta = Map::new();
        meta.insert("observed".into(), observed);
        self.expectations.push(WrittenExpectation {
            kind: kind.into(),
            kwargs,
            meta: Value::Object(meta),
            severity,
            id: None,
            notes: None,
            description: None,
            rendered_content: None,
        });
    }

    /// Volume and columns.
    fn table(&mut self) {
        let rows = self.days.iter().map(|day| day.rows);
        let (least, most) = (rows.clone().min().unwrap_or(0), rows.max().unwrap_or(0));
        let kwargs = json!({"min_value": least / 2, "max_value": most.saturating_mul(2)});
        self.add(
            "expect_table_row_count_to_be_between",
            kwargs,
            json!([least, most]),
            Severity::Critical,
        );
        let kwargs = json!({"column_set": self.names, "exact_match": true});
        self.add(
            "expect_table_columns_to_match_set",
            kwargs,
            json!(self.names.len()),
            Severity::Critical,
        );
    }

    fn column(&mut self, column: usize) {
        let name = self.names[column].clone();
        self.missing(&name, column);
        let days: Vec<&DayColumn> = self.days.iter().map(|day| &day.columns[column]).collect();
        let texts: BTreeSet<&String> = days.iter().flat_map(|day| &day.texts).collect();
        if !texts.is_empty() && texts.len() <= SET_MAX {
            let kwargs = json!({"column": name, "value_set": texts});
            self.add(
                "expect_column_values_to_be_in_set",
                kwargs,
                json!(texts.len()),
                Severity::Critical,
            );
        }
        let counted: Vec<&&DayColumn> = days.iter().filter(|day| day.moments.count() > 0).collect();
        if !counted.is_empty() {
            self.numbers(&name, &counted);
        }
        let first = days
            .iter()
            .filter_map(|day| day.times)
            .map(|[first, _]| first)
            .min();
        if let Some(first) = first.and_then(|first| jiff::Timestamp::from_microsecond(first).ok()) {
            let kwargs = json!({"column": name, "min_value": first.to_string()});
            self.add(
                "expect_column_values_to_be_between",
                kwargs,
                json!(first.to_string()),
                Severity::Warning,
            );
        }
    }

    fn missing(&mut self, name: &str, column: usize) {
        let rates = self
            .days
            .iter()
            .map(|day| day.columns[column].missing as f64 / day.rows as f64);
        let most = rates.fold(0.0, f64::max);
        if most < 1.0 {
            let kwargs = json!({"column": name, "mostly": mostly(most)});
            self.add(
                "expect_column_values_to_not_be_null",
                kwargs,
                json!(most),
                Severity::Critical,
            );
        }
        let Some(segment) = self
            .settings
            .segment
            .clone()
            .filter(|segment| segment != name)
        else {
            return;
        };
        let days = || self.days.iter().map(|day| &day.columns[column].by_segment);
        let values: BTreeSet<String> = days().flat_map(|counts| counts.keys().cloned()).collect();
        let mut found = Vec::new();
        for value in values
            .into_iter()
            .filter(|value| !value.contains(['"', '\'', '\\']))
        {
            let counts = days()
                .filter_map(|counts| counts.get(&value))
                .filter(|[rows, _]| *rows >= SEGMENT_ROWS_MIN);
            let rates: Vec<f64> = counts
                .map(|[rows, missing]| *missing as f64 / *rows as f64)
                .collect();
            let most = rates.iter().copied().fold(0.0, f64::max);
            if !rates.is_empty() && most > 0.0 && most < 1.0 {
                found.push((value, most));
            }
        }
        for (value, most) in found {
            let condition = format!("{segment} == \"{value}\"");
            let kwargs = json!({
                "column": name, "mostly": mostly(most), "row_condition": condition, "condition_parser": "pandas",
            });
            self.add(
                "expect_column_values_to_not_be_null",
                kwargs,
                json!(most),
                Severity::Critical,
            );
        }
    }

    fn numbers(&mut self, name: &str, days: &[&&DayColumn]) {
        let least = days
            .iter()
            .filter_map(|day| day.quantiles.min())
            .fold(f64::INFINITY, f64::min);
        let most = days
            .iter()
            .filter_map(|day| day.quantiles.max())
            .fold(f64::NEG_INFINITY, f64::max);
        let room = 0.1 * (most - least);
        // What was never negative stays so.
        let floor = if least >= 0.0 {
            (least - room).max(0.0)
        } else {
            least - room
        };
        let kwargs =
            json!({"column": name, "min_value": floor, "max_value": most + room, "mostly": 0.999});
        self.add(
            "expect_column_values_to_be_between",
            kwargs,
            json!([least, most]),
            Severity::Critical,
        );
        let daily: Vec<Vec<f64>> = days
            .iter()
            .map(|day| day.quantiles.quantiles(&QUANTILES))
            .collect();
        let ends = |place: usize| {
            let values = daily.iter().map(|quantiles| quantiles[place]);
            let low = values.clone().fold(f64::INFINITY, f64::min);
            let high = values.fold(f64::NEG_INFINITY, f64::max);
            [low, high]
        };
        let spread = ends(2)[1] - ends(0)[0];
        let range = |place: usize| {
            let [low, high] = ends(place);
            // What changes from day to day, as much again, and a twentieth of the whole for what a few days hide.
            let room = 0.5 * (high - low) + 0.05 * spread;
            json!([low - room, high + room])
        };
        let ranges: Vec<Value> = (0..QUANTILES.len()).map(range).collect();
        let kwargs = json!({"column": name, "quantile_ranges": {"quantiles": QUANTILES, "value_ranges": ranges}});
        let observed: Vec<[f64; 2]> = (0..QUANTILES.len()).map(ends).collect();
        self.add(
            "expect_column_quantile_values_to_be_between",
            kwargs,
            json!(observed),
            Severity::Warning,
        );
        let means = days.iter().map(|day| day.moments.mean());
        let (low, high) = means.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), mean| {
            (low.min(mean), high.max(mean))
        });
        let std = days.iter().map(|day| day.moments.std()).fold(0.0, f64::max);
        // A mean a quarter of a standard deviation away is another column: a rate of something else, or of nothing.
        let sure = (days.len() >= DAYS_SURE).then_some((1.5, 0.25, Severity::Critical));
        for (days, stds, severity) in [(0.5, 0.05, Severity::Warning)].into_iter().chain(sure) {
            let room = days * (high - low) + stds * std;
            let kwargs = json!({"column": name, "min_value": low - room, "max_value": high + room});
            let observed = json!([low, high]);
            self.add(
                "expect_column_mean_to_be_between",
                kwargs,
                observed,
                severity,
            );
        }
    }

    /// Times of which one was never later than another.
    fn pairs(&mut self) {
        let is_time = |column: &usize| {
            self.days
                .iter()
                .any(|day| day.columns[*column].times.is_some())
        };
        let times: Vec<usize> = (0..self.names.len()).filter(is_time).collect();
        let ever = |a: usize, b: usize| self.days.iter().any(|day| day.later.contains(&(a, b)));
        let mut found = Vec::new();
        for &earlier in &times {
            for &later in times.iter().filter(|later| **later != earlier) {
                if !ever(earlier, later) && ever(later, earlier) {
                    found.push((later, earlier));
                }
            }
        }
        for (later, earlier) in found {
            let kwargs = json!({
                "column_A": self.names[later], "column_B": self.names[earlier], "or_equal": true,
                "ignore_row_if": "either_value_is_missing",
            });
            self.add(
                "expect_column_pair_values_a_to_be_greater_than_b",
                kwargs,
                json!(0),
                Severity::Critical,
            );
        }
    }
}

/// A fifth more missing values than on the worst day, and one in a hundred more.
fn mostly(most: f64) -> f64 {
    if most == 0.0 {
        return 1.0;
    }
    let share = (1.0 - 1.2 * most - 0.01).max(0.0);
    (share * 1e4).floor() / 1e4
}
