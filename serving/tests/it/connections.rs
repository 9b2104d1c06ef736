//! Callers who do nothing, or too much, on connections of their own.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::model::{Folder, artifact};
use crate::program::{Program, wait_until};
use crate::row::{Row, request};

const LIVE: &[u8] = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n";

fn connect(program: &Program) -> TcpStream {
    let stream = TcpStream::connect(program.host()).unwrap();
    let patience = Some(Duration::from_secs(20));
    stream.set_read_timeout(patience).unwrap();
    stream.set_write_timeout(patience).unwrap();
    stream
}

/// An answer's head and body.
fn read_answer(stream: &mut TcpStream) -> (String, Value) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0].into());
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .expect("a length");
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    (head, serde_json::from_slice(&body).unwrap())
}

fn post(length: usize) -> String {
    format!("POST /v2/models/videos/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n")
}

#[test]
fn half_a_head_is_closed_in_time() {
    let folder = Folder::with(&artifact(1));
    let program = Program::start(&folder.path(), &["--head-ms", "300"]);
    for half in ["", "GET /v2 HTTP/1.1\r\nhost"] {
        let mut stream = connect(&program);
        let began = Instant::now();
        stream.write_all(half.as_bytes()).unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        assert!(said.is_empty(), "{}", String::from_utf8_lossy(&said));
        let took = began.elapsed();
        assert!(took > Duration::from_millis(250), "{half:?}: {took:?}");
        assert!(took < Duration::from_secs(10), "{half:?}: {took:?}");
    }
    assert_eq!(program.get("/v2/health/live").status, 200);
}

#[test]
fn a_connection_beyond_the_limit_is_told_so_and_idle_ones_do_not_stay() {
    let folder = Folder::with(&artifact(1));
    let flags = ["--connections", "3", "--head-ms", "1500"];
    let program = Program::start(&folder.path(), &flags);
    let _idle: Vec<TcpStream> = (0..3).map(|_| connect(&program)).collect();
    for _ in 0..5 {
        let answer = program.get("/v2/health/live");
        assert_eq!(answer.status, 503, "{answer:?}");
        assert_eq!(answer.retry_after.as_deref(), Some("1"));
        assert!(answer.error().contains("all of its 3 connections"));
    }
    wait_until(Duration::from_secs(10), || {
        program.get("/v2/health/live").status == 200
    });
}

#[test]
fn who_does_not_read_its_answers_is_closed() {
    let folder = Folder::with(&artifact(1));
    let program = Program::start(&folder.path(), &["--write-ms", "300"]);
    let mut stream = connect(&program);
    let requests = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
    // Answers fill the system's buffers, then the server takes no more requests, then it hangs up.
    let error = loop {
        if let Err(error) = stream.write_all(&requests) {
            break error;
        }
    };
    assert!(
        matches!(
            error.kind(),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        ),
        "{error}"
    );
    assert_eq!(program.get("/v2/health/live").status, 200);
}

#[test]
fn bytes_in_flight_are_bounded_and_free_again_when_answered() {
    let folder = Folder::with(&artifact(1));
    let flags = ["--request-bytes", "100000", "--bytes-in-flight", "100000"];
    let program = Program::start(&folder.path(), &flags);
    let rows = request(&[Row::nth(1)]);
    let mut slow = connect(&program);
    slow.write_all(post(100_000).as_bytes()).unwrap();
    // Its head is read first: it would be refused itself while another's bytes are under way.
    std::thread::sleep(Duration::from_millis(200));
    let mut refused = None;
    wait_until(Duration::from_secs(5), || {
        let answer = program.infer(&rows);
        refused = (answer.status != 200).then_some(answer);
        refused.is_some()
    });
    let refused = refused.unwrap();
    assert_eq!(refused.status, 429, "{refused:?}");
    assert_eq!(refused.retry_after.as_deref(), Some("1"));
    assert!(
        refused.error().contains("of all requests under way"),
        "{refused:?}"
    );

    // Refused before its body has come; the rest is read and forgotten, the connection stays.
    let mut early = connect(&program);
    early.write_all(post(90_000).as_bytes()).unwrap();
    assert!(read_answer(&mut early).0.starts_with("HTTP/1.1 429"));
    early.write_all(&[b' '; 90_000]).unwrap();
    early.write_all(LIVE).unwrap();
    assert!(read_answer(&mut early).0.starts_with("HTTP/1.1 200"));

    slow.write_all(&[b' '; 100_000]).unwrap();
    assert!(read_answer(&mut slow).0.starts_with("HTTP/1.1 400"));
    assert_eq!(program.infer(&rows).status, 200);
}
