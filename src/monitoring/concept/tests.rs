//! Alarms at the very values at which river has them: `tests/oracles/concept.py` wrote `concept.json`.

use std::collections::BTreeMap;

use super::*;

const ALARMS: &str = include_str!("../../../tests/oracles/concept.json");

/// SplitMix64, as the oracle has it.
fn uniform(seed: u64, index: u64) -> f64 {
    let mut bits = seed
        .wrapping_mul(0x100_0000_01b3)
        .wrapping_add(index + 1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// The chance of an error over time.
fn rate(kind: &str, place: f64) -> f64 {
    match kind {
        "none" => 0.2,
        "sudden" if place < 0.5 => 0.2,
        "sudden" => 0.35,
        "slow" => 0.15 + 0.3 * place,
        "falling" if place < 0.4 => 0.5,
        "falling" => 0.3,
        "twice" if place < 0.3 => 0.1,
        "twice" if place < 0.7 => 0.3,
        "twice" => 0.6,
        other => panic!("no stream {other}"),
    }
}

fn stream(kind: &str, seed: u64, count: u64) -> impl Iterator<Item = (bool, f64)> {
    let kind = kind.to_owned();
    (0..count).map(move |index| {
        let rate = rate(&kind, index as f64 / count as f64);
        let draw = uniform(seed, 2 * index);
        let wrong = draw < rate;
        (wrong, rate * 2.0 * uniform(seed, 2 * index + 1).powi(2))
    })
}

#[test]
fn alarms_come_where_river_has_them() {
    let found: BTreeMap<String, BTreeMap<String, Vec<u64>>> =
        serde_json::from_str(ALARMS).expect("alarms");
    assert_eq!(found.len(), 20);
    let mut alarms = 0;
    for (name, expected) in found {
        let (kind, rest) = name.split_once('-').expect("kind-seed-count");
        let (seed, count) = rest.split_once('-').expect("kind-seed-count");
        let (seed, count) = (
            seed.parse().expect("a seed"),
            count.parse().expect("a count"),
        );
        let (mut adwin, mut of_bits) = (Adwin::default(), Adwin::default());
        let (mut ddm, mut page, mut page_of_bits) = (
            Ddm::default(),
            PageHinkley::default(),
            PageHinkley::default(),
        );
        let mut before = DdmState::Stable;
        let mut got: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (index, (wrong, value)) in (0u64..).zip(stream(kind, seed, count)) {
            let bit = f64::from(u8::from(wrong));
            let state = ddm.update(wrong);
            let alarmed = [
                ("adwin", adwin.update(value)),
                ("adwin_bits", of_bits.update(bit)),
                ("ddm", state == DdmState::Drift),
                (
                    "ddm_warning",
                    state == DdmState::Warning && before != DdmState::Warning,
                ),
                ("page_hinkley", page.update(value)),
                ("page_hinkley_bits", page_of_bits.update(bit)),
            ];
            before = state;
            for (detector, _) in alarmed.iter().filter(|(_, alarmed)| *alarmed) {
                got.entry((*detector).to_owned()).or_default().push(index);
            }
        }
        for (detector, expected) in &expected {
            let got = got.get(detector).cloned().unwrap_or_default();
            assert_eq!(&got, expected, "{detector} on {name}");
            alarms += expected.len();
        }
    }
    assert!(alarms > 100, "{alarms} alarms");
}

#[test]
fn a_detector_goes_on_from_its_stored_state() {
    let values: Vec<f64> = stream("sudden", 3, 4000).map(|(_, value)| value).collect();
    let mut whole = Adwin::default();
    let alarms: Vec<bool> = values.iter().map(|&value| whole.update(value)).collect();
    let mut parts = Adwin::default();
    let mut again = Vec::new();
    for part in values.chunks(700) {
        again.extend(part.iter().map(|&value| parts.update(value)));
        let json = serde_json::to_string(&parts).expect("JSON");
        parts = serde_json::from_str(&json).expect("the same");
    }
    assert_eq!(alarms, again);
    assert!(alarms.contains(&true));
    assert_eq!(whole, parts);
}

#[test]
fn memory_is_logarithmic_in_the_window() {
    let mut adwin = Adwin::default();
    (0..100_000).for_each(|index| {
        adwin.update(uniform(9, index) * 0.01);
    });
    assert!(adwin.width() > 50_000, "{}", adwin.width());
    let json = serde_json::to_string(&adwin).expect("JSON");
    assert!(json.len() < 8000, "{} bytes", json.len());
}
