//! Sampled requests: the newest ones, those of a segment, and each with all that was asked and answered.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::Dashboard;
use super::address::{Address, encoded};
use super::page::{Page, link, moment};
use super::summary::{Columns, batches};
use crate::monitoring::prediction_log::INPUT_PREFIX;
use crate::monitoring::{Hour, MonitoringError, Table};
use crate::validation::report::chart::{escaped, number};

/// Requests of a list.
const LISTED: usize = 50;
/// Files that are looked at for a list.
const FILES_MAX: usize = 64;
/// Rows of a request that are shown.
const ROWS_SHOWN: usize = 200;

/// A request of a list.
struct Listed {
    id: String,
    time_ms: i64,
    status: String,
    version: String,
    latency_us: u32,
    rows: u64,
    score: f64,
    /// Whether one of its rows is what was asked for.
    is_wanted: bool,
}

pub(super) fn list(
    dashboard: &Dashboard,
    address: &Address,
    now_ms: i64,
) -> Result<String, MonitoringError> {
    let mut page = Page::new("Requests", address);
    let (status, input, value) = (
        address.get("status"),
        address.get("input"),
        address.get("value"),
    );
    filter_form(dashboard, &mut page, address);
    let mut found: BTreeMap<(i64, String), Listed> = BTreeMap::new();
    let mut files = 0;
    'hours: for hour in hours(dashboard, address, now_ms)? {
        for path in dashboard
            .store
            .files(Table::Predictions, hour)?
            .iter()
            .rev()
        {
            for batch in batches(path)? {
                gather(path, &batch?, input.zip(value), &mut found)?;
            }
            found.retain(|_, request| {
                request.is_wanted && status.is_none_or(|status| request.status == status)
            });
            files += 1;
            if files == FILES_MAX {
                break 'hours;
            }
        }
        if found.len() >= LISTED {
            break;
        }
    }
    let rows: Vec<Vec<String>> = found
        .values()
        .rev()
        .take(LISTED)
        .map(|request| {
            let to = address.link(&format!("/requests/{}", encoded(&request.id)), &[]);
            vec![
                link(&to, &request.id),
                moment(request.time_ms),
                escaped(&request.status),
                request.rows.to_string(),
                number(f64::from(request.latency_us) / 1e3),
                number(request.score),
                escaped(&request.version),
            ]
        })
        .collect();
    let what = match input.zip(value) {
        Some((input, value)) => format!("The newest requests with {input} = {value}"),
        None => "The newest requests".to_owned(),
    };
    let head = [
        "Request",
        "Time (UTC)",
        "Status",
        "Rows",
        "Latency in ms",
        "First score",
        "Version",
    ];
    page.table(&what, &head, &rows);
    Ok(page.html(now_ms))
}

fn filter_form(dashboard: &Dashboard, page: &mut Page<'_>, address: &Address) {
    let option = |name: &str, chosen: Option<&str>| {
        let selected = if chosen == Some(name) {
            " selected"
        } else {
            ""
        };
        format!("<option{selected}>{}</option>", escaped(name))
    };
    let status = address.get("status");
    let statuses = ["ok", "bad_request", "shed", "failed"]
        .map(|name| option(name, status))
        .concat();
    let inputs = dashboard.artifact.manifest.schema.inputs.iter();
    let inputs: String = inputs
        .map(|input| option(&input.name, address.get("input")))
        .collect();
    let value = escaped(address.get("value").unwrap_or(""));
    let hours = address.number("hours").map_or(String::new(), |hours| {
        format!("<input type=\"hidden\" name=\"hours\" value=\"{hours}\">")
    });
    page.html_part(&format!(
        "<form class=\"filter\" method=\"get\" action=\"/requests\">{hours}<div><label for=\"status\">Status</label>\
         <select id=\"status\" name=\"status\"><option value=\"\">any</option>{statuses}</select></div><div>\
         <label for=\"input\">Input</label><select id=\"input\" name=\"input\"><option value=\"\">any</option>{inputs}\
         </select></div><div><label for=\"value\">Value (empty and an input: any)</label><input id=\"value\" \
         name=\"value\" value=\"{value}\"></div><button>Find</button></form>"
    ));
}

/// The hours of a page, newest first.
fn hours(
    dashboard: &Dashboard,
    address: &Address,
    now_ms: i64,
) -> Result<Vec<Hour>, MonitoringError> {
    let back = address
        .number("hours")
        .unwrap_or(24)
        .clamp(1, super::HOURS_MAX);
    let first = Hour::of(now_ms - (back - 1) * 3_600_000);
    let mut hours = dashboard.store.hours(Table::Predictions)?;
    hours.retain(|hour| *hour >= first);
    hours.reverse();
    Ok(hours)
}

fn gather(
    path: &Path,
    batch: &RecordBatch,
    wanted: Option<(&str, &str)>,
    found: &mut BTreeMap<(i64, String), Listed>,
) -> Result<(), MonitoringError> {
    let columns = Columns { path, batch };
    let (ids, statuses) = (columns.text("request_id")?, columns.text("status")?);
    let (versions, latencies) = (columns.text("version")?, columns.counts("latency_us")?);
    let (scores, times) = (columns.floats("score")?, times(path, batch)?);
    let options = FormatOptions::default();
    let wanted = match wanted {
        None => None,
        Some((input, value)) => {
            // A model without this input has no such row.
            let Some(column) = batch.column_by_name(&format!("{INPUT_PREFIX}{input}")) else {
                return Ok(());
            };
            let formatter = ArrayFormatter::try_new(column, &options);
            Some((formatter.map_err(MonitoringError::arrow(path))?, value))
        }
    };
    for row in 0..batch.num_rows() {
        let key = (times.value(row), ids.value(row).to_owned());
        let request = found.entry(key).or_insert_with(|| Listed {
            id: ids.value(row).to_owned(),
            time_ms: times.value(row),
            status: statuses.value(row).to_owned(),
            version: versions.value(row).to_owned(),
            latency_us: latencies.value(row),
            rows: 0,
            score: if scores.is_valid(row) {
                scores.value(row).into()
            } else {
                f64::NAN
            },
            is_wanted: wanted.is_none(),
        });
        request.rows += 1;
        if let Some((formatter, value)) = &wanted {
            request.is_wanted |= formatter.value(row).to_string() == *value;
        }
    }
    Ok(())
}

fn times<'b>(
    path: &Path,
    batch: &'b RecordBatch,
) -> Result<&'b arrow::array::Int64Array, MonitoringError> {
    let column = batch.column_by_name("time_ms");
    let column = column.and_then(|column| column.as_primitive_opt::<Int64Type>());
    column.ok_or_else(|| MonitoringError::table(path, "no column `time_ms`"))
}

pub(super) fn one(
    dashboard: &Dashboard,
    address: &Address,
    id: &str,
    now_ms: i64,
) -> Result<String, MonitoringError> {
    let mut page = Page::new(&format!("Request {id}"), address);
    let mut shown = 0;
    for (table, caption) in [
        (
            Table::Predictions,
            "What was asked and answered, the inputs as the model was given them",
        ),
        (Table::Labelled, "What became of it"),
    ] {
        let mut head: Vec<String> = Vec::new();
        let mut rows: Vec<Vec<String>> = Vec::new();
        for hour in hours(dashboard, address, now_ms)? {
            for path in dashboard.store.files(table, hour)? {
                for batch in batches(&path)? {
                    add_rows(&path, &batch?, id, table, &mut head, &mut rows)?;
                }
            }
        }
        if rows.is_empty() {
            continue;
        }
        shown += rows.len();
        rows.truncate(ROWS_SHOWN);
        let head: Vec<&str> = head.iter().map(String::as_str).collect();
        page.section(caption);
        page.table(caption, &head, &rows);
    }
    if shown == 0 {
        page.paragraph("It is not in the tables of these hours: look back further, or it is not of the sample.");
    }
    if shown > ROWS_SHOWN {
        page.paragraph(&format!("The first {ROWS_SHOWN} rows of each table."));
    }
    Ok(page.html(now_ms))
}

fn add_rows(
    path: &Path,
    batch: &RecordBatch,
    id: &str,
    table: Table,
    head: &mut Vec<String>,
    rows: &mut Vec<Vec<String>>,
) -> Result<(), MonitoringError> {
    let ids = Columns { path, batch }.text("request_id")?;
    let matching: Vec<usize> = (0..batch.num_rows())
        .filter(|&row| ids.value(row) == id)
        .collect();
    if matching.is_empty() {
        return Ok(());
    }
    let schema = batch.schema();
    let is_shown = |name: &str| match table {
        Table::Predictions => name != "request_id" && name != "model",
        Table::Labelled => [
            "row",
            "label_name",
            "label",
            "label_time_ms",
            "value",
            "score",
        ]
        .contains(&name),
    };
    let shown: Vec<usize> = (0..schema.fields().len())
        .filter(|&place| is_shown(schema.field(place).name()))
        .collect();
    let names: Vec<String> = shown
        .iter()
        .map(|&place| schema.field(place).name().clone())
        .collect();
    if head.is_empty() {
        *head = names;
    } else if *head != names {
        // Another version's inputs; its rows are found by looking at fewer hours.
        return Ok(());
    }
    let options = FormatOptions::default().with_null("-");
    let formatters: Vec<(&str, ArrayFormatter<'_>)> = shown
        .iter()
        .map(|&place| {
            let formatter = ArrayFormatter::try_new(batch.column(place), &options);
            Ok((
                schema.field(place).name().as_str(),
                formatter.map_err(MonitoringError::arrow(path))?,
            ))
        })
        .collect::<Result<_, MonitoringError>>()?;
    for row in matching {
        let cell = |(name, formatter): &(&str, ArrayFormatter<'_>)| {
            let text = formatter.value(row).to_string();
            match text.parse::<i64>() {
                Ok(time) if name.ends_with("time_ms") => moment(time),
                _ => escaped(&text),
            }
        };
        rows.push(formatters.iter().map(cell).collect());
    }
    Ok(())
}
