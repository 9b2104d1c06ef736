//! A user's own model is trained, exported and served without any code of theirs in the commands.

use streamrec::config::Experiment;
use streamrec::run::{TrainArgs, TrainOutcome, train_with};

use crate::serving::serve;
use crate::workbench::{Workbench, config, expect_success, said, streamrec};

#[allow(dead_code)] // The example's own `main` is not called.
#[path = "../../examples/own_model.rs"]
mod example;

#[test]
fn a_model_of_ones_own_is_served_as_it_was_trained() {
    let bench = Workbench::with_events(12_000);
    let set = vec![
        format!("data.dataset={}", bench.path("data")),
        format!("output={}", bench.path("run")),
        "name=own".into(),
        "train.global_batch=512".into(),
        "train.max_steps=10".into(),
    ];
    let args = TrainArgs {
        config: config("synthetic_dlrm.toml"),
        set,
        resume: false,
        overwrite: false,
        warm_start: None,
    };
    let experiment = Experiment::load(&args.config, &args.set).expect("an experiment");
    let outcome = train_with(&experiment, &args, example::own_model).expect("trained");
    assert!(
        matches!(outcome, TrainOutcome::Finished { steps: 10, .. }),
        "{outcome:?}"
    );

    let (run, artifact) = (bench.path("run"), bench.path("artifact"));
    expect_success(&streamrec(&["evaluate", &run]));
    expect_success(&streamrec(&["export", &run, "--out", &artifact]));
    let (_server, address) = serve(&artifact);
    let output = streamrec(&["request", &artifact, "--server", &address, "--rows", "66"]);
    expect_success(&output);
    assert!(said(&output).contains("65 rows"), "{}", said(&output));
}
