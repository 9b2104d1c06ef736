//! Every experiment of the project loads, and is what its file is named.

use std::fs;

use streamrec::config::Experiment;

use crate::workbench::config;

#[test]
fn every_experiment_loads_and_is_named_by_its_file() {
    let mut found = 0;
    for entry in fs::read_dir(config("")).expect("configs").flatten() {
        let path = entry.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let experiment = Experiment::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(
                Some(experiment.name.as_str()),
                path.file_stem().and_then(|stem| stem.to_str())
            );
            found += 1;
        }
    }
    assert!(found >= 6, "{found} experiments");
}
