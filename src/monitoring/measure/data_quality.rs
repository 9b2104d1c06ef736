//! Data quality: missing values, ranges, unseen keys, freshness.

use streamrec_artifact::InputSketch;

use super::{Measure, Metric};
use crate::monitoring::window::{SegmentKey, WindowSummary};

pub(super) fn measure(window: &WindowSummary, found: &mut Vec<Measure>) {
    let names: Vec<&str> = window
        .profile
        .inputs
        .iter()
        .map(|input| input.name.as_str())
        .collect();
    for input in &window.profile.inputs {
        if let Some(sketch) = &input.sketch {
            of_input(&input.name, None, sketch, found);
        }
    }
    for segment in &window.profile.segments {
        let key = SegmentKey {
            input: segment.input.clone(),
            key: segment.key,
        };
        for (name, sketch) in names.iter().zip(&segment.inputs) {
            if *name != segment.input {
                of_input(name, Some(&key), sketch, found);
            }
        }
    }
    for (input, ages) in &window.ages_s {
        let count = ages.moments.count();
        if let Some(&median) = ages.quantiles.quantiles(&[0.5]).first() {
            found.push(Measure::new(Metric::AgeP50S, median, count).of_input(input));
            let ahead = ages.quantiles.shares_below(&[0.0])[0];
            found.push(Measure::new(Metric::AheadRate, ahead, count).of_input(input));
        }
    }
    if let Some(newest) = window.newest_ms {
        let seconds = (window.end_ms - newest) as f64 / 1000.0;
        found.push(Measure::new(Metric::FreshnessS, seconds, window.rows()));
    }
}

fn of_input(
    name: &str,
    segment: Option<&SegmentKey>,
    sketch: &InputSketch,
    found: &mut Vec<Measure>,
) {
    if sketch.rows == 0 {
        return;
    }
    let mut tell = |metric, count: u64, of: u64| {
        if of > 0 {
            let value = count as f64 / of as f64;
            let measure = Measure::new(metric, value, sketch.rows);
            found.push(measure.of_input(name).of_segment(segment));
        }
    };
    tell(Metric::MissingRate, sketch.missing, sketch.rows);
    tell(Metric::OutOfRangeRate, sketch.out_of_range, sketch.rows);
    if let Some(keys) = &sketch.keys {
        tell(Metric::UnseenRate, keys.unseen, keys.frequent.count());
    }
}
