//! A feature by the values of another: where a drift sits that all rows together hide.

use std::fmt::Write;

use streamrec_artifact::{
    ColumnKind, InputColumn, InputSketch, ProfileBuilder, SegmentProfile, SourceType,
};

use super::address::{Address, encoded};
use super::feature::{key_name, psi};
use super::page::{Page, link, percent};
use super::pillars::missing_share;
use super::summary::{batches, scored};
use super::{Dashboard, Window};
use crate::monitoring::prediction_log::raw_batch;
use crate::monitoring::{Hour, MonitoringError, Table};
use crate::validation::report::chart::number;

/// Rows that are looked at: a page must not take long.
const ROWS_MAX: u64 = 500_000;

/// Leads to the feature by each input that makes segments.
pub(super) fn links(dashboard: &Dashboard, page: &mut Page<'_>, address: &Address, name: &str) {
    page.section("By segment");
    let path = format!("/feature/{}", encoded(name));
    let mut list = String::from("<ul class=\"legend\">");
    let inputs = dashboard.artifact.manifest.schema.inputs.iter();
    for input in inputs.filter(|input| input.kind == ColumnKind::Key && input.name != name) {
        let to = address.link(&path, &[("by", &input.name)]);
        let text = format!("by {}", input.name);
        let _ = write!(list, "<li>{}</li>", link(&to, &text));
    }
    page.html_part(&(list + "</ul>"));
}

/// The segments of the input that the address chose, if it chose one.
pub(super) fn table(
    dashboard: &Dashboard,
    page: &mut Page<'_>,
    address: &Address,
    place: usize,
    window: &Window,
) -> Result<(), MonitoringError> {
    let inputs = &dashboard.artifact.manifest.schema.inputs;
    let chosen = address.get("by");
    let chosen = chosen.and_then(|by| inputs.iter().find(|input| input.name == by));
    let Some(by) = chosen.filter(|by| by.kind == ColumnKind::Key) else {
        return Ok(());
    };
    let (segments, rows) = live_segments(dashboard, window, &by.name)?;
    let profile = &dashboard.artifact.profile;
    let whole = profile.inputs[place].sketch.as_ref();
    let mut moved: Vec<(f64, Vec<String>)> = segments
        .iter()
        .map(|segment| {
            let is_own = |own: &&SegmentProfile| own.input == by.name && own.key == segment.key;
            let trained = profile.segments.iter().find(is_own);
            let then = trained.map(|own| &own.inputs[place]).or(whole);
            row(address, by, segment, then, &segment.inputs[place])
        })
        .collect();
    moved.sort_by(|a, b| b.0.total_cmp(&a.0));
    let moved: Vec<Vec<String>> = moved.into_iter().map(|(_, row)| row).collect();
    let (name, by) = (&inputs[place].name, by.name.as_str());
    let caption = format!("{name} by {by}, of {rows} rows, the most moved first");
    page.table(
        &caption,
        &[by, "Rows", "PSI", "Missing", "Missing in training"],
        &moved,
    );
    page.paragraph(
        "A segment leads to its requests. One that training did not profile is compared with all of training.",
    );
    Ok(())
}

/// How far a segment moved, and its row of the table.
fn row(
    address: &Address,
    by: &InputColumn,
    segment: &SegmentProfile,
    then: Option<&InputSketch>,
    now: &InputSketch,
) -> (f64, Vec<String>) {
    let value = match by.source {
        SourceType::Integer => segment.key.cast_signed().to_string(),
        SourceType::Boolean => (segment.key == 1).to_string(),
        _ => segment.key.to_string(),
    };
    let to = address.link("/requests", &[("input", &by.name), ("value", &value)]);
    let moved = then.map_or(f64::NAN, |then| psi(then, now));
    let missing_then = then.map_or(f64::NAN, missing_share);
    let row = vec![
        link(&to, &key_name(by, segment.key)),
        segment.rows.to_string(),
        number(moved),
        percent(missing_share(now)),
        percent(missing_then),
    ];
    (
        moved.max(0.0) + (missing_share(now) - missing_then).abs(),
        row,
    )
}

/// The segments of the newest rows of a window.
fn live_segments(
    dashboard: &Dashboard,
    window: &Window,
    by: &str,
) -> Result<(Vec<SegmentProfile>, u64), MonitoringError> {
    let schema = &dashboard.artifact.manifest.schema;
    let builder = ProfileBuilder::new(&schema.inputs, &schema.labels)
        .with_vocabularies(schema, &dashboard.artifact.vocabularies)
        .with_segments(&[by.to_owned()]);
    let mut builder =
        builder.map_err(|problem| MonitoringError::table(dashboard.store.root(), problem))?;
    let mut rows = 0;
    let hours: Vec<Hour> = window.found.iter().rev().map(|(hour, _)| *hour).collect();
    'hours: for hour in hours {
        for path in dashboard
            .store
            .files(Table::Predictions, hour)?
            .iter()
            .rev()
        {
            for batch in batches(path)? {
                if let Ok(raw) = raw_batch(path, &scored(path, &batch?)?, &schema.inputs) {
                    rows += raw.rows as u64;
                    builder
                        .observe(&raw)
                        .map_err(|error| MonitoringError::table(path, error.to_string()))?;
                }
                if rows >= ROWS_MAX {
                    break 'hours;
                }
            }
        }
    }
    Ok((builder.finish().segments, rows))
}
