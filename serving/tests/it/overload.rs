//! More requests than the server can take.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::metrics::Exposition;
use crate::model::{Folder, artifact, expected};
use crate::program::{Program, assert_close, client};
use crate::row::{Row, request};

#[test]
fn what_cannot_wait_is_refused_at_once_and_what_is_accepted_is_right() {
    let model = artifact(1);
    let folder = Folder::with(&model);
    let flags = [
        "--threads",
        "1",
        "--waiting-rows",
        "40",
        "--batch-delay-us",
        "20000",
    ];
    let program = Program::start(&folder.path(), &flags);
    let callers = 16;
    let together = Barrier::new(callers);
    let began = Instant::now();
    let refused: usize = std::thread::scope(|scope| {
        let call = |caller: u64| {
            let (program, model, together) = (&program, &model, &together);
            move || {
                let client = client();
                let rows = Row::many(caller * 50, 20);
                let (body, expected) = (request(&rows), expected(model, &rows));
                together.wait();
                let mut refused = 0;
                for _ in 0..10 {
                    let answer = program.infer_by(&client, &body);
                    if answer.status == 200 {
                        assert_close(&answer.probabilities(), &expected);
                        continue;
                    }
                    assert_eq!(answer.status, 429, "{answer:?}");
                    assert_eq!(answer.retry_after.as_deref(), Some("1"));
                    assert!(
                        answer.error().contains("rows wait of 40 allowed"),
                        "{answer:?}"
                    );
                    refused += 1;
                }
                refused
            }
        };
        let threads: Vec<_> = (0..callers as u64)
            .map(|caller| scope.spawn(call(caller)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert!(began.elapsed() < Duration::from_secs(10), "nobody hangs");
    assert!(
        (1..callers * 10).contains(&refused),
        "{refused} of {} refused",
        callers * 10
    );

    let rows = Row::many(0, 20);
    assert_close(
        &program.infer(&request(&rows)).probabilities(),
        &expected(&model, &rows),
    );
    let metrics = Exposition::parse(&program.metrics());
    let shed = metrics.labelled("streamrec_serving_requests_total", "outcome=\"shed\"");
    assert_eq!(shed, refused as f64);
    assert_eq!(metrics.value("streamrec_serving_waiting_rows"), 0.0);
}

#[test]
fn what_waited_too_long_is_refused_and_not_scored() {
    let folder = Folder::with(&artifact(1));
    let flags = ["--wait-ms", "1", "--batch-delay-us", "50000"];
    let program = Program::start(&folder.path(), &flags);
    let answer = program.infer(&request(&Row::many(0, 2)));
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.retry_after.as_deref(), Some("1"));
    assert!(
        answer.error().contains("waited longer than 1 ms"),
        "{answer:?}"
    );
    let metrics = Exposition::parse(&program.metrics());
    assert_eq!(metrics.value("streamrec_serving_rows_total"), 0.0);
}
