//! A pillar: its charts over the hours and its tables.

use super::address::{Address, encoded};
use super::figures::{error_share, health, latency_ms, statistic};
use super::page::{PILLARS, Page, link, percent};
use super::rules::Rules;
use super::summary::{HourSummary, Labelled};
use super::{Dashboard, Window};
use crate::monitoring::MonitoringError;
use crate::monitoring::measure::Pillar;
use crate::validation::report::chart::{Series, number};

/// `None` where there is no such pillar.
pub(super) fn page(
    dashboard: &Dashboard,
    address: &Address,
    pillar: &str,
    now_ms: i64,
) -> Result<Option<String>, MonitoringError> {
    let Some((_, name)) = PILLARS.into_iter().find(|(own, _)| *own == pillar) else {
        return Ok(None);
    };
    let window = dashboard.window(address, now_ms)?;
    let whole = window.whole(&dashboard.artifact);
    let mut page = Page::new(name, address);
    if let Some(rules) = Rules::read(&dashboard.store)? {
        let own = rules.of(of(pillar));
        page.section("Rules");
        let caption = format!("Rules of this pillar: {name}");
        rules.table(&mut page, address, &caption, &own);
        page.section("Figures");
    }
    match pillar {
        "data" => data(dashboard, &mut page, address, &window, &whole)?,
        "model" => model(&mut page, &window, &whole),
        "system" => system(&mut page, address, &window, &whole),
        _ => business(dashboard, &mut page, &window, &whole),
    }
    Ok(Some(page.html(now_ms)))
}

/// The pillar of an address.
pub(super) fn of(address: &str) -> Pillar {
    match address {
        "data" => Pillar::DataQuality,
        "model" => Pillar::Model,
        "system" => Pillar::System,
        _ => Pillar::Business,
    }
}

fn data(
    dashboard: &Dashboard,
    page: &mut Page<'_>,
    address: &Address,
    window: &Window,
    whole: &HourSummary,
) -> Result<(), MonitoringError> {
    let drift = dashboard.drift(whole)?;
    let mut inputs: Vec<_> = drift.inputs.iter().collect();
    let psi = |name| statistic(name, "psi");
    inputs.sort_by(|a, b| psi(b).total_cmp(&psi(a)).then_with(|| a.name.cmp(&b.name)));
    page.paragraph(&format!(
        "{} rows of {} hours against {} of the training data, the most moved first.",
        whole.profiled_rows,
        window.found.len(),
        dashboard.artifact.profile.rows
    ));
    let rows: Vec<Vec<String>> = inputs
        .iter()
        .map(|input| {
            let to = address.link(&format!("/feature/{}", encoded(&input.name)), &[]);
            let place = dashboard.artifact.manifest.schema.input(&input.name);
            let missing = place.map_or(f64::NAN, |place| missing_share(&whole.inputs[place]));
            let missing_then = place.map_or(f64::NAN, |place| {
                let profile = &dashboard.artifact.profile;
                profile.inputs[place].missing as f64 / profile.rows as f64
            });
            vec![
                link(&to, &input.name),
                health(input).badge().to_owned(),
                number(psi(input)),
                number(statistic(input, "kolmogorov_smirnov")),
                number(statistic(input, "jensen_shannon")),
                percent(missing),
                percent(missing_then),
            ]
        })
        .collect();
    let head = [
        "Input",
        "Drift",
        "PSI",
        "KS",
        "JS",
        "Missing",
        "Missing in training",
    ];
    page.table("Inputs by drift", &head, &rows);
    page.section("Over the hours");
    let series = |name: &str, place: usize| Series {
        name: name.to_owned(),
        points: window.points(|hour| missing_share(&hour.inputs[place])),
    };
    let most: Vec<Series> = inputs
        .iter()
        .take(6)
        .filter_map(|input| {
            let place = dashboard.artifact.manifest.schema.input(&input.name)?;
            Some(series(&input.name, place))
        })
        .collect();
    page.hourly(
        window.hours,
        &[(
            "Share of missing values of the inputs that moved most",
            most,
        )],
    );
    Ok(())
}

pub(super) fn missing_share(sketch: &streamrec_artifact::InputSketch) -> f64 {
    sketch.missing as f64 / sketch.rows as f64
}

/// A chart of a figure, a line for each label.
fn by_label(
    window: &Window,
    whole: &HourSummary,
    figure: impl Fn(&Labelled) -> f64,
) -> Vec<Series> {
    let line = |label: &String| Series {
        name: label.clone(),
        points: window.points(|hour| hour.labelled.get(label).map_or(f64::NAN, &figure)),
    };
    whole.labelled.keys().map(line).collect()
}

fn model(page: &mut Page<'_>, window: &Window, whole: &HourSummary) {
    if whole.labelled.is_empty() {
        page.paragraph("No labels yet: join them by `streamrec monitor labels`. Until then, scores are all there is.");
    }
    let rows: Vec<Vec<String>> = whole
        .labelled
        .iter()
        .map(|(label, figures)| {
            vec![
                crate::validation::report::chart::escaped(label),
                figures.rows.to_string(),
                number(figures.auc()),
                number(figures.log_loss()),
                number(figures.normalised_entropy()),
                number(figures.calibration()),
            ]
        })
        .collect();
    let head = [
        "Label",
        "Rows",
        "AUC",
        "Log loss",
        "Normalised entropy",
        "Calibration",
    ];
    page.table("Labels that came", &head, &rows);
    page.section("Over the hours");
    let scores = Series {
        name: "mean score".to_owned(),
        points: window.points(|hour| hour.scores.moments.mean()),
    };
    page.hourly(
        window.hours,
        &[
            ("AUC", by_label(window, whole, Labelled::auc)),
            ("Log loss", by_label(window, whole, Labelled::log_loss)),
            (
                "Predicted over observed (calibration)",
                by_label(window, whole, Labelled::calibration),
            ),
            ("Mean score", vec![scores]),
        ],
    );
    let versions = whole.versions.iter();
    let versions: Vec<Vec<String>> = versions
        .map(|(version, count)| {
            vec![
                crate::validation::report::chart::escaped(version),
                count.to_string(),
            ]
        })
        .collect();
    page.section("Versions that answered");
    page.table("Requests by version", &["Version", "Requests"], &versions);
}

fn system(page: &mut Page<'_>, address: &Address, window: &Window, whole: &HourSummary) {
    let rows: Vec<Vec<String>> = whole
        .statuses
        .iter()
        .map(|(status, count)| {
            let to = address.link("/requests", &[("status", status)]);
            vec![
                link(&to, status),
                count.to_string(),
                percent(*count as f64 / whole.requests as f64),
            ]
        })
        .collect();
    page.table(
        "Requests by how they ended",
        &["Status", "Requests", "Share"],
        &rows,
    );
    let shares = [0.5, 0.9, 0.95, 0.99, 0.999];
    let (total, queue) = (
        whole.latency.quantiles(&shares),
        whole.queue.quantiles(&shares),
    );
    let rows: Vec<Vec<String>> = shares
        .iter()
        .zip(total.iter().zip(&queue))
        .map(|(share, (total, queue))| {
            vec![
                format!("p{}", share * 100.0),
                number(total / 1e3),
                number(queue / 1e3),
            ]
        })
        .collect();
    page.table(
        "Latency of answered requests, in milliseconds",
        &["Quantile", "Whole", "Waiting"],
        &rows,
    );
    page.section("Over the hours");
    let line = |name: &str, figure: &dyn Fn(&HourSummary) -> f64| Series {
        name: name.to_owned(),
        points: window.points(figure),
    };
    page.hourly(
        window.hours,
        &[
            (
                "Requests an hour",
                vec![line("requests", &|hour| hour.requests as f64)],
            ),
            (
                "Share of requests that failed",
                vec![line("share", &error_share)],
            ),
            (
                "Latency in milliseconds",
                vec![
                    line("p50", &|hour| latency_ms(hour, 0.5)),
                    line("p95", &|hour| latency_ms(hour, 0.95)),
                    line("p99", &|hour| latency_ms(hour, 0.99)),
                ],
            ),
            (
                "Rows a request",
                vec![line("rows", &|hour| {
                    hour.rows as f64 / hour.requests as f64
                })],
            ),
        ],
    );
}

fn business(dashboard: &Dashboard, page: &mut Page<'_>, window: &Window, whole: &HourSummary) {
    let trained = |label: &str| {
        let mut scores = dashboard.artifact.profile.scores.iter();
        scores
            .find(|scores| scores.label == label)
            .map_or(f64::NAN, |scores| scores.base_rate)
    };
    let rows: Vec<Vec<String>> = whole
        .labelled
        .iter()
        .map(|(label, figures)| {
            vec![
                crate::validation::report::chart::escaped(label),
                figures.rows.to_string(),
                percent(figures.rate()),
                percent(trained(label)),
                number(figures.value),
                number(figures.value / figures.rows as f64),
            ]
        })
        .collect();
    let head = [
        "Label",
        "Rows",
        "Rate",
        "Rate in training",
        "Value",
        "Value a row",
    ];
    page.table("What became of what was shown", &head, &rows);
    page.section("Over the hours");
    page.hourly(
        window.hours,
        &[
            ("Rate of positives", by_label(window, whole, Labelled::rate)),
            (
                "Value a row",
                by_label(window, whole, |figures| figures.value / figures.rows as f64),
            ),
        ],
    );
}
