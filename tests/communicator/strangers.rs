//! Over TCP: whoever is no rank of the job is refused, and does no harm.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use streamrec::comm::{
    Bootstrap, CommError, Communicator, InProcessBootstrap, Route, Settings, Tcp,
};

const PATIENCE: Duration = Duration::from_secs(20);

fn connect(
    rank: usize,
    bootstrap: &InProcessBootstrap,
    settings: &Settings,
) -> Result<Tcp, CommError> {
    Tcp::connect(rank, 2, bootstrap, Route::LOOPBACK, settings.clone())
}

fn settings(timeout: Duration) -> Settings {
    Settings {
        timeout,
        ..Settings::default()
    }
}

/// Where rank 0 listens, from what it told; the token of the job stands before it.
fn first_address(bootstrap: &InProcessBootstrap) -> SocketAddr {
    let told = bootstrap.get("tcp/ranks", PATIENCE).unwrap();
    told.lines().nth(1).unwrap().parse().unwrap()
}

#[test]
fn strangers_that_come_first_keep_no_rank_out() {
    let bootstrap = InProcessBootstrap::default();
    // Rank 0 listens once rank 1 has told an address, and then waits for it.
    bootstrap.put("tcp/address/1", "127.0.0.1:1").unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| connect(0, &bootstrap, &settings(PATIENCE)));
        let address = first_address(&bootstrap);
        let mut silent = TcpStream::connect(address).unwrap();
        for said in [
            b"GET / HTTP/1.1\r\n\r\n".repeat(5),
            vec![0; 48],
            vec![0xff; 48],
        ] {
            let mut stranger = TcpStream::connect(address).unwrap();
            stranger.write_all(&said).unwrap();
            // Hung up on, without a word.
            let mut answer = Vec::new();
            let _ = stranger.read_to_end(&mut answer);
            assert!(answer.is_empty(), "{answer:?}");
        }
        let second = connect(1, &bootstrap, &settings(PATIENCE)).unwrap();
        let first = first.join().unwrap().unwrap();
        let barriers = [first.barrier(), second.barrier()];
        for barrier in barriers {
            barrier.wait().unwrap();
        }
        // One that never says anything neither learns anything.
        assert_eq!(silent.read(&mut [0; 16]).unwrap_or(0), 0);
    });
}

#[test]
fn a_rank_with_another_token_is_refused_and_the_missing_one_is_named() {
    let bootstrap = InProcessBootstrap::default();
    bootstrap.put("tcp/address/1", "127.0.0.1:1").unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| connect(0, &bootstrap, &settings(Duration::from_millis(600))));
        let address = first_address(&bootstrap);
        let other = InProcessBootstrap::default();
        let token = "00000000000000000000000000000000";
        let told = format!("{token}\n{address}\n127.0.0.1:1");
        other.put("tcp/ranks", &told).unwrap();
        let error = connect(1, &other, &settings(PATIENCE)).unwrap_err();
        assert!(
            matches!(error, CommError::Connect { rank: 1, .. }),
            "{error}"
        );
        let text = error.to_string();
        assert!(text.contains("where rank 0 listens"), "{text}");
        match first.join().unwrap().unwrap_err() {
            CommError::Timeout {
                collective: "connect",
                missing,
                ..
            } => assert_eq!(missing, [1]),
            other => panic!("{other}"),
        }
    });
}

#[test]
fn a_rank_that_nobody_can_reach_says_so_at_once() {
    let bootstrap = InProcessBootstrap::default();
    // Nobody listens at this port of the system's own.
    let told = "00000000000000000000000000000000\n127.0.0.1:1\n127.0.0.1:2";
    bootstrap.put("tcp/ranks", told).unwrap();
    let start = Instant::now();
    let error = connect(1, &bootstrap, &settings(PATIENCE)).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("cannot reach rank 0 at 127.0.0.1:1"),
        "{text}"
    );
    assert!(text.contains("MASTER_ADDR"), "{text}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn addresses_that_make_no_sense_are_told() {
    for (told, part) in [
        (
            "no token\n127.0.0.1:1\n127.0.0.1:2",
            "32 hexadecimal digits",
        ),
        (
            "00000000000000000000000000000000\n127.0.0.1:1",
            "addresses of 2 ranks",
        ),
        (
            "00000000000000000000000000000000\nhere\nthere",
            "got `here`",
        ),
    ] {
        let bootstrap = InProcessBootstrap::default();
        bootstrap.put("tcp/ranks", told).unwrap();
        let text = connect(1, &bootstrap, &settings(PATIENCE)).unwrap_err();
        assert!(text.to_string().contains(part), "{text}");
    }
}
