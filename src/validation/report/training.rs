//! How a run went: curves by step, and its evaluations.

use std::collections::BTreeMap;

use serde_json::Value;

use super::chart::{Series, escaped, lines};
use super::page::Page;
use super::table::with_points;
use super::{count, figure};

/// Charts: title, and the measures whose curves are in it.
const CHARTS: [(&str, &[&str]); 6] = [
    ("Loss", &["loss", "log_loss"]),
    ("AUC", &["auc", "gauc"]),
    ("Calibration: predictions over labels", &["calibration"]),
    ("Gradient norm", &["gradient_norm"]),
    ("Learning rate", &["learning_rate"]),
    (
        "Waiting for other ranks and for input, milliseconds a step",
        &["waited_ms", "input_waited_ms"],
    ),
];

/// Curves by kind of record and measure.
pub(super) fn curves(page: &mut Page, journal: &[Value]) {
    let mut curves: BTreeMap<(&str, &str), Vec<[f64; 2]>> = BTreeMap::new();
    for record in journal {
        let (Some(kind), Some(step)) = (record["kind"].as_str(), record["step"].as_f64()) else {
            continue;
        };
        for measure in CHARTS.iter().flat_map(|(_, measures)| *measures) {
            if let Some(value) = record[measure].as_f64() {
                let curve = curves.entry((measure, kind)).or_default();
                curve.push([step, value]);
            }
        }
    }
    if curves.is_empty() {
        return;
    }
    page.section("Training", "By step; each kind of record is a line.");
    let chart = |(title, measures): &(&str, &[&str])| {
        let curves = curves.iter().filter(|((own, _), _)| measures.contains(own));
        let series: Vec<Series> = curves
            .map(|((measure, kind), points)| Series {
                name: format!("{kind} {}", measure.replace('_', " ")),
                points: points.clone(),
            })
            .collect();
        let picture = lines(title, "step", "", &series);
        (!series.is_empty()).then(|| with_points(title, &picture, "Step", &series))
    };
    let charts: Vec<String> = CHARTS.iter().filter_map(chart).collect();
    page.charts(&charts);
}

pub(super) fn evaluations(page: &mut Page, evaluations: &[Value]) {
    let mut rows = Vec::new();
    for record in evaluations {
        let name = |field: &str| record[field].as_str().unwrap_or("-");
        for (label, found) in record["labels"].as_object().into_iter().flatten() {
            let measure = |name: &str| figure(found[name].as_f64());
            rows.push(vec![
                escaped(&format!("{label}, {}", name("split"))),
                escaped(name("data_version")),
                count(record["step"].as_u64()),
                count(found["rows"].as_u64()),
                measure("auc"),
                measure("best_auc"),
                measure("gauc"),
                measure("log_loss"),
                measure("normalised_entropy"),
                measure("calibration"),
            ]);
        }
    }
    if rows.is_empty() {
        return;
    }
    page.section("Evaluations", "The newest last.");
    let head = [
        "Label and split",
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
    page.table("How good the model is", &head, &rows);
}
