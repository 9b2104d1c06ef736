//! Parsers of bytes from outside, held to what `cargo fuzz` holds them to, on a stable compiler and within seconds: edits
//! drawn at random, and every input that ever failed.

use std::fs;
use std::path::Path;

use streamrec_artifact::key;

#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

/// Inputs of each target, unless `STREAMREC_TEST_INPUTS` says another number.
const INPUTS: u64 = 150;

/// An input of up to 40 bytes: small numbers, texts of files, and anything else.
fn input(seed: u64) -> Vec<u8> {
    let draw = |place: u64| key::hash(seed << 16 | place);
    let byte = |place: u64| match draw(place) % 4 {
        0 => (draw(place) >> 8) as u8 % 8,
        1 => b"{}[],:\"\\\n\t0123456789-.eE=nulltruefalse"[(draw(place) >> 8) as usize % 38],
        _ => (draw(place) >> 8) as u8,
    };
    (0..draw(0) % 41).map(|place| byte(place + 1)).collect()
}

fn holds(target: &str) {
    let (_, check) = fuzz::CHECKS
        .into_iter()
        .find(|(name, _)| *name == target)
        .expect("a target");
    // As it is, where there are edits.
    (0..=u8::MAX)
        .step_by(17)
        .for_each(|choice| check(&[choice]));
    let inputs = std::env::var("STREAMREC_TEST_INPUTS").ok();
    let inputs = inputs.map_or(INPUTS, |count| count.parse().expect("a number"));
    (0..inputs).for_each(|seed| check(&input(seed)));
    let failed = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/regressions")
        .join(target);
    for file in fs::read_dir(failed).into_iter().flatten().flatten() {
        check(&fs::read(file.path()).expect("an input"));
    }
}

macro_rules! holds {
    ($($target:ident)*) => {$(
        #[test]
        fn $target() {
            holds(stringify!($target));
        }
    )*};
}

holds!(artifact checkpoint dataset host input_rows labels pack_reader prediction_log request settings sketches tcp);

#[test]
fn every_target_is_built_and_tested() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml")).expect("a manifest");
    let own = fs::read_to_string(file!()).expect("this file");
    for (name, _) in fuzz::CHECKS {
        assert!(
            root.join(format!("fuzz/fuzz_targets/{name}.rs")).exists(),
            "{name}"
        );
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let tested = own
            .lines()
            .any(|line| line.starts_with("holds!(") && line.contains(name));
        assert!(tested, "{name}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), fuzz::CHECKS.len());
}
