//! The command lines of `streamrec monitor run`, `rules` and `incidents`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Arguments of `monitor run`.
#[derive(Debug, Args)]
pub struct MonitorRunArgs {
    /// The monitoring folder.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The artifact that is served.
    #[arg(long)]
    pub artifact: PathBuf,
    /// The rules, a TOML file.
    #[arg(long, value_name = "FILE")]
    pub rules: PathBuf,
    /// Judge what is there, deliver what waits, and end.
    #[arg(long)]
    pub once: bool,
    /// Seconds between two looks.
    #[arg(long, default_value_t = 60, conflicts_with = "once")]
    pub every: u64,
    /// Judge as if it were this moment, RFC 3339: hours that end later are left.
    #[arg(long, value_name = "TIME", requires = "once")]
    pub now: Option<jiff::Timestamp>,
}

/// Arguments of `monitor rules`.
#[derive(Debug, Args)]
pub struct MonitorRulesArgs {
    /// The rules, a TOML file.
    pub rules: PathBuf,
    /// The folder for prometheus-rules.yml and grafana-dashboard.json; the rules are only checked where unset.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Commands on incidents.
#[derive(Debug, Subcommand)]
pub enum MonitorIncidentsCommand {
    /// Tell the incidents that are not closed.
    List {
        /// The monitoring folder.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Closed ones, too.
        #[arg(long)]
        all: bool,
        /// As JSON, whole.
        #[arg(long)]
        json: bool,
    },
    /// Say that someone knows.
    Ack(MonitorIncidentArgs),
    /// Say that it is over, and what was done.
    Close(MonitorIncidentArgs),
    /// Write its post-mortem, filled in as far as it is known.
    Postmortem {
        /// The incident.
        id: String,
        /// The monitoring folder.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The Markdown file; printed where unset.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// Arguments of `monitor incidents ack` and `close`.
#[derive(Debug, Args)]
pub struct MonitorIncidentArgs {
    /// The incident.
    pub id: String,
    /// The monitoring folder.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Who says so.
    #[arg(long, value_name = "NAME")]
    pub by: String,
    /// What else is to be said.
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
}
