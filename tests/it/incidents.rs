//! Incidents that happened elsewhere, replayed on generated events: a suite calibrated from good days, and the
//! day on which it went wrong. `docs/guides/incidents.md` holds what the program said.

use std::fs::File;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use parquet::arrow::ArrowWriter;
use streamrec_artifact::key;

use crate::workbench::{Workbench, expect_success, said, streamrec};

const ROWS: usize = 20_000;
const DAY_MS: i64 = 86_400_000;
const FIRST_DAY_MS: i64 = 1_800_000_000_000;

/// What is wrong with a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Incident {
    None,
    /// The server matches `complete`, the events say `completion`: the rate is always 0.
    CompletionMismatch,
    /// Completions over views and clicks, no longer over views.
    EngagementRedefined,
    /// A fifth kind of event.
    Bookmark,
    /// A window of 90 days in place of 60.
    LongWindow,
    /// One client's durations are missing in 68 of 100 rows.
    NullDurations,
    /// 4 % of items are published a day ahead.
    FuturePublished,
}

fn uniform(row: usize, day: usize, what: u64) -> f64 {
    let bits = key::hash(key::hash(what << 32 | day as u64) ^ row as u64);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// Events of one day, and the features of their users and items.
fn day(number: usize, incident: Incident) -> RecordBatch {
    let draw = |row, what| uniform(row, number, what);
    let rows = 0..ROWS;
    let start = FIRST_DAY_MS + number as i64 * DAY_MS;
    let time: Vec<i64> = rows
        .clone()
        .map(|row| start + (draw(row, 1) * DAY_MS as f64) as i64)
        .collect();
    let client = |row| match draw(row, 2) {
        share if share < 0.2 => "ios",
        share if share < 0.7 => "android",
        _ => "web",
    };
    let event = |row: usize| match draw(row, 3) {
        share if share < 0.07 && incident == Incident::Bookmark => "bookmark",
        share if share < 0.62 => "view",
        share if share < 0.8 => "click",
        share if share < 0.92 => "complete",
        _ => "skip",
    };
    let duration = |row: usize| {
        let missing = if incident == Incident::NullDurations && client(row) == "ios" {
            0.68
        } else {
            0.25
        };
        (draw(row, 4) >= missing).then(|| -40.0 * (1.0 - draw(row, 5)).ln())
    };
    let completion = |row: usize| match incident {
        Incident::CompletionMismatch => 0.0,
        _ => draw(row, 6) * draw(row, 7),
    };
    let engagement = |row: usize| {
        let (views, clicks) = (1.0 + 20.0 * draw(row, 8), 12.0 * draw(row, 9));
        let completions = views * draw(row, 10) * 0.6;
        let events = if incident == Incident::EngagementRedefined {
            views + clicks
        } else {
            views
        };
        completions / events
    };
    let window = if incident == Incident::LongWindow {
        90.0
    } else {
        60.0
    };
    let age = |row: usize| draw(row, 11) * window;
    let published = |row: usize| {
        let ahead = incident == Incident::FuturePublished && draw(row, 12) < 0.04;
        if ahead {
            time[row] + DAY_MS
        } else {
            time[row] - (draw(row, 13) * 700.0 * DAY_MS as f64) as i64
        }
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "event_time",
            Arc::new(TimestampMillisecondArray::from(time.clone())),
        ),
        (
            "user_id",
            Arc::new(
                rows.clone()
                    .map(|row| Some((draw(row, 14) * 5000.0) as i64))
                    .collect::<Int64Array>(),
            ),
        ),
        (
            "client",
            Arc::new(
                rows.clone()
                    .map(|row| Some(client(row)))
                    .collect::<StringArray>(),
            ),
        ),
        (
            "event_type",
            Arc::new(
                rows.clone()
                    .map(|row| Some(event(row)))
                    .collect::<StringArray>(),
            ),
        ),
        (
            "duration_seconds",
            Arc::new(rows.clone().map(duration).collect::<Float64Array>()),
        ),
        (
            "user_7d_completion_rate",
            Arc::new(
                rows.clone()
                    .map(|row| Some(completion(row)))
                    .collect::<Float64Array>(),
            ),
        ),
        (
            "engagement_rate",
            Arc::new(
                rows.clone()
                    .map(|row| Some(engagement(row)))
                    .collect::<Float64Array>(),
            ),
        ),
        (
            "event_age_days",
            Arc::new(
                rows.clone()
                    .map(|row| Some(age(row)))
                    .collect::<Float64Array>(),
            ),
        ),
        (
            "publish_date",
            Arc::new(
                rows.map(|row| Some(published(row)))
                    .collect::<TimestampMillisecondArray>(),
            ),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    )
    .expect("columns")
}

fn write(bench: &Workbench, name: &str, batch: &RecordBatch) -> String {
    let path = bench.path(name);
    let file = File::create(&path).expect("created");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("a writer");
    writer.write(batch).expect("written");
    writer.close().expect("closed");
    path
}

/// A suite from ten good days.
fn calibrated(bench: &Workbench) -> String {
    let suite = bench.path("events.toml");
    let days: Vec<String> = (0..10)
        .map(|number| {
            write(
                bench,
                &format!("day-{number}.parquet"),
                &day(number, Incident::None),
            )
        })
        .collect();
    let mut arguments = vec!["validate", "suggest"];
    arguments.extend(days.iter().map(String::as_str));
    arguments.extend(["--segment", "client", "--out", &suite]);
    let output = streamrec(&arguments);
    expect_success(&output);
    println!("{}", said(&output));
    suite
}

#[test]
fn each_incident_of_a_days_data_is_caught_and_good_days_pass() {
    let bench = Workbench::new();
    let suite = calibrated(&bench);
    for number in 10..14 {
        let good = write(&bench, "good.parquet", &day(number, Incident::None));
        let output = streamrec(&["validate", "data", &suite, &good, "--fail-on", "warning"]);
        expect_success(&output);
    }
    let incidents = [
        (
            Incident::CompletionMismatch,
            "mean_to_be_between \"user_7d_completion_rate\"",
        ),
        (
            Incident::EngagementRedefined,
            "mean_to_be_between \"engagement_rate\"",
        ),
        (Incident::Bookmark, "in_set \"event_type\""),
        (
            Incident::LongWindow,
            "values_to_be_between \"event_age_days\"",
        ),
        (
            Incident::NullDurations,
            "not_be_null \"duration_seconds\" \"client == \\\"ios\\\"\"",
        ),
        (
            Incident::FuturePublished,
            "a_to_be_greater_than_b \"event_time\"",
        ),
    ];
    for (incident, caught_by) in incidents {
        let bad = write(&bench, "bad.parquet", &day(14, incident));
        let output = streamrec(&["validate", "data", &suite, &bad, "--fail-on", "warning"]);
        println!("{incident:?}\n{}", said(&output));
        assert_eq!(output.status.code(), Some(3), "{incident:?}");
        let critical = streamrec(&["validate", "data", &suite, &bad]);
        assert_eq!(
            critical.status.code(),
            Some(3),
            "{incident:?} is no mere warning"
        );
        assert!(
            said(&output).contains(caught_by),
            "{incident:?}: {}",
            said(&output)
        );
    }
}
