//! SIGTERM: what is under way is answered, and the program ends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::metrics::Exposition;
use crate::model::{Folder, artifact, expected};
use crate::program::{Program, assert_close, client, wait_until};
use crate::row::{Row, request};

#[test]
fn requests_under_way_are_answered_before_the_program_ends() {
    let model = artifact(1);
    let folder = Folder::with(&model);
    // Long enough for all of them to wait when the signal comes.
    let program = Program::start(&folder.path(), &["--batch-delay-us", "800000"]);
    let callers = 6;
    std::thread::scope(|scope| {
        for caller in 0..callers {
            let (program, model) = (&program, &model);
            scope.spawn(move || {
                let rows = Row::many(caller * 10, 5);
                let answer = program.infer(&request(&rows));
                assert_close(&answer.probabilities(), &expected(model, &rows));
            });
        }
        wait_until(Duration::from_secs(5), || {
            let metrics = Exposition::parse(&program.metrics());
            metrics.value("streamrec_serving_waiting_rows") == (callers * 5) as f64
        });
        program.signal(Signal::TERM);
    });
    assert_eq!(program.exit(Duration::from_secs(5)).code(), Some(0));
}

#[test]
fn an_idle_connection_does_not_hold_the_program() {
    let folder = Folder::with(&artifact(1));
    let program = Program::start(&folder.path(), &[]);
    let keeps_its_connection = client();
    program
        .infer_by(&keeps_its_connection, &request(&[Row::nth(1)]))
        .probabilities();
    let began = Instant::now();
    program.signal(Signal::INT);
    assert_eq!(program.exit(Duration::from_secs(5)).code(), Some(0));
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "less than the grace of 10 s"
    );
}

#[test]
fn a_request_that_never_ends_is_cut_off_after_the_grace() {
    let folder = Folder::with(&artifact(1));
    let program = Program::start(&folder.path(), &["--grace-ms", "200"]);
    let mut stream = TcpStream::connect(program.host()).unwrap();
    let head = "POST /v2/models/videos/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    program.signal(Signal::TERM);
    assert_eq!(program.exit(Duration::from_secs(5)).code(), Some(0));
    let mut rest = Vec::new();
    // Closed or reset: either way nothing was answered.
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
}
