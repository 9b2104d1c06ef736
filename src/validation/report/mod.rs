//! The report of a run: one HTML file that needs no network, in light and dark.
//!
//! ```text
//! journal, evaluations ─┐
//! profile, verdict ─────┼─► sections: tables, and charts as inline SVG ─► report.html
//! scores of a split ────┘
//! ```

pub mod chart;
mod page;

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use streamrec_artifact::{InputProfile, MISSING_KEY, Profile, Verdict};

use super::gate::{Evidence, Metric};
use chart::{Series, bars, lines, number};
use page::{Cell, Page};

/// Bins of calibration plots and score distributions.
const BINS: usize = 20;
/// Segments that are shown of each input.
const SEGMENTS_SHOWN: usize = 12;

/// What a report is made from; what is not there has no section.
#[derive(Debug, Default)]
pub struct ReportSources<'a> {
    /// The run's name.
    pub name: String,
    /// Lines of `metrics.jsonl`.
    pub journal: Vec<Value>,
    /// Lines of `evaluations.jsonl`.
    pub evaluations: Vec<Value>,
    /// The artifact's profile.
    pub profile: Option<&'a Profile>,
    /// The artifact's verdict.
    pub verdict: Option<&'a Verdict>,
    /// The artifact's scores of some rows.
    pub evidence: Option<&'a Evidence>,
}

/// The page.
pub fn report(sources: &ReportSources<'_>) -> String {
    let mut page = Page::new(&format!("Report of {}", sources.name));
    if let Some(verdict) = sources.verdict {
        gate(&mut page, verdict);
    }
    training(&mut page, &sources.journal);
    evaluations(&mut page, &sources.evaluations);
    if let Some(evidence) = sources.evidence {
        scores(&mut page, evidence);
        segments(&mut page, evidence);
    }
    if let Some(profile) = sources.profile {
        data(&mut page, profile);
    }
    page.html()
}

fn gate(page: &mut Page, verdict: &Verdict) {
    let about = format!(
        "{} by the gate {} on data {}, {}.",
        verdict.outcome, verdict.gate, verdict.data_version, verdict.created
    );
    page.section("Gate", &about);
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    let row = |finding: &Value| {
        let interval = finding["interval"]
            .as_array()
            .map_or_else(String::new, |ends| {
                let ends: Vec<String> = ends
                    .iter()
                    .map(|end| number(end.as_f64().unwrap_or(f64::NAN)))
                    .collect();
                format!("[{}]", ends.join(", "))
            });
        vec![
            Cell::Outcome(text(finding, "outcome")),
            Cell::Text(text(finding, "asked")),
            Cell::Number(
                finding["observed"]
                    .as_f64()
                    .map_or_else(String::new, number),
            ),
            Cell::Number(interval),
            Cell::Number(finding["rows"].to_string()),
            Cell::Text(text(finding, "reason")),
        ]
    };
    let rows: Vec<Vec<Cell>> = verdict.findings.iter().map(row).collect();
    page.table(
        &["", "Asked for", "Observed", "Interval", "Rows", "Why"],
        &rows,
    );
}

/// Curves by kind of record and measure.
fn training(page: &mut Page, journal: &[Value]) {
    let mut curves: BTreeMap<(&str, String), Vec<[f64; 2]>> = BTreeMap::new();
    for record in journal {
        let (Some(kind), Some(step)) = (record["kind"].as_str(), record["step"].as_f64()) else {
            continue;
        };
        for measure in [
            "loss",
            "log_loss",
            "auc",
            "gauc",
            "calibration",
            "gradient_norm",
            "learning_rate",
        ] {
            if let Some(value) = record[measure].as_f64() {
                curves
                    .entry((measure, kind.to_owned()))
                    .or_default()
                    .push([step, value]);
            }
        }
    }
    if curves.is_empty() {
        return;
    }
    page.section("Training", "By step; each kind of record is a line.");
    let chart = |title: &str, measures: &[&str]| {
        let series: Vec<Series> = curves
            .iter()
            .filter(|((measure, _), _)| measures.contains(measure))
            .map(|((measure, kind), points)| Series {
                name: format!("{kind} {measure}"),
                points: points.clone(),
            })
            .collect();
        (!series.is_empty()).then(|| lines(title, "step", "", &series, false))
    };
    let charts = [
        chart("Loss", &["loss", "log_loss"]),
        chart("AUC", &["auc", "gauc"]),
        chart("Calibration: predictions over labels", &["calibration"]),
        chart("Gradient norm", &["gradient_norm"]),
    ];
    let charts: Vec<String> = charts.into_iter().flatten().collect();
    page.charts(&charts);
}

fn evaluations(page: &mut Page, evaluations: &[Value]) {
    let mut rows = Vec::new();
    for record in evaluations {
        for (label, found) in record["labels"].as_object().into_iter().flatten() {
            let measure =
                |name: &str| Cell::Number(found[name].as_f64().map_or_else(String::new, number));
            rows.push(vec![
                Cell::Text(format!(
                    "{} {}",
                    record["split"].as_str().unwrap_or_default(),
                    label
                )),
                Cell::Text(
                    record["data_version"]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned(),
                ),
                Cell::Number(record["step"].to_string()),
                Cell::Number(found["rows"].to_string()),
                measure("auc"),
                measure("best_auc"),
                measure("gauc"),
                measure("log_loss"),
                measure("normalised_entropy"),
                measure("calibration"),
            ]);
        }
    }
    if !rows.is_empty() {
        page.section("Evaluations", "");
        let head = [
            "Split and label",
            "Data",
            "Step",
            "Rows",
            "AUC",
            "Best possible",
            "GAUC",
            "Log loss",
            "Norm. entropy",
            "Calibration",
        ];
        page.table(&head, &rows);
    }
}

fn scores(page: &mut Page, evidence: &Evidence) {
    page.section(
        "Calibration and scores",
        "In bins of as many rows each; a calibrated model lies on the diagonal.",
    );
    let mut charts = Vec::new();
    for (head, label) in evidence.labels.iter().enumerate() {
        let (scores, labels) = (&evidence.challenger[head], &evidence.label_values[head]);
        let mut order: Vec<usize> = (0..scores.len())
            .filter(|&row| scores[row].is_finite())
            .collect();
        order.sort_unstable_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        let mean = |rows: &[usize], of: &[f32]| {
            rows.iter().map(|&row| f64::from(of[row])).sum::<f64>() / rows.len() as f64
        };
        let size = order.len().div_ceil(BINS).max(1);
        let points = order
            .chunks(size)
            .map(|rows| [mean(rows, scores), mean(rows, labels)])
            .collect();
        let series = [Series {
            name: label.clone(),
            points,
        }];
        charts.push(lines(
            &format!("Calibration of {label}"),
            "predicted",
            "happened",
            &series,
            true,
        ));
        let mut counts = [0u64; BINS];
        for &row in &order {
            counts[((scores[row] * BINS as f32) as usize).min(BINS - 1)] += 1;
        }
        let bar = |(place, count): (usize, &u64)| {
            let edge = |place: usize| place as f64 / BINS as f64;
            [
                edge(place),
                edge(place + 1),
                *count as f64 / order.len().max(1) as f64,
            ]
        };
        let heights: Vec<[f64; 3]> = counts.iter().enumerate().map(bar).collect();
        charts.push(bars(
            &format!("Scores of {label}"),
            "probability",
            "share of rows",
            &heights,
        ));
    }
    page.charts(&charts);
}

fn segments(page: &mut Page, evidence: &Evidence) {
    let mut rows = Vec::new();
    for (input, (source, keys)) in &evidence.columns {
        let mut members: HashMap<u64, Vec<usize>> = HashMap::new();
        for (row, &key) in keys
            .iter()
            .enumerate()
            .filter(|(_, key)| **key != MISSING_KEY)
        {
            members.entry(key).or_default().push(row);
        }
        let mut members: Vec<(u64, Vec<usize>)> = members.into_iter().collect();
        members.sort_by_key(|(key, rows)| (std::cmp::Reverse(rows.len()), *key));
        for (key, of) in members.iter().take(SEGMENTS_SHOWN) {
            let value = match source {
                crate::data::SourceType::Text => format!("key {key:016x}"),
                _ => key.cast_signed().to_string(),
            };
            for (head, label) in evidence.labels.iter().enumerate() {
                let metric = |metric| Cell::Number(number(evidence.metric(metric, head, of)));
                let positives: f64 = of
                    .iter()
                    .map(|&row| f64::from(evidence.label_values[head][row]))
                    .sum();
                rows.push(vec![
                    Cell::Text(format!("{input} = {value}")),
                    Cell::Text(label.clone()),
                    Cell::Number(of.len().to_string()),
                    Cell::Number(number(positives / of.len() as f64)),
                    metric(Metric::Auc),
                    metric(Metric::LogLoss),
                    metric(Metric::CalibrationBias),
                ]);
            }
        }
    }
    if !rows.is_empty() {
        page.section("Segments", "The largest of each input that was asked for.");
        page.table(
            &[
                "Segment",
                "Label",
                "Rows",
                "Base rate",
                "AUC",
                "Log loss",
                "Calibration bias",
            ],
            &rows,
        );
    }
}

fn data(page: &mut Page, profile: &Profile) {
    page.section(
        "Data",
        &format!("The training split: {} rows.", profile.rows),
    );
    let share = |count: u64| number(count as f64 / profile.rows.max(1) as f64);
    let row =
        |input: &InputProfile| {
            let numbers = input.numbers.as_ref();
            let text = |value: Option<f64>| Cell::Number(value.map_or_else(String::new, number));
            vec![
                Cell::Text(input.name.clone()),
                Cell::Number(share(input.missing)),
                Cell::Number(share(input.out_of_range)),
                text(input.keys.as_ref().map(|keys| keys.distinct as f64)),
                text(numbers.map(|numbers| numbers.mean)),
                text(numbers.map(|numbers| numbers.std)),
                text(numbers.map(|numbers| numbers.min)),
                text(numbers.and_then(|numbers| {
                    numbers.quantiles.get(numbers.quantiles.len() / 2).copied()
                })),
                text(numbers.map(|numbers| numbers.max)),
            ]
        };
    let rows: Vec<Vec<Cell>> = profile.inputs.iter().map(row).collect();
    let head = [
        "Input",
        "Missing",
        "Out of range",
        "Distinct",
        "Mean",
        "Std",
        "Least",
        "Median",
        "Greatest",
    ];
    page.table(&head, &rows);
    let density = |input: &InputProfile| {
        let quantiles = &input.numbers.as_ref()?.quantiles;
        let share = 1.0 / (quantiles.len().max(2) - 1) as f64;
        let bar = |ends: &[f64]| [ends[0], ends[1], share / (ends[1] - ends[0])];
        let heights: Vec<[f64; 3]> = quantiles
            .windows(2)
            .filter(|ends| ends[0] < ends[1])
            .map(bar)
            .collect();
        (!heights.is_empty()).then(|| bars(&input.name, "", "density", &heights))
    };
    let charts: Vec<String> = profile.inputs.iter().filter_map(density).collect();
    page.charts(&charts);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_needs_nothing_else_and_knows_light_and_dark() {
        let journal = (0..50)
            .map(|step| json!({"kind": "train", "step": step, "loss": 1.0 / f64::from(step + 1)}));
        let valid = json!({"kind": "valid/click", "step": 10, "auc": 0.7, "log_loss": 0.3});
        let evidence = Evidence {
            labels: vec!["click".into()],
            label_values: vec![
                (0..200)
                    .map(|row| f32::from(u8::from(row % 3 == 0)))
                    .collect(),
            ],
            unit_of: (0..200).collect(),
            units: 200,
            columns: BTreeMap::from([(
                "age".to_owned(),
                (
                    crate::data::SourceType::Integer,
                    (0..200).map(|row| row % 2).collect(),
                ),
            )]),
            challenger: vec![(0..200).map(|row| row as f32 / 200.0).collect()],
            ..Evidence::default()
        };
        let sources = ReportSources {
            name: "run <1>".into(),
            journal: journal.chain([valid]).collect(),
            evaluations: vec![
                json!({"split": "test", "step": 10, "data_version": "v", "labels": {"click": {"rows": 5, "auc": 0.7}}}),
            ],
            evidence: Some(&evidence),
            ..ReportSources::default()
        };
        let html = report(&sources);
        for part in [
            "run &lt;1&gt;",
            "prefers-color-scheme:dark",
            "Calibration of click",
            "age = 1",
            "default-src 'none'",
        ] {
            assert!(html.contains(part), "{part}");
        }
        for outside in [
            "http://", "https://", "src=", "href=", "@import", "url(", "<script",
        ] {
            assert!(!html.contains(outside), "{outside}");
        }
    }
}
