//! Whatever JSON says of a sketch, it is refused or it works: merging, asking and writing never panic, and what
//! was written reads back equal.

use streamrec_artifact::sketch::{CardinalitySketch, FrequentKeys, QuantileSketch};

/// The JSON of any sketch.
pub fn check(data: &[u8]) {
    if let Ok(mut sketch) = serde_json::from_slice::<QuantileSketch>(data) {
        let quantiles = sketch.quantiles(&[0.0, 0.01, 0.5, 1.0]);
        assert!(quantiles.is_sorted());
        assert!(sketch.shares_at_most(&quantiles).is_sorted());
        assert_eq!(again(&sketch), sketch);
        let other = sketch.clone();
        if sketch.merge(&other).is_ok() {
            sketch.add(1.0);
        }
    }
    if let Ok(mut sketch) = serde_json::from_slice::<CardinalitySketch>(data) {
        assert!(sketch.estimate() >= 0.0);
        assert_eq!(again(&sketch), sketch);
        let before = sketch.clone();
        sketch.merge(&before).expect("of one precision");
        assert_eq!(sketch, before);
        sketch.add(7);
    }
    if let Ok(mut sketch) = serde_json::from_slice::<FrequentKeys>(data) {
        assert_eq!(again(&sketch), sketch);
        let other = sketch.clone();
        if sketch.merge(&other).is_ok() && sketch.count() < u64::MAX {
            sketch.add(7, 1);
        }
    }
}

fn again<T: serde::Serialize + serde::de::DeserializeOwned>(sketch: &T) -> T {
    let json = serde_json::to_string(sketch).expect("JSON");
    serde_json::from_str(&json).expect("a sketch")
}
