//! `streamrec-serve`: an artifact in, probabilities over HTTP out.

use std::future::Future;
use std::io::{ErrorKind, IsTerminal, Write};
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Error, anyhow};
use clap::Parser;
use streamrec_serving::http::{HttpSettings, Server};
use streamrec_serving::metrics::Metrics;
use streamrec_serving::prediction_log::{LogSettings, PredictionLog, Sampling};
use streamrec_serving::queue::{Queue, QueueSettings};
use streamrec_serving::repository::Repository;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Serves a StreamRec artifact over the Open Inference Protocol v2.
#[derive(Debug, Parser)]
#[command(
    name = "streamrec-serve",
    version,
    after_help = "\
Example:
  streamrec-serve artifacts/kuairand_dcn_v2 --listen 127.0.0.1:8080
  curl http://127.0.0.1:8080/v2/models/kuairand_dcn_v2
A new version takes over without dropping a request: replace the artifact's folder, then send
SIGHUP or POST /v2/repository/models/NAME/load."
)]
struct Args {
    /// The artifact's folder.
    artifact: PathBuf,
    /// The address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: String,
    /// The model's name in paths; the artifact's own where unset.
    #[arg(long)]
    name: Option<String>,
    /// Serve only what a release gate passed (verdict.json), now and after every reload.
    #[arg(long)]
    require_verdict: bool,
    /// Threads that score; all cores where unset.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Rows scored together at most.
    #[arg(long, default_value = "4096")]
    batch_rows: NonZeroUsize,
    /// Microseconds that a request waits for others.
    #[arg(long, default_value_t = 500)]
    batch_delay_us: u64,
    /// Rows that may wait before requests are refused with 429.
    #[arg(long, default_value = "65536")]
    waiting_rows: NonZeroUsize,
    /// Milliseconds that a request may wait before it is refused with 503.
    #[arg(long, default_value = "1000")]
    wait_ms: NonZeroU32,
    /// Rows of one request at most.
    #[arg(long, default_value = "16384")]
    request_rows: NonZeroUsize,
    /// Bytes of one request at most.
    #[arg(long, default_value = "33554432")]
    request_bytes: NonZeroUsize,
    /// Bytes of all requests under way at most; beyond them requests are refused with 429.
    #[arg(long, default_value = "268435456")]
    bytes_in_flight: NonZeroUsize,
    /// Connections at most; beyond them they are refused with 503.
    #[arg(long, default_value = "512")]
    connections: NonZeroUsize,
    /// Milliseconds that a request's head may take, and that a connection may idle.
    #[arg(long, default_value = "60000")]
    head_ms: NonZeroU32,
    /// Milliseconds that a caller may take to read its answer.
    #[arg(long, default_value = "30000")]
    write_ms: NonZeroU32,
    /// Milliseconds that a stop waits for open connections before it closes them.
    #[arg(long, default_value_t = 10_000)]
    grace_ms: u32,
    /// The prediction log.
    #[command(flatten)]
    log: LogArgs,
}

/// What requests leave behind.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Prediction log")]
struct LogArgs {
    /// Log requests, answers and latencies to segment files in this folder.
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,
    /// The share of requests that are logged, chosen by their ids.
    #[arg(long, default_value = "1.0", value_parser = sampling, requires = "log_dir")]
    log_sample: Sampling,
    /// Bytes of a segment file, after which another is begun.
    #[arg(long, default_value = "67108864", requires = "log_dir")]
    log_segment_bytes: NonZeroU64,
    /// Seconds after which another segment file is begun.
    #[arg(long, default_value = "300", requires = "log_dir")]
    log_segment_s: NonZeroU32,
    /// Bytes of records that may wait for the disk; beyond them records are dropped, and counted.
    #[arg(long, default_value = "67108864", requires = "log_dir")]
    log_waiting_bytes: NonZeroUsize,
}

fn sampling(text: &str) -> Result<Sampling, String> {
    let rate = text.parse().ok().and_then(Sampling::new);
    rate.ok_or_else(|| "expected a share from 0 to 1".to_owned())
}

impl LogArgs {
    /// Starts the log, where one is asked for.
    fn start(&self, name: &str, metrics: &Arc<Metrics>) -> anyhow::Result<Option<PredictionLog>> {
        let Some(folder) = &self.log_dir else {
            return Ok(None);
        };
        let settings = LogSettings {
            folder: folder.clone(),
            sampling: self.log_sample,
            segment_bytes: self.log_segment_bytes.get(),
            segment_age: Duration::from_secs(self.log_segment_s.get().into()),
            waiting_bytes_max: self.log_waiting_bytes.get(),
        };
        let started = PredictionLog::start(settings, name, Arc::clone(metrics));
        let shown = folder.display();
        let log = started.with_context(|| format!("cannot write the prediction log to {shown}"))?;
        Ok(Some(log))
    }
}

impl Args {
    fn queue(&self) -> QueueSettings {
        let threads = QueueSettings::default().threads;
        QueueSettings {
            batch_rows_max: self.batch_rows.get(),
            delay_max: Duration::from_micros(self.batch_delay_us),
            waiting_rows_max: self.waiting_rows.get(),
            wait_max: Duration::from_millis(self.wait_ms.get().into()),
            threads: self.threads.map_or(threads, NonZeroUsize::get),
        }
    }

    fn http(&self) -> HttpSettings {
        HttpSettings {
            request_rows_max: self.request_rows.get(),
            request_bytes_max: self.request_bytes.get(),
            bytes_in_flight_max: self.bytes_in_flight.get(),
            connections_max: self.connections.get(),
            head_max: Duration::from_millis(self.head_ms.get().into()),
            write_max: Duration::from_millis(self.write_ms.get().into()),
            grace: Duration::from_millis(self.grace_ms.into()),
            ..HttpSettings::default()
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("STREAMREC_LOG")
                .unwrap_or_else(|_| "info".into()),
        )
        .init();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::default());
    let (queue, http) = (args.queue(), args.http());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    // Before the load, which may take long: until then a hangup would end the program.
    let hangup = runtime.block_on(async { signal(SignalKind::hangup()) })?;
    let repository = Repository::open(
        &args.artifact,
        args.name,
        args.require_verdict,
        Arc::clone(&metrics),
    )?;
    let log = args.log.start(repository.name(), &metrics)?;
    let queue = Queue::start(queue, Arc::clone(&metrics)).context("cannot start threads")?;
    let mut server = Server::new(repository, queue, metrics, http);
    if let Some(log) = log {
        server = server.with_log(log);
    }
    let server = Arc::new(server);
    let served = runtime.block_on(serve(server, &args.listen, hangup));
    // A load that is under way is not worth waiting for.
    runtime.shutdown_background();
    served
}

async fn serve(server: Arc<Server>, listen: &str, hangup: Signal) -> anyhow::Result<()> {
    let bound = TcpListener::bind(listen).await;
    let listener = bound.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => {
            anyhow!("cannot listen on {listen}: the port is in use; choose another by --listen")
        }
        _ => Error::new(error).context(format!("cannot listen on {listen}")),
    })?;
    let address = listener.local_addr()?;
    let stop = stop_signal()?;
    reload_on_hangup(Arc::clone(&server), hangup);
    // On standard output, for scripts that started us with port 0; flushed, as it may be a pipe.
    println!("listening on http://{address}");
    std::io::stdout().flush()?;
    server.serve(listener, stop).await;
    tracing::info!("stopped");
    Ok(())
}

fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: requests under way are answered first");
    })
}

fn reload_on_hangup(server: Arc<Server>, mut hangup: Signal) {
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let server = Arc::clone(&server);
            // What became of it is logged where it happens.
            let reload = move || server.repository().reload().is_ok();
            if let Err(error) = tokio::task::spawn_blocking(reload).await {
                tracing::error!(%error, "loading failed; the version before stays");
            }
        }
    });
}
