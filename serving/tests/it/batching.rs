//! Dynamic batching: requests that arrive together are scored together, and nobody notices.

use std::sync::Barrier;

use crate::metrics::Exposition;
use crate::model::{Folder, artifact, expected};
use crate::program::{Program, assert_close};
use crate::row::{Row, request};

#[test]
fn requests_scored_together_get_the_answers_they_get_alone() {
    let model = artifact(1);
    let folder = Folder::with(&model);
    let program = Program::start(
        &folder.path(),
        &["--threads", "1", "--batch-delay-us", "150000"],
    );
    let callers = 8;
    let together = Barrier::new(callers);
    std::thread::scope(|scope| {
        for caller in 0..callers as u64 {
            let (program, model, together) = (&program, &model, &together);
            scope.spawn(move || {
                let rows = Row::many(caller * 100, 1 + caller * 3);
                let body = request(&rows);
                together.wait();
                assert_close(
                    &program.infer(&body).probabilities(),
                    &expected(model, &rows),
                );
            });
        }
    });
    let metrics = Exposition::parse(&program.metrics());
    let rows: u64 = (0..callers as u64).map(|caller| 1 + caller * 3).sum();
    assert_eq!(
        metrics.value("streamrec_serving_batch_rows_sum"),
        rows as f64
    );
    let batches = metrics.value("streamrec_serving_batch_rows_count");
    assert!(
        batches < callers as f64 / 2.0,
        "{callers} requests in {batches} batches"
    );
}

#[test]
fn a_batch_has_no_more_rows_than_it_may_and_a_large_request_is_scored_in_pieces() {
    let model = artifact(1);
    let folder = Folder::with(&model);
    let flags = [
        "--threads",
        "1",
        "--batch-delay-us",
        "100000",
        "--batch-rows",
        "10",
    ];
    let program = Program::start(&folder.path(), &flags);
    std::thread::scope(|scope| {
        for (caller, count) in [(0, 4), (1, 4), (2, 4), (3, 25)] {
            let (program, model) = (&program, &model);
            scope.spawn(move || {
                let rows = Row::many(caller * 100, count);
                let answer = program.infer(&request(&rows));
                assert_close(&answer.probabilities(), &expected(model, &rows));
            });
        }
    });
    let metrics = Exposition::parse(&program.metrics());
    let up_to_16 = metrics.labelled("streamrec_serving_batch_rows_bucket", "le=\"16.0\"");
    let batches = metrics.value("streamrec_serving_batch_rows_count");
    assert_eq!(batches, up_to_16, "none is above the limit");
    assert_eq!(metrics.value("streamrec_serving_rows_total"), 37.0);
}
