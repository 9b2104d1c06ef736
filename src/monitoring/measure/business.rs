//! What users do, and what they are offered.

use super::{Measure, Metric, Yardstick};
use crate::monitoring::window::{SegmentKey, WindowSummary};

pub(super) fn measure(window: &WindowSummary, yardstick: &Yardstick<'_>, found: &mut Vec<Measure>) {
    let rows = window.rows();
    for group in &window.groups {
        let segment = group.segment.as_ref();
        for (label, measured) in &group.measured {
            let sums = measured.sums.likelihood();
            let rate = Measure::new(Metric::LabelRate, sums.base_rate, sums.rows);
            found.push(rate.of_label(label).of_segment(segment));
            let share = sums.rows as f64 / group.rows as f64;
            let share = Measure::new(Metric::LabelledShare, share, group.rows);
            found.push(share.of_label(label).of_segment(segment));
        }
        if segment.is_some() {
            let share = group.rows as f64 / rows as f64;
            found.push(Measure::new(Metric::ExposureShare, share, rows).of_segment(segment));
        }
    }
    // A segment of the training data that is gone has a share, too: none.
    let is_there = |input: &str, key: Option<u64>| {
        let segments = window
            .groups
            .iter()
            .filter_map(|group| group.segment.as_ref());
        let mut own = segments.filter(|segment| segment.input == input);
        own.any(|segment| key.is_none_or(|key| segment.key == key))
    };
    for gone in &yardstick.reference.segments {
        if is_there(&gone.input, None) && !is_there(&gone.input, Some(gone.key)) {
            let segment = SegmentKey {
                input: gone.input.clone(),
                key: gone.key,
            };
            let share = Measure::new(Metric::ExposureShare, 0.0, rows);
            found.push(share.of_segment(Some(&segment)));
        }
    }
    if let Some((item, value)) = coverage(window, yardstick) {
        found.push(Measure::new(Metric::Coverage, value, rows).of_input(item));
    }
}

fn coverage<'a>(window: &WindowSummary, yardstick: &Yardstick<'a>) -> Option<(&'a str, f64)> {
    let item = yardstick.item?;
    let mut inputs = window.profile.inputs.iter();
    let sketch = inputs.find(|input| input.name == item)?.sketch.as_ref()?;
    let shown = sketch.keys.as_ref()?.cardinality.estimate();
    let schema = &yardstick.artifact.manifest.schema;
    let known = || {
        let mut features = schema.categorical.iter();
        let feature = features.find(|feature| feature.input == item)?;
        let vocabulary = yardstick.artifact.vocabularies.get(&feature.table)?;
        Some(vocabulary.len() as u64)
    };
    let catalogue = yardstick.catalogue.or_else(known)?;
    (catalogue > 0).then(|| (item, shown / catalogue as f64))
}
