//! A server on loopback that is posted alerts.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;

use serde_json::Value;

/// Answers every post well, and gives what came.
pub fn receiver() -> (String, mpsc::Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!(
        "http://{}/alerts",
        listener.local_addr().expect("an address")
    );
    let (sender, received) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a caller");
            let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
            let body = loop {
                let count = stream.read(&mut part).expect("bytes");
                bytes.extend_from_slice(&part[..count]);
                let text = String::from_utf8_lossy(&bytes);
                let Some((head, body)) = text.split_once("\r\n\r\n") else {
                    continue;
                };
                let mut lengths = head.lines().filter_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length")
                        .then(|| value.trim().parse().ok())?
                });
                if lengths
                    .next()
                    .is_some_and(|length: usize| body.len() >= length)
                {
                    break body.to_owned();
                }
            };
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer).expect("answered");
            if sender
                .send(serde_json::from_str(&body).expect("JSON"))
                .is_err()
            {
                return;
            }
        }
    });
    (url, received)
}
