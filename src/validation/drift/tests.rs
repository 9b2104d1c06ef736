//! Statistics are those of SciPy 1.17 and Evidently 0.7 (`tests/oracles/drift.py`), and drift is told.

use serde_json::Value;
use streamrec_artifact::{
    ColumnKind, InputColumn, KeySketch, NumberSketch, Outcome, Profile, ProfileBuilder, RawBatch,
    RawColumn, SourceType, key,
};

use super::*;

const GOLDEN: f64 = 0.618_033_988_749_894_9;

fn uniform(count: usize, start: usize) -> impl Iterator<Item = f64> {
    (0..count).map(move |index| ((start + index) as f64 * GOLDEN) % 1.0)
}

fn exponential(count: usize, start: usize, scale: f64, shift: f64) -> Vec<f64> {
    uniform(count, start)
        .map(|value| shift - scale * (1.0 - value).ln())
        .collect()
}

fn stairs(count: usize, start: usize, levels: f64) -> Vec<f64> {
    uniform(count, start)
        .map(|value| (value * value * levels).floor())
        .collect()
}

fn sketch(values: &[f64]) -> NumberSketch {
    let mut sketch = NumberSketch::default();
    sketch.add(values);
    sketch
}

fn oracle() -> Value {
    serde_json::from_str(include_str!("../../../tests/oracles/drift.json")).expect("JSON")
}

/// Compares with what the oracle said; `slack` is what a sketch of so many values may be off.
fn check(name: &str, reference: &[f64], current: &[f64], slack: f64) {
    let (reference, current) = (sketch(reference), sketch(current));
    let shares = BinShares::of_numbers(&reference.quantiles, &current.quantiles).expect("values");
    let (distance, p) =
        kolmogorov_smirnov(&reference.quantiles, &current.quantiles).expect("values");
    let oracle = &oracle()[name];
    for (what, found) in [
        ("psi", shares.psi()),
        ("jensen_shannon", shares.jensen_shannon()),
        (
            "wasserstein",
            wasserstein(&reference, &current).expect("values"),
        ),
        ("ks", distance),
    ] {
        let expected = oracle[what].as_f64().expect("a number");
        assert!(
            (found - expected).abs() <= slack.max(1e-9),
            "{name} {what}: {found}, expected {expected}"
        );
    }
    let expected = oracle["ks_p"].as_f64().expect("a number");
    assert!(
        (p - expected).abs() < 0.01 + 20.0 * slack,
        "{name} p: {p}, expected {expected}"
    );
}

#[test]
fn statistics_of_few_values_are_those_of_scipy_and_evidently() {
    check(
        "exponential",
        &exponential(240, 1, 1.0, 0.0),
        &exponential(240, 1000, 1.2, 0.0),
        0.0,
    );
    check(
        "shifted",
        &exponential(250, 1, 1.0, 0.0),
        &exponential(200, 7, 1.0, 0.7),
        0.0,
    );
    check("stairs", &stairs(250, 1, 6.0), &stairs(250, 3, 8.0), 0.0);
}

#[test]
fn statistics_of_sketches_of_many_values_are_near_them() {
    check(
        "large",
        &exponential(50_000, 1, 1.0, 0.0),
        &exponential(60_000, 77_777, 1.25, 0.0),
        0.02,
    );
    check(
        "large_stairs",
        &stairs(50_000, 1, 6.0),
        &stairs(40_000, 3, 7.0),
        0.02,
    );
}

#[test]
fn statistics_of_keys_are_those_of_evidently() {
    let keys = |counts: &[(&str, u64)]| {
        let mut sketch = KeySketch::default();
        for (text, count) in counts {
            sketch.frequent.add(key::from_text(text), *count);
        }
        sketch
    };
    let shares = BinShares::of_keys(
        &keys(&[("a", 60), ("b", 30), ("c", 10)]),
        &keys(&[("a", 40), ("b", 40), ("d", 20)]),
    )
    .expect("keys");
    let oracle = &oracle()["keys"];
    assert!((shares.psi() - oracle["psi"].as_f64().expect("a number")).abs() < 1e-9);
    assert!(
        (shares.jensen_shannon() - oracle["jensen_shannon"].as_f64().expect("a number")).abs()
            < 1e-9
    );
}

fn inputs() -> Vec<InputColumn> {
    let input = |name: &str, kind, source| InputColumn {
        name: name.into(),
        kind,
        source,
        unit: None,
        range: None,
        required: false,
    };
    vec![
        input("client", ColumnKind::Key, SourceType::Text),
        input("duration", ColumnKind::Dense, SourceType::Float),
    ]
}

/// Rows of which a fifth is of iOS, where `ios_missing` of all durations are missing.
fn profile(rows: usize, ios_missing: f64, scale: f64) -> Profile {
    let clients = (0..rows).map(|row| key::from_text(if row % 5 == 0 { "ios" } else { "android" }));
    let durations =
        uniform(rows, 5)
            .zip(uniform(rows, 900))
            .enumerate()
            .map(|(row, (value, chance))| {
                let missing = if row % 5 == 0 { ios_missing } else { 0.25 };
                if chance < missing {
                    f32::NAN
                } else {
                    (-scale * (1.0 - value).ln()) as f32
                }
            });
    let columns = vec![
        RawColumn::Key(clients.collect()),
        RawColumn::Dense(durations.collect()),
    ];
    let mut builder = ProfileBuilder::new(&inputs(), &[])
        .with_segments(&["client".into()])
        .expect("a key input");
    builder
        .observe(&RawBatch { rows, columns })
        .expect("the inputs' columns");
    builder.finish()
}

#[test]
fn equal_data_passes_and_a_changed_scale_fails() {
    let limits = DriftLimits::default();
    let reference = profile(40_000, 0.25, 30.0);
    let same = compare(&reference, &profile(30_000, 0.25, 30.0), &limits).expect("comparable");
    assert_eq!(same.outcome, Outcome::Pass, "{same:#?}");
    let other = compare(&reference, &profile(30_000, 0.25, 60.0), &limits).expect("comparable");
    assert_eq!(other.outcome, Outcome::Fail);
    let few = compare(&reference, &profile(300, 0.25, 60.0), &limits).expect("comparable");
    assert_eq!(few.outcome, Outcome::Hold);
}

#[test]
fn ids_with_few_rows_each_are_not_judged_by_chance() {
    let drawn = |start: usize, ids: f64| {
        let mut builder = ProfileBuilder::new(&inputs(), &[]);
        let keys = uniform(3000, start).map(|value| key::hash((value * ids) as u64));
        let columns = vec![
            RawColumn::Key(keys.collect()),
            RawColumn::Dense(vec![1.0; 3000]),
        ];
        let rows = RawBatch {
            rows: 3000,
            columns,
        };
        builder.observe(&rows).expect("the inputs' columns");
        builder.finish()
    };
    let limits = DriftLimits::default();
    let psi = |report: &DriftReport| {
        let mut statistics = report.inputs[0].statistics.iter();
        statistics
            .find(|one| one.name == "psi")
            .expect("told")
            .clone()
    };
    let (then, now) = (drawn(0, 200.0), drawn(7, 9.0));
    let moved = compare(&then, &now, &limits).expect("comparable");
    assert!(
        psi(&moved).value > 1.0 && psi(&moved).level == Level::Told,
        "{moved:#?}"
    );
    // Nor are they told apart by what a sketch dropped of them.
    let (then, now) = (drawn(0, 2900.0), drawn(1500, 2900.0));
    let same = compare(&then, &now, &limits).expect("comparable");
    assert!(psi(&same).value < 0.05, "{same:#?}");
    // Few values with many rows each are judged as ever.
    let (then, now) = (drawn(0, 9.0), drawn(7, 5.0));
    let moved = compare(&then, &now, &limits).expect("comparable");
    assert_eq!(
        (psi(&moved).level, moved.outcome),
        (Level::Fail, Outcome::Fail)
    );
}

#[test]
fn one_clients_missing_durations_are_found_in_its_segment() {
    let limits = DriftLimits::default();
    let reference = profile(40_000, 0.25, 30.0);
    // 68 % of a fifth: the whole moves from 25 % to 34 %, which is a warning only.
    let found = compare(&reference, &profile(40_000, 0.68, 30.0), &limits).expect("comparable");
    let failed: Vec<_> = found
        .inputs
        .iter()
        .filter(|input| input.outcome == Outcome::Fail)
        .collect();
    assert_eq!(failed.len(), 1, "{failed:#?}");
    assert_eq!(
        failed[0].segment,
        Some(("client".into(), key::from_text("ios")))
    );
    let statistic = failed[0]
        .statistics
        .iter()
        .find(|statistic| statistic.level == Level::Fail)
        .expect("one");
    assert_eq!(statistic.name, "missing_rate");
    assert!((statistic.current.expect("a rate") - 0.68).abs() < 0.02);
}

#[test]
fn a_profile_without_sketches_is_refused() {
    let mut reference = profile(100, 0.2, 1.0);
    reference.inputs[1].sketch = None;
    let error = compare(&reference, &profile(100, 0.2, 1.0), &DriftLimits::default()).unwrap_err();
    assert!(
        error.to_string().contains("no sketch of `duration`"),
        "{error}"
    );
}
