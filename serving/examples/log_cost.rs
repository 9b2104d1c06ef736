//! What the prediction log costs: latencies of a server that logs every request beside one that logs none, in windows
//! that take turns.
//!
//! ```text
//! cargo build --release -p streamrec-serving --bins --examples
//! target/release/examples/log_cost artifacts/synthetic_dlrm --server target/release/streamrec-serve
//! ```
//!
//! Both servers run all the time; load goes to one of them at a time, in the order off, on, on, off, so that what
//! drifts on the machine drifts for both. Requests are sent on a schedule, and their latency counts from when they
//! were due: a slow answer delays no other request's clock. On a virtual machine the host takes cores away now and then,
//! for longer than a request lasts; pairs of windows in which it took none are told by themselves.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use serde_json::Value;
use streamrec_artifact::key;

#[path = "load/request.rs"]
mod request;

use request::body;

/// Measures what the prediction log adds to latencies.
#[derive(Debug, Parser)]
struct Args {
    /// The artifact's folder.
    artifact: PathBuf,
    /// The program `streamrec-serve`.
    #[arg(long)]
    server: PathBuf,
    /// Candidates a request.
    #[arg(long, default_value_t = 500)]
    rows: usize,
    /// Requests a second.
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// Connections that take turns.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Pairs of windows.
    #[arg(long, default_value_t = 30)]
    pairs: usize,
    /// Seconds a window.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// The share of requests that are logged.
    #[arg(long, default_value_t = 1.0)]
    log_sample: f64,
}

/// What a window showed.
struct Window {
    /// Milliseconds of each request.
    latencies: Vec<f64>,
    /// Whether the host took time away from this machine, where it tells.
    disturbed: bool,
}

/// Hundredths of a second that the host of this virtual machine gave to others since it started; 0 where it does not
/// tell (`man 5 proc_stat`, `steal`).
fn stolen() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let all = stat.lines().next();
    let steal = all.and_then(|line| line.split_whitespace().nth(8)?.parse().ok());
    steal.unwrap_or(0)
}

/// A server, killed when it drops.
struct Server {
    child: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(args: &Args, log: Option<&Path>) -> anyhow::Result<Self> {
        let mut command = Command::new(&args.server);
        command
            .arg(&args.artifact)
            .args(["--listen", "127.0.0.1:0"]);
        if let Some(log) = log {
            command.arg("--log-dir").arg(log);
            command.args(["--log-sample", &args.log_sample.to_string()]);
        }
        let command = command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("the server does not start")?;
        let stdout = child.stdout.take().context("no output of the server")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on ");
        let address = address.context("the server does not listen")?.to_owned();
        Ok(Self { child, address })
    }

    fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = client()
            .get(format!("{}/metrics", self.address))
            .call()?
            .body_mut()
            .read_to_string()?;
        let values = text.lines().filter(|line| line.starts_with(name));
        let values = values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.fold(0.0, |sum, value| sum + value))
    }
}

fn client() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(30)))
        .build()
        .into()
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("log");
    let servers = [
        Server::start(&args, None)?,
        Server::start(&args, Some(&log))?,
    ];
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(args.artifact.join("manifest.json"))?)?;
    let model = manifest["name"]
        .as_str()
        .context("an artifact without a name")?;
    let url = |server: &Server| format!("{}/v2/models/{model}", server.address);
    let metadata: Value = client()
        .get(url(&servers[0]))
        .call()?
        .body_mut()
        .read_json()?;
    let inputs = metadata["inputs"]
        .as_array()
        .context("a model without inputs")?;
    let bodies: Vec<String> = (0..args.connections as u64)
        .map(|connection| body(inputs, args.rows, connection))
        .collect();
    for server in &servers {
        window(&args, &url(server), &bodies)?;
    }
    let mut windows: [Vec<Window>; 2] = [Vec::new(), Vec::new()];
    for pair in 0..args.pairs {
        let order = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
        for which in order {
            windows[which].push(window(&args, &url(&servers[which]), &bodies)?);
        }
    }
    report(&args, &windows, &servers[1])
}

fn window(args: &Args, url: &str, bodies: &[String]) -> anyhow::Result<Window> {
    let before = stolen();
    let latencies = latencies(args, url, bodies)?;
    Ok(Window {
        latencies,
        disturbed: stolen() > before,
    })
}

/// Milliseconds of the requests of one window.
fn latencies(args: &Args, url: &str, bodies: &[String]) -> anyhow::Result<Vec<f64>> {
    let url = format!("{url}/infer");
    let requests = (args.rate * args.seconds).round() as usize;
    let begin = Instant::now() + Duration::from_millis(50);
    let send = |connection: usize| -> anyhow::Result<Vec<f64>> {
        let (client, mut took) = (client(), Vec::new());
        // To connect is not what is measured.
        client
            .post(&url)
            .send(&bodies[connection])?
            .body_mut()
            .read_to_vec()?;
        for index in (connection..requests).step_by(bodies.len()) {
            let due = begin + Duration::from_secs_f64(index as f64 / args.rate);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            client
                .post(&url)
                .send(&bodies[connection])?
                .body_mut()
                .read_to_vec()?;
            took.push(due.elapsed().as_secs_f64() * 1e3);
        }
        Ok(took)
    };
    std::thread::scope(|scope| {
        let send = &send;
        let threads: Vec<_> = (0..bodies.len())
            .map(|connection| scope.spawn(move || send(connection)))
            .collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(took) => took,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        Ok(joined.collect::<anyhow::Result<Vec<_>>>()?.concat())
    })
}

fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(share * (sorted.len() - 1) as f64).round() as usize]
}

fn report(args: &Args, windows: &[Vec<Window>; 2], on: &Server) -> anyhow::Result<()> {
    ensure!(args.pairs > 0, "no windows were measured");
    println!(
        "{} pairs of windows of {} s, {} requests/s of {} rows, {} connections, {:.0} % logged",
        args.pairs,
        args.seconds,
        args.rate,
        args.rows,
        args.connections,
        args.log_sample * 100.0
    );
    let all: Vec<usize> = (0..args.pairs).collect();
    compare(windows, &all);
    let calm = |pair: &usize| !windows[0][*pair].disturbed && !windows[1][*pair].disturbed;
    let calm: Vec<usize> = all.iter().copied().filter(calm).collect();
    if (1..args.pairs).contains(&calm.len()) {
        println!("{} pairs in which the host took no time away:", calm.len());
        compare(windows, &calm);
    }
    let records = |outcome: &str| {
        on.metric(&format!(
            "streamrec_serving_log_records_total{{outcome=\"{outcome}\"}}"
        ))
    };
    println!(
        "records written {}, dropped {}, failed {}; {:.1} MB",
        records("written")?,
        records("dropped")?,
        records("failed")?,
        on.metric("streamrec_serving_log_bytes_total")? / 1e6
    );
    Ok(())
}

/// Quantiles of all requests of these pairs, and what logging changes, with an interval by a bootstrap over the pairs.
fn compare(windows: &[Vec<Window>; 2], pairs: &[usize]) {
    let pooled = |which: usize, pairs: &[usize], share: f64| {
        let own = pairs.iter().map(|&pair| &windows[which][pair].latencies);
        let values: Vec<f64> = own.flatten().copied().collect();
        quantile(&values, share)
    };
    for (share, name) in [(0.5, "p50"), (0.95, "p95"), (0.99, "p99"), (0.999, "p99.9")] {
        let ratio = |pairs: &[usize]| pooled(1, pairs, share) / pooled(0, pairs, share);
        let resample = |draw: u64| {
            let pick = |place: u64| pairs[key::hash(draw << 32 | place) as usize % pairs.len()];
            let drawn: Vec<usize> = (0..pairs.len() as u64).map(pick).collect();
            ratio(&drawn)
        };
        let draws: Vec<f64> = (0..500).map(resample).collect();
        println!(
            "{name:6} off {:7.3} ms  on {:7.3} ms  change {:+.1} %  (95 % interval {:+.1} to {:+.1} %)",
            pooled(0, pairs, share),
            pooled(1, pairs, share),
            (ratio(pairs) - 1.0) * 100.0,
            (quantile(&draws, 0.025) - 1.0) * 100.0,
            (quantile(&draws, 0.975) - 1.0) * 100.0,
        );
    }
}
