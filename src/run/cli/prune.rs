//! The command line of `streamrec monitor prune`.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::monitor::duration_ms;

/// Arguments of `monitor prune`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("ages").args(["rows", "windows"]).required(true).multiple(true)))]
pub struct MonitorPruneArgs {
    /// The monitoring folder.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// How long rows are kept, such as 30d: predictions, labelled ones, and labels that found none. Longer than
    /// labels take to come.
    #[arg(long, value_name = "AGE", value_parser = duration_ms)]
    pub rows: Option<i64>,
    /// How long windows are kept, such as 400d: summaries, measures and judgements, and receipts of segments.
    #[arg(long, value_name = "AGE", value_parser = duration_ms)]
    pub windows: Option<i64>,
    /// Remove old rows, too, that `monitor run` has not judged with all their labels.
    #[arg(long, requires = "rows")]
    pub unjudged: bool,
    /// Tell what would be removed, and remove nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Ages are counted from this moment, RFC 3339; from now where unset.
    #[arg(long, value_name = "TIME")]
    pub now: Option<jiff::Timestamp>,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}
