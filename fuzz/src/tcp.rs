//! What another rank says over TCP, once it has shown the job's token: collectives succeed or end in one error.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::thread;
use std::time::Duration;

use streamrec::comm::{
    Bootstrap, Communicator, InProcessBootstrap, ReduceOp, Route, Settings, Tcp,
};

use super::edits::edited;

/// More than travels with a call.
const LEN: u64 = 9_000;

const HELLO_BYTES: usize = 48;

/// As it comes, after the calls that a rank makes; and as edits of those with their data.
pub fn check(data: &[u8]) {
    let calls = [call(1, 1, 0, 0), call(2, 2, LEN, 1), call(3, 3, LEN, 1)].concat();
    run(&[&calls, data].concat());
    let whole = [
        calls,
        frame(16, &[1; 2 * LEN as usize]),
        frame(17, &[1; 2 * LEN as usize]),
    ];
    run(&edited(&whole.concat(), data));
}

/// A frame: `docs/formats/tcp.md`.
fn frame(tag: u32, bytes: &[u8]) -> Vec<u8> {
    let mut text = tag.to_le_bytes().to_vec();
    text.extend(b"SRTF");
    text.extend((bytes.len() as u64).to_le_bytes());
    text.extend(bytes);
    text
}

/// A message: a call without data.
fn call(kind: u64, sequence: u64, len: u64, buffer: u64) -> Vec<u8> {
    let words = [
        0x5354_524d_5049_0101,
        sequence,
        kind << 32,
        len,
        buffer,
        0,
        0,
    ];
    frame(1, &words.map(u64::to_ne_bytes).concat())
}

/// Rank 1 of two, whose rank 0 says `text` and then nothing more.
fn run(text: &[u8]) {
    let bootstrap = InProcessBootstrap::default();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let told = format!("{:032x}\n{address}\n{address}", 7);
    bootstrap.put("tcp/ranks", &told).expect("stored");
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut stream = listener.accept().expect("rank 1 comes").0;
            let mut hello = [0; HELLO_BYTES];
            stream.read_exact(&mut hello).expect("rank 1 says hello");
            let (from, to) = hello[28..36].split_at_mut(4);
            from.swap_with_slice(to);
            // Rank 1 may have heard enough.
            let _ = stream
                .write_all(&hello)
                .and_then(|()| stream.write_all(text));
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let settings = Settings {
            timeout: Duration::from_millis(100),
            ..Settings::default()
        };
        let sum = Tcp::connect(1, 2, &bootstrap, Route::LOOPBACK, settings).and_then(|comm| {
            let buffer = comm.allocate(LEN as usize)?;
            comm.reduce_now(buffer, ReduceOp::Sum)
        });
        match sum {
            Ok(sum) => assert_eq!(sum.len(), LEN as usize),
            Err(error) => assert!(
                error.to_string().len() < 2000,
                "an error that repeats what came"
            ),
        }
    });
}
