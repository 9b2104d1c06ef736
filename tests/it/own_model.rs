//! A user's own model is trained, exported and served without any code of theirs in the commands.

use std::path::Path;

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
        profile: false,
    };
    let experiment = Experiment::load(&args.config, &args.set).expect("an experiment");
    let outcome = train_with(&experiment, &args, example::own_model).expect("trained");
    assert!(
        matches!(outcome, TrainOutcome::Finished { steps: 10, .. }),
        "{outcome:?}"
    );

    served_as_trained(&bench);
}

#[test]
fn a_program_of_ones_own_is_launched() {
    let bench = Workbench::with_events(12_000);
    let own = Path::new(env!("CARGO_BIN_EXE_streamrec")).with_file_name("examples/own_model");
    let own = own.to_str().expect("Unicode").to_owned();
    let mut arguments = ["launch", "--nproc", "2", "--program", &own]
        .map(str::to_owned)
        .to_vec();
    arguments.extend(bench.experiment(
        "synthetic_dlrm.toml",
        "run",
        &[
            "train.global_batch=512",
            "train.max_steps=10",
            "train.log_every_steps=1",
        ],
    ));
    expect_success(&streamrec(&arguments));
    assert_eq!(
        bench.records("run", "train").last().expect("steps")["step"],
        10
    );
    served_as_trained(&bench);

    arguments[4] = bench.path("no_such_program");
    arguments.push("--overwrite".into());
    let output = streamrec(&arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains(&arguments[4]), "{}", said(&output));
}

fn served_as_trained(bench: &Workbench) {
    let (run, artifact) = (bench.path("run"), bench.path("artifact"));
    expect_success(&streamrec(&["evaluate", &run]));
    expect_success(&streamrec(&["export", &run, "--out", &artifact]));
    let (_server, address) = serve(&artifact);
    let output = streamrec(&["request", &artifact, "--server", &address, "--rows", "66"]);
    expect_success(&output);
    assert!(said(&output).contains("65 rows"), "{}", said(&output));
}
