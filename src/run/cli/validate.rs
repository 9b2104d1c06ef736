//! The command lines of `streamrec validate` and `report`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::SplitName;

/// Commands that judge. Exit codes: 0 passed, 3 failed, 4 hold (too little evidence), 1 and 2 nothing could be
/// judged.
#[derive(Debug, Subcommand)]
pub enum ValidateCommand {
    /// Judge a suite of expectations on data: Parquet, CSV or packed.
    #[command(after_help = "\
Examples:
  streamrec validate data suites/events.toml events/2027-03-14.parquet --failing-rows failing.parquet
  streamrec validate data suites/events.json data/kuairand --split test --json result.json
A suite is that of Great Expectations 1.x, in JSON or the same in TOML; docs/formats/expectations.md lists
what is supported.")]
    Data(ValidateDataArgs),
    /// Write a suite calibrated from days of data, for a person to review.
    #[command(after_help = "\
Examples:
  streamrec validate suggest events/2027-03-*.parquet --segment client --out suites/events.toml
  streamrec validate suggest data/kuairand --time time_ms --out suites/kuairand.toml")]
    Suggest(ValidateSuggestArgs),
    /// Compare data with what an artifact was trained on: schema and drift.
    #[command(after_help = "\
Examples:
  streamrec validate drift artifacts/kuairand_dcn_v2 data/today --limits configs/drift.toml
  streamrec validate drift artifacts/kuairand_dcn_v2 events/2027-03-14.parquet
Columns of files have the names of the model's inputs.")]
    Drift(ValidateDriftArgs),
    /// Run behavioural tests against an artifact or a live server.
    #[command(after_help = "\
Examples:
  streamrec validate behaviour tests.toml artifacts/kuairand_dcn_v2 --data data/kuairand
  streamrec validate behaviour tests.toml artifacts/kuairand_dcn_v2 --server http://127.0.0.1:8080")]
    Behaviour(ValidateBehaviourArgs),
    /// Judge an artifact by a release gate and write its verdict beside it.
    #[command(after_help = "\
Example:
  streamrec validate gate configs/gates/v1/release.toml artifacts/challenger --champion artifacts/live \\
    --reference artifacts/frozen --data data/kuairand --split test --behaviour tests.toml")]
    Gate(ValidateGateArgs),
}

/// Arguments of `validate drift`.
#[derive(Debug, Args)]
pub struct ValidateDriftArgs {
    /// The artifact's folder.
    pub artifact: PathBuf,
    /// A dataset's folder, a .parquet or a .csv file.
    pub data: PathBuf,
    /// One split of a dataset; all of it where unset.
    #[arg(long, value_enum)]
    pub split: Option<SplitName>,
    /// What parts the elements of a list in a CSV file.
    #[arg(long, value_name = "TEXT", default_value = ",")]
    pub list_separator: String,
    /// Limits, a TOML file.
    #[arg(long, value_name = "FILE")]
    pub limits: Option<PathBuf>,
    /// Write the report to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Arguments of `validate behaviour`.
#[derive(Debug, Args)]
pub struct ValidateBehaviourArgs {
    /// The tests, a TOML file.
    pub suite: PathBuf,
    /// The artifact's folder; with --server, that of the served artifact.
    pub artifact: PathBuf,
    /// A dataset whose test rows are the sample; the artifact's golden rows where unset.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// A server to ask in place of the artifact itself.
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// Rows of the sample.
    #[arg(long, default_value_t = 2000)]
    pub rows: usize,
    /// Write the report to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Arguments of `validate gate`.
#[derive(Debug, Args)]
pub struct ValidateGateArgs {
    /// The gate, a TOML file.
    pub gate: PathBuf,
    /// The challenger's folder; its verdict is written there.
    pub artifact: PathBuf,
    /// The live artifact's folder.
    #[arg(long)]
    pub champion: Option<PathBuf>,
    /// The frozen yardstick's folder.
    #[arg(long)]
    pub reference: Option<PathBuf>,
    /// The dataset that all are judged on.
    #[arg(long)]
    pub data: PathBuf,
    /// Its split; test where unset.
    #[arg(long, value_enum, default_value = "test")]
    pub split: SplitName,
    /// Behavioural tests to run, a TOML file.
    #[arg(long, value_name = "FILE")]
    pub behaviour: Option<PathBuf>,
    /// Judge only, and write no verdict.
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `validate data`.
#[derive(Debug, Args)]
pub struct ValidateDataArgs {
    /// The suite, a .json or .toml file.
    pub suite: PathBuf,
    /// A .parquet, .csv or .pack file, a folder of Parquet files, or a dataset's folder.
    pub data: PathBuf,
    /// One split of a dataset; all of it where unset.
    #[arg(long, value_enum)]
    pub split: Option<SplitName>,
    /// Write every row that fails an expectation to this Parquet file.
    #[arg(long, value_name = "FILE")]
    pub failing_rows: Option<PathBuf>,
    /// Write the result in Great Expectations's shape to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// The least severity of an unmet expectation that fails the data.
    #[arg(long, value_enum, default_value = "critical")]
    pub fail_on: SeverityName,
}

/// How grave an unmet expectation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SeverityName {
    /// Worth a note.
    Info,
    /// Worth a look.
    Warning,
    /// Stops what needs the data.
    Critical,
}

/// Arguments of `validate suggest`.
#[derive(Debug, Args)]
pub struct ValidateSuggestArgs {
    /// Tables as those of `validate data`; each is a day unless --time says otherwise.
    #[arg(required = true)]
    pub data: Vec<PathBuf>,
    /// The suite's file, .toml or .json.
    #[arg(long)]
    pub out: PathBuf,
    /// A column of times; its UTC days are the days.
    #[arg(long, value_name = "COLUMN")]
    pub time: Option<String>,
    /// A column of texts; missing values are expected by its values, too.
    #[arg(long, value_name = "COLUMN")]
    pub segment: Option<String>,
}

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The run's folder.
    pub run: PathBuf,
    /// The file to write; RUN/report.html where unset.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// The run's artifact: adds its verdict, its data and its scores.
    #[arg(long)]
    pub artifact: Option<PathBuf>,
    /// The dataset to score with the artifact; the run's own where unset.
    #[arg(long, requires = "artifact")]
    pub data: Option<PathBuf>,
    /// Its split.
    #[arg(long, value_enum, default_value = "test")]
    pub split: SplitName,
    /// Show the segments of this key column; may be given several times. Data holds hashes of texts: name the values
    /// that are to be shown by name.
    #[arg(long, value_name = "COLUMN[=VALUE,VALUE]", requires = "artifact")]
    pub segment: Vec<String>,
}
