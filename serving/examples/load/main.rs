//! Puts load on a running server and prints latencies and throughput.
//!
//! ```text
//! streamrec-serve artifacts/synthetic_dlrm &
//! cargo run --release -p streamrec-serving --example load -- http://127.0.0.1:8080 synthetic_dlrm
//! ```
//!
//! Values are invented from what the server says of its inputs, so that any model will do.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use serde_json::Value;

mod request;

use request::body;

/// Puts load on a running server.
#[derive(Debug, Parser)]
struct Args {
    /// The server, such as `http://127.0.0.1:8080`.
    server: String,
    /// The model's name.
    model: String,
    /// Candidates a request.
    #[arg(long, default_value_t = 500)]
    rows: usize,
    /// Connections, each with one request under way.
    #[arg(long, default_value_t = 4)]
    connections: u64,
    /// Seconds to measure, after one to warm up.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let url = format!(
        "{}/v2/models/{}",
        args.server.trim_end_matches('/'),
        args.model
    );
    let mut metadata = client()
        .get(&url)
        .call()
        .with_context(|| format!("no answer from {url}"))?;
    let metadata: Value = metadata.body_mut().read_json()?;
    let inputs = metadata["inputs"]
        .as_array()
        .context("the model has no inputs")?;
    let infer = format!("{url}/infer");
    let began = Instant::now();
    let calls = std::thread::scope(|scope| {
        let call = |connection| {
            let (infer, args) = (&infer, &args);
            move || call(infer, &body(inputs, args.rows, connection), args, began)
        };
        let threads: Vec<_> = (0..args.connections)
            .map(|connection| scope.spawn(call(connection)))
            .collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(calls) => calls,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect::<anyhow::Result<Vec<_>>>()
    })?;
    report(calls.concat(), &args)
}

fn client() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(30)))
        .build()
        .into()
}

/// Calls one after the other, and how long each took.
fn call(url: &str, body: &str, args: &Args, began: Instant) -> anyhow::Result<Vec<Duration>> {
    let client = client();
    let warm_up = Duration::from_secs(1);
    let end = warm_up + Duration::from_secs(args.seconds);
    let mut took = Vec::new();
    while began.elapsed() < end {
        let start = Instant::now();
        let mut response = client.post(url).send(body)?;
        response.body_mut().read_to_vec()?;
        if start.duration_since(began) >= warm_up {
            took.push(start.elapsed());
        }
    }
    Ok(took)
}

fn report(mut took: Vec<Duration>, args: &Args) -> anyhow::Result<()> {
    ensure!(!took.is_empty(), "no request was answered in time");
    took.sort();
    let milliseconds = |share: f64| {
        let at = (share * (took.len() - 1) as f64).round() as usize;
        took[at].as_secs_f64() * 1e3
    };
    let requests = took.len() as f64 / args.seconds as f64;
    println!(
        "{} connections, {} rows a request: p50 {:.2} ms, p99 {:.2} ms, {:.0} requests/s, {:.0} rows/s",
        args.connections,
        args.rows,
        milliseconds(0.5),
        milliseconds(0.99),
        requests,
        requests * args.rows as f64
    );
    Ok(())
}
