//! Judges the figures of a window by a rule.

use serde::{Deserialize, Serialize};

use super::{Rule, Side, Threshold};
use crate::monitoring::measure::{Measure, Measures};
use crate::monitoring::significance::rejected;
use crate::monitoring::window::SegmentKey;

/// A standard deviation of windows that are all alike is taken as this share of their mean.
const STD_MIN_SHARE: f64 = 1e-6;

/// What an alert is about, besides its rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertKey {
    /// The input.
    pub input: Option<String>,
    /// The rows; all where there is none.
    pub segment: Option<SegmentKey>,
    /// The label.
    pub label: Option<String>,
}

/// What a rule says of one figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judgement {
    /// What it is about.
    pub key: AlertKey,
    /// The figure.
    pub value: f64,
    /// The rows behind it.
    pub rows: u64,
    /// The bounds within which it would be fine.
    pub bounds: [Option<f64>; 2],
    /// Whether it is too much.
    pub breach: bool,
    /// Whether a firing alert is over.
    pub clear: bool,
}

/// Judges `window`; `before` are windows of the same length that do not overlap, newest last. Figures of too few rows,
/// and figures without a history to compare with, are not judged.
pub fn judge(rule: &Rule, window: &Measures, before: &[Measures]) -> Vec<Judgement> {
    let figures: Vec<&Measure> = window
        .measures
        .iter()
        .filter(|measure| rule.takes(measure) && measure.rows >= rule.min_rows)
        .collect();
    if let Threshold::FalseAlarm { rate, correction } = rule.threshold {
        let probabilities: Vec<f64> = figures.iter().map(|figure| figure.value).collect();
        let found = rejected(&probabilities, rate, correction);
        let figures = figures.into_iter().zip(found);
        return figures
            .map(|(figure, breach)| Judgement::new(figure, [Some(rate), None], breach, !breach))
            .collect();
    }
    let judged = figures
        .into_iter()
        .filter_map(|figure| match rule.threshold {
            Threshold::Fixed {
                above,
                value,
                clear,
            } => {
                let beyond = |limit| {
                    if above {
                        figure.value > limit
                    } else {
                        figure.value < limit
                    }
                };
                let bounds = if above {
                    [None, Some(value)]
                } else {
                    [Some(value), None]
                };
                Some(Judgement::new(
                    figure,
                    bounds,
                    beyond(value),
                    !beyond(clear),
                ))
            }
            Threshold::Sigmas {
                sigmas,
                clear,
                windows,
                side,
            } => {
                let (mean, std) = history(rule, figure, before, windows)?;
                let bounds = |sigmas: f64| {
                    let (low, high) = (mean - sigmas * std, mean + sigmas * std);
                    [
                        (side != Side::Above).then_some(low),
                        (side != Side::Below).then_some(high),
                    ]
                };
                let beyond = |[low, high]: [Option<f64>; 2]| {
                    low.is_some_and(|low| figure.value < low)
                        || high.is_some_and(|high| figure.value > high)
                };
                let (breach, over) = (beyond(bounds(sigmas)), !beyond(bounds(clear)));
                Some(Judgement::new(figure, bounds(sigmas), breach, over))
            }
            Threshold::FalseAlarm { .. } => None,
        });
    judged.collect()
}

/// The mean and standard deviation of a figure over windows before.
fn history(
    rule: &Rule,
    figure: &Measure,
    before: &[Measures],
    windows: usize,
) -> Option<(f64, f64)> {
    let same = |measure: &&Measure| {
        rule.takes(measure)
            && measure.rows >= rule.min_rows
            && AlertKey::of(measure) == AlertKey::of(figure)
    };
    let values: Vec<f64> = before
        .iter()
        .rev()
        .take(windows)
        .filter_map(|window| window.measures.iter().find(same))
        .map(|measure| measure.value)
        .collect();
    if values.len() < windows.div_ceil(2) {
        return None;
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let std = (squares / (count - 1.0)).sqrt();
    Some((mean, std.max(mean.abs() * STD_MIN_SHARE)))
}

impl AlertKey {
    fn of(measure: &Measure) -> Self {
        Self {
            input: measure.input.clone(),
            segment: measure.segment.clone(),
            label: measure.label.clone(),
        }
    }
}

impl Judgement {
    fn new(figure: &Measure, bounds: [Option<f64>; 2], breach: bool, clear: bool) -> Self {
        Self {
            key: AlertKey::of(figure),
            value: figure.value,
            rows: figure.rows,
            bounds,
            breach,
            clear,
        }
    }
}
