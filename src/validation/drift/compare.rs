//! Compares a profile with that of the training data, input by input and segment by segment.

use serde::Serialize;
use streamrec_artifact::{
    InputSketch, KeySketch, NumberSketch, Outcome, Profile, ScoreSketch, SegmentProfile,
};

use super::DriftError;
use super::chance::is_chance;
use super::limits::{DriftLimits, Limit};
use super::statistics::{BinShares, kolmogorov_smirnov, wasserstein};

/// What all inputs came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DriftReport {
    /// Pass, hold with too few rows, or fail.
    pub outcome: Outcome,
    /// Rows of the reference.
    pub reference_rows: u64,
    /// Rows that were compared with it.
    pub current_rows: u64,
    /// Each input, over all rows and by segment, and the scores.
    pub inputs: Vec<InputDrift>,
}

/// How far one input is from the reference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InputDrift {
    /// The input, or `score of LABEL`.
    pub name: String,
    /// The segment: an input and its value; all rows where there is none.
    pub segment: Option<(String, u64)>,
    /// Rows that were compared.
    pub rows: u64,
    /// What it came to; a warning passes.
    pub outcome: Outcome,
    /// Each statistic.
    pub statistics: Vec<Statistic>,
}

/// One statistic of one input.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Statistic {
    /// Its name, as limits have it.
    pub name: &'static str,
    /// Its value.
    pub value: f64,
    /// What the reference has, where there is such a thing.
    pub reference: Option<f64>,
    /// What the current rows have.
    pub current: Option<f64>,
    /// `ok`, `warn`, `fail`, or `told` where there is no limit.
    pub level: Level,
}

/// How much a statistic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// There is no limit.
    Told,
    /// Within limits.
    Ok,
    /// Worth a look.
    Warn,
    /// Too much.
    Fail,
}

/// Compares two profiles of the same inputs.
///
/// # Errors
/// A profile has no sketches, or the two have other inputs.
pub fn compare(
    reference: &Profile,
    current: &Profile,
    limits: &DriftLimits,
) -> Result<DriftReport, DriftError> {
    let names = |profile: &Profile| -> Vec<String> {
        profile
            .inputs
            .iter()
            .map(|input| input.name.clone())
            .collect()
    };
    if names(reference) != names(current) {
        return Err(DriftError::Inputs {
            expected: names(reference).join(", "),
            got: names(current).join(", "),
        });
    }
    let mut found = Vec::new();
    let mut sketches = Vec::new();
    for (input, now) in reference.inputs.iter().zip(&current.inputs) {
        let (Some(then), Some(sketch)) = (&input.sketch, &now.sketch) else {
            return Err(DriftError::NoSketch {
                input: input.name.clone(),
            });
        };
        sketches.push((&input.name, then, sketch));
    }
    for (name, then, now) in sketches {
        found.push(of_input(name, None, then, now, limits));
    }
    for (then, now) in reference.scores.iter().zip(&current.scores) {
        if let (Some(reference), Some(current)) = (&then.sketch, &now.sketch)
            && current.probabilities.moments.count() > 0
        {
            found.push(of_scores(&then.label, reference, current, limits));
        }
    }
    of_segments(reference, current, limits, &mut found);
    let outcome = found
        .iter()
        .map(|input| input.outcome)
        .max()
        .unwrap_or(Outcome::Hold);
    Ok(DriftReport {
        outcome,
        reference_rows: reference.rows,
        current_rows: current.rows,
        inputs: found,
    })
}

fn of_segments(
    reference: &Profile,
    current: &Profile,
    limits: &DriftLimits,
    found: &mut Vec<InputDrift>,
) {
    for then in &reference.segments {
        let same = |now: &&SegmentProfile| (&now.input, now.key) == (&then.input, then.key);
        // A segment without rows is told by the input that makes it.
        let now = current.segments.iter().find(same);
        let Some(now) = now.filter(|now| now.rows >= limits.min_rows) else {
            continue;
        };
        let segment = (then.input.clone(), then.key);
        let pairs = reference
            .inputs
            .iter()
            .zip(then.inputs.iter().zip(&now.inputs));
        for (input, (then, now)) in pairs.filter(|(input, _)| input.name != segment.0) {
            found.push(of_input(
                &input.name,
                Some(segment.clone()),
                then,
                now,
                limits,
            ));
        }
    }
}

fn of_input(
    name: &str,
    segment: Option<(String, u64)>,
    then: &InputSketch,
    now: &InputSketch,
    limits: &DriftLimits,
) -> InputDrift {
    let own = limits.of(name);
    let mut told = Vec::new();
    let values = [rate(then.missing, then.rows), rate(now.missing, now.rows)];
    told.push(Statistic::new(
        "missing_rate",
        (values[1] - values[0]).abs(),
        Some(values),
        own.missing_rate,
    ));
    let values = [
        rate(then.out_of_range, then.rows),
        rate(now.out_of_range, now.rows),
    ];
    let growth = values[1] - values[0];
    told.push(Statistic::new(
        "out_of_range_rate",
        growth,
        Some(values),
        own.out_of_range_rate,
    ));
    if let (Some(then), Some(now)) = (&then.keys, &now.keys) {
        told.extend(of_keys(then, now, limits, name));
    }
    let is_chance = is_chance(then, now);
    if let (Some(then), Some(now)) = (&then.numbers, &now.numbers) {
        told.extend(of_numbers(then, now, limits, name));
    }
    for statistic in &mut told {
        let index = matches!(statistic.name, "psi" | "jensen_shannon");
        if is_chance && index && !statistic.value.is_nan() {
            statistic.level = Level::Told;
        }
    }
    InputDrift::new(name.to_owned(), segment, now.rows, told, limits)
}

fn rate(count: u64, of: u64) -> f64 {
    if of == 0 {
        0.0
    } else {
        count as f64 / of as f64
    }
}

fn of_keys(then: &KeySketch, now: &KeySketch, limits: &DriftLimits, name: &str) -> Vec<Statistic> {
    let own = limits.of(name);
    let values = [
        rate(then.unseen, then.frequent.count()),
        rate(now.unseen, now.frequent.count()),
    ];
    let growth = values[1] - values[0];
    let mut told = vec![Statistic::new(
        "unseen_rate",
        growth,
        Some(values),
        own.unseen_rate,
    )];
    let values = [then.cardinality.estimate(), now.cardinality.estimate()];
    let ratio = (values[0] / values[1]).max(values[1] / values[0]);
    told.push(Statistic::new(
        "cardinality_ratio",
        ratio,
        Some(values),
        own.cardinality_ratio,
    ));
    if let Some(shares) = BinShares::of_keys(then, now) {
        told.extend(of_shares(&shares, limits, name));
    }
    told
}

fn of_numbers(
    then: &NumberSketch,
    now: &NumberSketch,
    limits: &DriftLimits,
    name: &str,
) -> Vec<Statistic> {
    let own = limits.of(name);
    let mut told = Vec::new();
    if let Some(shares) = BinShares::of_numbers(&then.quantiles, &now.quantiles) {
        told.extend(of_shares(&shares, limits, name));
    }
    if let Some((distance, _)) = kolmogorov_smirnov(&then.quantiles, &now.quantiles) {
        told.push(Statistic::new(
            "kolmogorov_smirnov",
            distance,
            None,
            own.kolmogorov_smirnov,
        ));
    }
    if let Some(distance) = wasserstein(then, now) {
        let means = [then.moments.mean(), now.moments.mean()];
        told.push(Statistic::new(
            "wasserstein",
            distance,
            Some(means),
            own.wasserstein,
        ));
    }
    told
}

/// What limits call the scores of a label.
pub(super) fn score_name(label: &str) -> String {
    format!("score of {label}")
}

fn of_scores(
    label: &str,
    then: &ScoreSketch,
    now: &ScoreSketch,
    limits: &DriftLimits,
) -> InputDrift {
    let name = score_name(label);
    let mut told = Vec::new();
    if let Some(shares) =
        BinShares::of_numbers(&then.probabilities.quantiles, &now.probabilities.quantiles)
    {
        told.extend(of_shares(&shares, limits, &name));
    }
    let rows = now.probabilities.moments.count();
    InputDrift::new(name, None, rows, told, limits)
}

fn of_shares(shares: &BinShares, limits: &DriftLimits, name: &str) -> [Statistic; 2] {
    let own = limits.of(name);
    [
        Statistic::new("psi", shares.psi(), None, own.psi),
        Statistic::new(
            "jensen_shannon",
            shares.jensen_shannon(),
            None,
            own.jensen_shannon,
        ),
    ]
}

impl InputDrift {
    fn new(
        name: String,
        segment: Option<(String, u64)>,
        rows: u64,
        statistics: Vec<Statistic>,
        limits: &DriftLimits,
    ) -> Self {
        let failed = statistics
            .iter()
            .any(|statistic| statistic.level == Level::Fail);
        let outcome = match (rows < limits.min_rows, failed) {
            (true, _) => Outcome::Hold,
            (false, true) => Outcome::Fail,
            (false, false) => Outcome::Pass,
        };
        Self {
            name,
            segment,
            rows,
            outcome,
            statistics,
        }
    }

    /// The gravest level of its statistics.
    pub fn level(&self) -> Level {
        let levels = self.statistics.iter().map(|statistic| statistic.level);
        levels.max().unwrap_or(Level::Told)
    }
}

impl Statistic {
    fn new(name: &'static str, value: f64, values: Option<[f64; 2]>, limit: Option<Limit>) -> Self {
        let level = match limit {
            None => Level::Told,
            // What is no number is no evidence of anything good.
            Some(limit) if value >= limit.fail || value.is_nan() => Level::Fail,
            Some(limit) if value >= limit.warn => Level::Warn,
            Some(_) => Level::Ok,
        };
        Self {
            name,
            value,
            reference: values.map(|values| values[0]),
            current: values.map(|values| values[1]),
            level,
        }
    }
}
