//! Files that people write: experiments, import schemas, suites, gates, behavioural tests, limits, rules. Each is refused
//! with all that is wrong, or taken; what is written again is taken again.

use std::fs;
use std::path::Path;

use streamrec::config::Experiment;
use streamrec::data::import::ImportSchema;
use streamrec::monitoring::rules::{RuleBook, Rules};
use streamrec::validation::behaviour::BehaviourSuite;
use streamrec::validation::drift::DriftLimits;
use streamrec::validation::expectations::{Suite, WrittenSuite};
use streamrec::validation::gate::GateConfig;

use super::edits::edited;

/// A file of the project of each kind.
const VALID: [&str; 9] = [
    include_str!("../../configs/synthetic_wide_deep.toml"),
    include_str!("../../configs/schemas/oulad.toml"),
    include_str!("../../tests/oracles/expectations/suite.json"),
    SUITE,
    include_str!("../../configs/gates/v1/release.toml"),
    include_str!("../../configs/behaviour/synthetic.toml"),
    "format_version = 1\n[all]\npsi = { warn = 0.1, fail = 0.25 }\n[inputs.x]\nkolmogorov_smirnov = { fail = 0.1 }\n",
    include_str!("../../configs/monitoring/default.toml"),
    include_str!("../../configs/monitoring/streamrec.toml"),
];
const SUITE: &str = r#"
name = "events"
[[expectations]]
type = "expect_column_values_to_be_between"
[expectations.kwargs]
column = "x"
min_value = 0
max_value = "2027-01-01"
mostly = 0.9
row_condition = 'col("client").notnull()'
condition_parser = "great_expectations"
[[expectations]]
type = "expect_column_values_to_match_regex"
kwargs = { column = "x", regex = "^a{2,30}$" }
"#;

/// The first byte picks a kind and whether the others are edits of a valid file or the file itself.
pub fn check(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else {
        return;
    };
    let kind = *choice as usize % VALID.len();
    let bytes = if *choice < 200 {
        edited(VALID[kind].as_bytes(), rest)
    } else {
        rest.to_vec()
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder
        .path()
        .join(if kind == 2 { "a.json" } else { "a.toml" });
    fs::write(&path, &bytes).expect("written");
    let text = String::from_utf8_lossy(&bytes);
    match kind {
        0 => experiment(&text),
        1 => drop(ImportSchema::parse(&text, "here")),
        2 | 3 => suite(&path, &text),
        4 => drop(GateConfig::load(&path)),
        5 => drop(BehaviourSuite::load(&path)),
        6 => drop(DriftLimits::load(&path)),
        _ => rules(&text),
    }
}

fn experiment(text: &str) {
    if let Ok(experiment) = Experiment::parse(text, &[]) {
        let written = experiment.to_toml().expect("TOML");
        let again = Experiment::parse(&written, &[]).expect("what was written is read");
        assert_eq!(again.to_toml().expect("TOML"), written);
    }
}

fn suite(path: &Path, text: &str) {
    if Suite::load(path).is_ok()
        && path
            .extension()
            .is_some_and(|extension| extension == "json")
    {
        let written: WrittenSuite = serde_json::from_str(text).expect("a suite");
        let again = serde_json::to_string(&written).expect("JSON");
        fs::write(path, again).expect("written");
        Suite::load(path).expect("what was written is read");
    }
}

fn rules(text: &str) {
    if let Ok(rules) = Rules::parse(text) {
        let book = RuleBook::of(&rules);
        let json = serde_json::to_string(&book).expect("JSON");
        let again: RuleBook = serde_json::from_str(&json).expect("a book");
        assert_eq!(again, book);
    }
}
