//! The model: estimated before labels come, measured after. The two never share a name.

use std::collections::BTreeMap;

use super::{Measure, Metric};
use crate::monitoring::window::{CalibrationMap, Group, WindowSummary};

pub(super) fn measure(
    window: &WindowSummary,
    calibration: &BTreeMap<String, CalibrationMap>,
    found: &mut Vec<Measure>,
) {
    for group in &window.groups {
        estimated(group, calibration, found);
        measured(group, found);
    }
    for score in &window.profile.scores {
        let moments = score
            .sketch
            .as_ref()
            .map(|sketch| sketch.probabilities.moments);
        if let Some(moments) = moments.filter(|moments| moments.count() > 0) {
            let measure = Measure::new(Metric::MeanScore, moments.mean(), moments.count());
            found.push(measure.of_label(&score.label));
        }
    }
    for (label, counts) in &window.concept {
        for (metric, alarms) in [
            (Metric::AdwinAlarms, counts.adwin),
            (Metric::DdmAlarms, counts.ddm),
            (Metric::PageHinkleyAlarms, counts.page_hinkley),
        ] {
            found.push(Measure::new(metric, alarms as f64, counts.rows).of_label(label));
        }
    }
}

fn estimated(
    group: &Group,
    calibration: &BTreeMap<String, CalibrationMap>,
    found: &mut Vec<Measure>,
) {
    let believed = CalibrationMap::default();
    for (label, scores) in &group.scores {
        let map = calibration.get(label).unwrap_or(&believed);
        let Some(estimate) = map.estimate(scores) else {
            continue;
        };
        let figures = [
            (Metric::EstimatedAuc, estimate.auc.unwrap_or(f64::NAN)),
            (Metric::EstimatedLogLoss, estimate.log_loss),
            (Metric::EstimatedRate, estimate.rate),
        ];
        for (metric, value) in figures {
            let measure = Measure::new(metric, value, estimate.rows).of_label(label);
            found.push(measure.of_segment(group.segment.as_ref()));
        }
    }
}

fn measured(group: &Group, found: &mut Vec<Measure>) {
    for (label, measured) in &group.measured {
        let sums = measured.sums.likelihood();
        let auc = measured.histogram.auc().map_or(f64::NAN, |auc| auc.auc);
        let figures = [
            (Metric::Auc, auc),
            (Metric::LogLoss, sums.log_loss),
            (Metric::NormalisedEntropy, sums.normalised_entropy),
            (Metric::Calibration, sums.calibration),
        ];
        for (metric, value) in figures {
            let measure = Measure::new(metric, value, sums.rows).of_label(label);
            found.push(measure.of_segment(group.segment.as_ref()));
        }
    }
}
