//! The figures of the pages, as OpenMetrics text.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::Dashboard;
use super::figures::health;
use super::incidents;
use super::page::Health;
use super::summary::{HourSummary, Labelled, Window};
use crate::monitoring::MonitoringError;

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Value = Gauge<f64, AtomicU64>;
type Labels = Vec<(String, String)>;

/// Metrics that are being gathered. Figures that are no number are left out.
struct Exposition(Registry);

impl Exposition {
    fn one(&mut self, name: &str, help: &str, unit: Option<Unit>, value: f64) {
        let gauge = Value::default();
        gauge.set(value);
        match unit {
            Some(unit) => self.0.register_with_unit(name, help, unit, gauge),
            None => self.0.register(name, help, gauge),
        }
    }

    fn family<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: impl Iterator<Item = ([(&'static str, String); N], f64)>,
    ) {
        let family = Family::<Labels, Value>::default();
        for (labels, value) in values.filter(|(_, value)| value.is_finite()) {
            let labels = labels.map(|(name, value)| (name.to_owned(), value));
            family.get_or_create(&labels.to_vec()).set(value);
        }
        match unit {
            Some(unit) => self.0.register_with_unit(name, help, unit, family),
            None => self.0.register(name, help, family),
        }
    }
}

/// The metrics of a window, with `# EOF` at their end.
pub(super) fn text(dashboard: &Dashboard, window: &Window) -> Result<String, MonitoringError> {
    let whole = window.whole(&dashboard.artifact);
    let mut out = Exposition(Registry::with_prefix("streamrec_monitoring"));
    let length = window.hours as f64 * 3600.0;
    out.one(
        "window",
        "Length of the window",
        Some(Unit::Seconds),
        length,
    );
    out.one("rows", "Scored rows of the window", None, whole.rows as f64);
    let statuses = whole.statuses.iter();
    let statuses = statuses.map(|(status, count)| ([("status", status.clone())], *count as f64));
    out.family(
        "requests",
        "Logged requests of the window by how they ended",
        None,
        statuses,
    );
    let quantiles = [("0.5", 0.5), ("0.95", 0.95), ("0.99", 0.99)].into_iter();
    let latency = quantiles.map(|(name, share)| {
        let microseconds = whole.latency.quantiles(&[share]);
        let seconds = microseconds.first().map_or(f64::NAN, |value| value / 1e6);
        ([("quantile", name.to_owned())], seconds)
    });
    let help = "Latency of answered requests by quantile";
    out.family("latency", help, Some(Unit::Seconds), latency);
    inputs(dashboard, &whole, &mut out)?;
    labels(&whole, &mut out);
    let open = incidents::open_incidents(&dashboard.store)?;
    out.one(
        "open_incidents",
        "Incidents that are open",
        None,
        open as f64,
    );
    let mut text = String::new();
    encode(&mut text, &out.0)
        .map_err(|error| MonitoringError::table(dashboard.store.root(), error.to_string()))?;
    judged(dashboard, text)
}

/// With what `monitor run` measured and judged, where it has run.
fn judged(dashboard: &Dashboard, text: String) -> Result<String, MonitoringError> {
    let path = dashboard.store.figures();
    match std::fs::read_to_string(&path) {
        Ok(figures) => Ok(text.trim_end_matches("# EOF\n").to_owned() + &figures),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(text),
        Err(error) => Err(MonitoringError::file("read", &path)(error)),
    }
}

fn inputs(
    dashboard: &Dashboard,
    whole: &HourSummary,
    out: &mut Exposition,
) -> Result<(), MonitoringError> {
    let inputs = dashboard
        .artifact
        .manifest
        .schema
        .inputs
        .iter()
        .zip(&whole.inputs);
    let missing = inputs.map(|(input, sketch)| {
        let share = sketch.missing as f64 / sketch.rows as f64;
        ([("input", input.name.clone())], share)
    });
    let help = "Share of rows without a value of an input";
    out.family("missing", help, Some(Unit::Ratios), missing);
    let drift = dashboard.drift(whole)?;
    let statistics = drift.inputs.iter().flat_map(|input| {
        input.statistics.iter().map(|one| {
            let labels = [
                ("input", input.name.clone()),
                ("statistic", one.name.to_owned()),
            ];
            (labels, one.value)
        })
    });
    out.family(
        "drift",
        "An input against the training data, by statistic",
        None,
        statistics,
    );
    let beyond = drift
        .inputs
        .iter()
        .filter(|input| health(input) == Health::Bad)
        .count();
    out.one(
        "drifted_inputs",
        "Inputs beyond a limit",
        None,
        beyond as f64,
    );
    Ok(())
}

/// What labels say of scores.
fn labels(whole: &HourSummary, out: &mut Exposition) {
    type Figure = fn(&Labelled) -> f64;
    let figures: [(&str, &str, Figure); 6] = [
        ("labelled_rows", "Rows with a label", |labelled| {
            labelled.rows as f64
        }),
        ("auc", "Area under the ROC curve", Labelled::auc),
        ("log_loss", "Log loss", Labelled::log_loss),
        (
            "normalised_entropy",
            "Log loss over that of the base rate",
            Labelled::normalised_entropy,
        ),
        (
            "calibration",
            "Predicted positives over observed ones",
            Labelled::calibration,
        ),
        ("positive_rate", "Share of positives", Labelled::rate),
    ];
    for (name, help, figure) in figures {
        let values = whole.labelled.iter();
        let values = values.map(|(label, own)| ([("label", label.clone())], figure(own)));
        out.family(name, help, None, values);
    }
}
