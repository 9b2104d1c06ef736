//! Drift from the training data, by distance and by probability, from sketches alone.
//!
//! Rows of one request share their user and their moment, so as many rows say less than they seem to: probabilities
//! count a request as one observation. And a sketch that no longer holds every value may be off by its rank error,
//! which is taken off a distance before it is judged. Both err on the side of no alarm.

use streamrec_artifact::{InputSketch, KeySketch, NumberSketch, Profile};

use super::{Measure, Metric};
use crate::monitoring::MonitoringError;
use crate::monitoring::significance::homogeneity;
use crate::monitoring::window::{SegmentKey, WindowSummary};
use crate::validation::drift::{BinShares, DriftLimits, compare, is_chance, kolmogorov_p};

pub(super) fn measure(
    window: &WindowSummary,
    reference: &Profile,
    found: &mut Vec<Measure>,
) -> Result<(), MonitoringError> {
    let limits = DriftLimits {
        min_rows: 1,
        ..DriftLimits::default()
    };
    let report = compare(reference, &window.profile, &limits);
    let report = report.map_err(|error| MonitoringError::Settings {
        problem: error.to_string(),
    })?;
    for input in &report.inputs {
        let segment = input.segment.as_ref().map(|(name, key)| SegmentKey {
            input: name.clone(),
            key: *key,
        });
        let sketches = [reference, &window.profile]
            .map(|profile| sketch_of(profile, &input.name, segment.as_ref()));
        let is_noise = match sketches {
            [Some(then), Some(now)] => is_chance(then, now),
            _ => false,
        };
        for statistic in &input.statistics {
            if is_noise && matches!(statistic.name, "psi" | "jensen_shannon") {
                continue;
            }
            let metric = match statistic.name {
                "psi" => Metric::Psi,
                "jensen_shannon" => Metric::JensenShannon,
                "kolmogorov_smirnov" => Metric::KolmogorovSmirnov,
                "wasserstein" => Metric::Wasserstein,
                "missing_rate" => Metric::MissingChange,
                _ => continue,
            };
            let measure = Measure::new(metric, statistic.value, input.rows);
            found.push(measure.of_input(&input.name).of_segment(segment.as_ref()));
        }
    }
    // How many rows stand for one observation.
    let ok = window.service.requests.get("ok").copied().unwrap_or(0);
    let independent = (ok as f64 / window.rows() as f64).clamp(0.0, 1.0);
    for (then, now) in reference.inputs.iter().zip(&window.profile.inputs) {
        let name = &now.name;
        if let (Some(then), Some(now)) = (&then.sketch, &now.sketch)
            && let Some(p) = probability(then, now, independent)
        {
            let rows = (now.rows as f64 * independent) as u64;
            found.push(Measure::new(Metric::DriftP, p, rows).of_input(name));
        }
    }
    Ok(())
}

fn sketch_of<'a>(
    profile: &'a Profile,
    name: &str,
    segment: Option<&SegmentKey>,
) -> Option<&'a InputSketch> {
    let place = profile.inputs.iter().position(|input| input.name == name)?;
    let Some(segment) = segment else {
        return profile.inputs[place].sketch.as_ref();
    };
    let mut segments = profile.segments.iter();
    let own = segments.find(|own| own.input == segment.input && own.key == segment.key)?;
    own.inputs.get(place)
}

/// How probable an input as far from the reference is by chance; the part of missing values is another metric's.
pub fn probability(then: &InputSketch, now: &InputSketch, independent: f64) -> Option<f64> {
    match (&then.numbers, &now.numbers, &then.keys, &now.keys) {
        (Some(then), Some(now), ..) => of_numbers(then, now, independent),
        (_, _, Some(then), Some(now)) => of_keys(then, now, independent),
        _ => None,
    }
}

fn of_numbers(then: &NumberSketch, now: &NumberSketch, independent: f64) -> Option<f64> {
    let (distance, _) =
        crate::validation::drift::kolmogorov_smirnov(&then.quantiles, &now.quantiles)?;
    let slack = then.quantiles.resolution() + now.quantiles.resolution();
    let (n, m) = (then.quantiles.count() as f64, now.quantiles.count() as f64);
    Some(kolmogorov_p(
        (distance - slack).max(0.0),
        n,
        m * independent,
    ))
}

fn of_keys(then: &KeySketch, now: &KeySketch, independent: f64) -> Option<f64> {
    let shares = BinShares::of_keys(then, now)?;
    let (n, m) = (then.frequent.count() as f64, now.frequent.count() as f64);
    // A count may be short by this much: keys that are not told apart from chance say nothing.
    let (short_then, short_now) = (
        then.frequent.short() as f64 / n,
        now.frequent.short() as f64 / m,
    );
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut rest = [0.0, 0.0];
    for (&a, &b) in shares.reference.iter().zip(&shares.current) {
        let told = |share: f64, short: f64| short == 0.0 || share > 20.0 * short;
        if told(a.max(b), short_then.max(short_now)) {
            first.push(a * n);
            second.push(b * m);
        } else {
            rest = [rest[0] + a * n, rest[1] + b * m];
        }
    }
    first.push(rest[0]);
    second.push(rest[1]);
    homogeneity(&first, &second, [1.0, independent])
}
