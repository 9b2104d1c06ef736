//! The command lines of `streamrec monitor`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::{Span, SpanRelativeTo};

use super::prune::MonitorPruneArgs;
use super::watch::*;

/// Commands on what is served.
#[derive(Debug, Subcommand)]
pub enum MonitorCommand {
    /// Turn closed segments of a server's prediction log into Parquet files, one folder an hour.
    #[command(after_help = "\
Example:
  streamrec monitor compact --log logs/videos --out monitoring/videos --remove-segments
Run it as often as you like: a segment is taken once, and one that a server still writes is left alone.")]
    Compact(MonitorCompactArgs),
    /// Join labels that came late with what was predicted, by request and row.
    #[command(after_help = "\
Examples:
  streamrec monitor labels --labels clicks.parquet --out monitoring/videos --window 7d
  streamrec monitor labels --labels monitoring/videos/unjoined/6c0f....parquet --out monitoring/videos
Columns: request_id, row, label, label_time_ms; where there are such, label_name (one of the model's labels,
else the first) and value. The same file again adds nothing.")]
    Labels(MonitorLabelsArgs),
    /// Show the tables as pages: pillars, features, segments, requests, incidents; and as OpenMetrics.
    #[command(after_help = "\
Example:
  streamrec monitor serve --dir monitoring/videos --artifact artifacts/videos --listen 127.0.0.1:8090
The pages need no network but this one, and no script. Whoever may reach the address may read the requests.")]
    Serve(MonitorServeArgs),
    /// Make windows of the tables, judge them by rules, tell people, and ask for a new model.
    #[command(after_help = "\
Examples:
  streamrec monitor run --dir monitoring/videos --artifact artifacts/videos --rules configs/monitoring/default.toml
  streamrec monitor run --dir monitoring/videos --artifact artifacts/videos --rules RULES.toml --once
It leaves windows/, measures/, incidents/ and triggers/ in DIR, and posts alerts to the rules' webhooks.")]
    Run(MonitorRunArgs),
    /// Check rules, and write them for Prometheus and Grafana.
    #[command(after_help = "\
Example:
  streamrec monitor rules configs/monitoring/default.toml --out deploy/monitoring")]
    Rules(MonitorRulesArgs),
    /// Remove what is older than it has to be kept.
    #[command(after_help = "\
Examples:
  streamrec monitor prune --dir monitoring/videos --rows 30d --windows 400d --dry-run
  streamrec monitor prune --dir monitoring/videos --rows 30d --windows 400d
Run it each day, from cron or a timer. Incidents stay.")]
    Prune(MonitorPruneArgs),
    /// Tell, acknowledge and close incidents; write post-mortems.
    #[command(subcommand)]
    #[command(after_help = "\
Examples:
  streamrec monitor incidents list --dir monitoring/videos
  streamrec monitor incidents ack 20270314T09-durations_missing --dir monitoring/videos --by Ana
  streamrec monitor incidents postmortem 20270314T09-durations_missing --dir monitoring/videos --out review.md")]
    Incidents(MonitorIncidentsCommand),
}

/// Arguments of `monitor serve`.
#[derive(Debug, Args)]
pub struct MonitorServeArgs {
    /// The monitoring folder.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The artifact whose predictions these are; its training profile is what they are compared with.
    #[arg(long)]
    pub artifact: PathBuf,
    /// The address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8090")]
    pub listen: String,
    /// Limits of drift, a TOML file.
    #[arg(long, value_name = "FILE")]
    pub limits: Option<PathBuf>,
}

/// Arguments of `monitor compact`.
#[derive(Debug, Args)]
pub struct MonitorCompactArgs {
    /// The folder that `streamrec-serve --log-dir` writes.
    #[arg(long, value_name = "DIR")]
    pub log: PathBuf,
    /// The monitoring folder.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Remove segments that are whole and in the tables.
    #[arg(long)]
    pub remove_segments: bool,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `monitor labels`.
#[derive(Debug, Args)]
pub struct MonitorLabelsArgs {
    /// A .parquet or .csv file of labels.
    #[arg(long, value_name = "FILE")]
    pub labels: PathBuf,
    /// The monitoring folder.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// How long after its prediction a label may come, such as 7d or 36h.
    #[arg(long, default_value = "7d", value_parser = duration_ms)]
    pub window: i64,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// A length of time in milliseconds; a day has 24 hours.
pub(crate) fn duration_ms(text: &str) -> Result<i64, String> {
    let span: Option<Span> = text.parse().ok();
    let duration = span.and_then(|span| {
        let duration = span.to_duration(SpanRelativeTo::days_are_24_hours());
        duration.ok()
    });
    let milliseconds = duration.and_then(|duration| i64::try_from(duration.as_millis()).ok());
    let positive = milliseconds.filter(|&milliseconds| milliseconds > 0);
    positive.ok_or_else(|| "expected a length of time such as 7d, 36h or 90m".to_owned())
}
