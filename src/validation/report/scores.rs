//! What an artifact says of some rows: calibration, distribution of scores, and both by segment.

use std::collections::{BTreeMap, HashMap};

use streamrec_artifact::{MISSING_KEY, key};

use super::chart::{Chart, Series, bars, escaped, number};
use super::page::Page;
use super::table::{with_figures, with_points};
use crate::data::SourceType;
use crate::validation::gate::{Evidence, Metric};

/// Bins of calibration plots and score distributions.
const BINS: usize = 20;
/// Segments that are shown of each input.
const SEGMENTS_SHOWN: usize = 12;

pub(super) fn distributions(page: &mut Page, evidence: &Evidence) {
    page.section(
        "Calibration and scores",
        "In bins of as many rows each; a calibrated model lies on the diagonal.",
    );
    let mut charts = Vec::new();
    for (head, label) in evidence.labels.iter().enumerate() {
        let (scores, labels) = (&evidence.challenger[head], &evidence.label_values[head]);
        let finite = |row: &usize| scores[*row].is_finite();
        let mut order: Vec<usize> = (0..scores.len()).filter(finite).collect();
        order.sort_unstable_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        charts.push(calibration(label, scores, labels, &order));
        charts.push(distribution(label, scores, &order));
    }
    page.charts(&charts);
}

/// What was predicted and what happened, in bins of as many rows each.
fn calibration(label: &str, scores: &[f32], labels: &[f32], order: &[usize]) -> String {
    let mean = |rows: &[usize], of: &[f32]| {
        rows.iter().map(|&row| f64::from(of[row])).sum::<f64>() / rows.len() as f64
    };
    let size = order.len().div_ceil(BINS).max(1);
    let bins = order.chunks(size);
    let points = bins.map(|rows| [mean(rows, scores), mean(rows, labels)]);
    let series = [Series {
        name: "happened".to_owned(),
        points: points.collect(),
    }];
    let title = format!("Calibration of {label}");
    let chart = Chart {
        title: &title,
        x: "predicted",
        y: "happened",
        series: &series,
        diagonal: true,
        ..Chart::default()
    };
    with_points(&title, &chart.figure(), "Predicted", &series)
}

fn distribution(label: &str, scores: &[f32], order: &[usize]) -> String {
    let mut counts = [0u64; BINS];
    for &row in order {
        counts[((scores[row] * BINS as f32) as usize).min(BINS - 1)] += 1;
    }
    let edge = |place: usize| place as f64 / BINS as f64;
    let share = |count: u64| count as f64 / order.len().max(1) as f64;
    let heights: Vec<[f64; 3]> = counts
        .iter()
        .enumerate()
        .map(|(place, count)| [edge(place), edge(place + 1), share(*count)])
        .collect();
    let title = format!("Scores of {label}");
    let picture = bars(&title, "probability", "share of rows", &heights);
    let rows: Vec<Vec<String>> = counts
        .iter()
        .enumerate()
        .map(|(place, count)| {
            let bin = format!("{:.2} to {:.2}", edge(place), edge(place + 1));
            vec![bin, count.to_string(), number(share(*count))]
        })
        .collect();
    with_figures(&title, &picture, &["Probability", "Rows", "Share"], &rows)
}

pub(super) fn segments(
    page: &mut Page,
    evidence: &Evidence,
    names: &BTreeMap<String, Vec<String>>,
) {
    let mut rows = Vec::new();
    for (input, (source, keys)) in &evidence.columns {
        let texts = names.get(input).map_or(&[][..], Vec::as_slice);
        let mut members: HashMap<u64, Vec<usize>> = HashMap::new();
        for (row, &key) in keys.iter().enumerate() {
            if key != MISSING_KEY {
                members.entry(key).or_default().push(row);
            }
        }
        let mut members: Vec<(u64, Vec<usize>)> = members.into_iter().collect();
        members.sort_by_key(|(key, rows)| (std::cmp::Reverse(rows.len()), *key));
        for (key, of) in members.iter().take(SEGMENTS_SHOWN) {
            let value = value(*source, *key, texts);
            for (head, label) in evidence.labels.iter().enumerate() {
                let metric = |metric| number(evidence.metric(metric, head, of));
                let positives = of
                    .iter()
                    .map(|&row| f64::from(evidence.label_values[head][row]));
                let rate = positives.sum::<f64>() / of.len() as f64;
                rows.push(vec![
                    escaped(&format!("{input} = {value}")),
                    escaped(label),
                    of.len().to_string(),
                    number(rate),
                    metric(Metric::Auc),
                    metric(Metric::LogLoss),
                    metric(Metric::CalibrationBias),
                ]);
            }
        }
    }
    if rows.is_empty() {
        return;
    }
    page.section("Segments", "The largest of each column that was asked for.");
    let head = [
        "Segment",
        "Label",
        "Rows",
        "Base rate",
        "AUC",
        "Log loss",
        "Calibration bias",
    ];
    page.table("How good the model is by segment", &head, &rows);
}

/// A value for people. Of a text, only its hash is known unless somebody names it.
fn value(source: SourceType, value: u64, texts: &[String]) -> String {
    match source {
        SourceType::Text => {
            let named = texts.iter().find(|text| key::from_text(text) == value);
            named.map_or_else(|| format!("key {value:016x}"), Clone::clone)
        }
        SourceType::Boolean => (value == 1).to_string(),
        _ => value.cast_signed().to_string(),
    }
}
