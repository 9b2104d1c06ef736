//! Another version takes over while requests come.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use streamrec_artifact::Artifact;

use crate::metrics::Exposition;
use crate::model::{Folder, artifact, expected};
use crate::program::{Program, assert_close, client, wait_until};
use crate::row::{Row, request};

const LOAD: &str = "/v2/repository/models/videos/load";

/// An artifact whose golden examples are not its own.
fn broken(seed: u64) -> Artifact {
    let mut model = artifact(seed);
    model.golden.probabilities[0] = 0.5;
    model
}

#[test]
fn another_version_takes_over_under_load_and_no_request_fails() {
    let models = [artifact(1), artifact(2), artifact(3)];
    let folder = Folder::with(&models[0]);
    let program = Program::start(&folder.path(), &["--threads", "2"]);
    let rows = Row::many(0, 10);
    let (body, done) = (request(&rows), AtomicBool::new(false));
    let known: Vec<Vec<f64>> = models.iter().map(|model| expected(model, &rows)).collect();
    let mut versions = vec![program.version()];
    let answers = std::thread::scope(|scope| {
        let call = || {
            let (client, mut answers) = (client(), Vec::new());
            while !done.load(Ordering::Relaxed) {
                let answer = program.infer_by(&client, &body);
                answers.push((answer.version().to_owned(), answer.probabilities()));
            }
            answers
        };
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(call)).collect();
        std::thread::sleep(Duration::from_millis(50));
        folder.replace(&models[1]);
        program.signal(Signal::HUP);
        wait_until(Duration::from_secs(10), || program.version() != versions[0]);
        versions.push(program.version());
        std::thread::sleep(Duration::from_millis(50));
        folder.replace(&models[2]);
        let loaded = program.post(LOAD, "");
        assert_eq!(loaded.status, 200, "{loaded:?}");
        versions.push(loaded.body["version"].as_str().unwrap().to_owned());
        std::thread::sleep(Duration::from_millis(50));
        done.store(true, Ordering::Relaxed);
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect::<Vec<_>>()
    });
    let seen: BTreeSet<&String> = answers.iter().map(|(version, _)| version).collect();
    assert_eq!(seen, versions.iter().collect(), "every version answered");
    for (version, probabilities) in &answers {
        let model = versions.iter().position(|known| known == version).unwrap();
        assert_close(probabilities, &known[model]);
    }
    let metrics = Exposition::parse(&program.metrics());
    assert_eq!(metrics.value("streamrec_serving_swaps_total"), 2.0);
    let live = format!("version=\"{}\"", versions[2]);
    assert_eq!(metrics.labelled("streamrec_serving_model", &live), 1.0);
}

#[test]
fn a_version_that_cannot_be_served_leaves_the_one_before_answering() {
    let model = artifact(1);
    let folder = Folder::with(&model);
    let program = Program::start(&folder.path(), &[]);
    let version = program.version();
    folder.replace(&broken(2));
    let answer = program.post(LOAD, "");
    assert_eq!(answer.status, 409, "{answer:?}");
    assert!(
        answer
            .error()
            .contains("does not reproduce its golden examples: row 0"),
        "{answer:?}"
    );
    program.signal(Signal::HUP);
    std::fs::remove_dir_all(folder.path()).unwrap();
    let answer = program.post(LOAD, "");
    assert_eq!(answer.status, 409, "{answer:?}");
    assert!(answer.error().contains("manifest.json"), "{answer:?}");

    let rows = Row::many(0, 4);
    let answer = program.infer(&request(&rows));
    assert_eq!(answer.version(), version);
    assert_close(&answer.probabilities(), &expected(&model, &rows));
    assert_eq!(
        program.post("/v2/repository/models/films/load", "").status,
        404
    );
}

#[test]
fn a_load_that_another_one_meets_is_told_so_and_does_not_queue_up() {
    let folder = Folder::with(&artifact(1));
    let program = Program::start(&folder.path(), &[]);
    // Loads are short here, so several rounds may be needed until two of them meet.
    wait_until(Duration::from_secs(20), || {
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let post = || program.post(LOAD, "").status;
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(post)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(statuses.contains(&200), "{statuses:?}");
        assert!(statuses.iter().all(|status| [200, 409].contains(status)));
        statuses.contains(&409)
    });
    assert_eq!(program.post(LOAD, "").status, 200);
}
