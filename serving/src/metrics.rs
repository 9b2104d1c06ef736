//! What the server counts, in the OpenMetrics text format.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Scored.
    Ok,
    /// Refused for what it said.
    BadRequest,
    /// Refused because too many wait.
    Shed,
    /// A fault of the server's.
    Failed,
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        let text = match self {
            Self::Ok => "ok",
            Self::BadRequest => "bad_request",
            Self::Shed => "shed",
            Self::Failed => "failed",
        };
        text.encode(encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Outcome,
}

/// What became of a record of the prediction log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogOutcome {
    /// It is in a segment.
    Written,
    /// Too much waited for the disk.
    Dropped,
    /// The disk refused it.
    Failed,
}

impl EncodeLabelValue for LogOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        let text = match self {
            Self::Written => "written",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
        };
        text.encode(encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LogOutcomeLabel {
    outcome: LogOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabel {
    version: String,
}

/// The server's metrics. Labels are bounded: outcomes, and the one version that answers.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<OutcomeLabel, Counter>,
    request_seconds: Histogram,
    /// Time between arrival and scoring.
    pub queue_seconds: Histogram,
    compute_seconds: Histogram,
    batch_rows: Histogram,
    rows: Counter,
    /// Rows that wait now.
    pub waiting_rows: Gauge,
    /// Times another version took over.
    pub swaps: Counter,
    model: Family<VersionLabel, Gauge>,
    log_records: Family<LogOutcomeLabel, Counter>,
    /// Bytes of segments of the prediction log.
    pub log_bytes: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || Histogram::new(exponential_buckets(50e-6, 2.0, 16));
        let mut metrics = Self {
            registry: Registry::with_prefix("streamrec_serving"),
            requests: Family::default(),
            request_seconds: seconds(),
            queue_seconds: seconds(),
            compute_seconds: seconds(),
            batch_rows: Histogram::new(exponential_buckets(1.0, 2.0, 14)),
            rows: Counter::default(),
            waiting_rows: Gauge::default(),
            swaps: Counter::default(),
            model: Family::default(),
            log_records: Family::default(),
            log_bytes: Counter::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        let info = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program", info);
        registry.register(
            "model",
            "1 for the version that answers",
            self.model.clone(),
        );
        registry.register(
            "requests",
            "Inference requests by outcome",
            self.requests.clone(),
        );
        registry.register("rows", "Rows scored", self.rows.clone());
        registry.register(
            "batch_rows",
            "Rows scored together",
            self.batch_rows.clone(),
        );
        registry.register(
            "waiting_rows",
            "Rows that wait now",
            self.waiting_rows.clone(),
        );
        registry.register(
            "swaps",
            "Times another version took over",
            self.swaps.clone(),
        );
        registry.register(
            "log_records",
            "Records of the prediction log by what became of them",
            self.log_records.clone(),
        );
        registry.register_with_unit(
            "log",
            "Bytes written to the prediction log",
            Unit::Bytes,
            self.log_bytes.clone(),
        );
        for (name, help, histogram) in [
            (
                "request",
                "Time from request to answer",
                &self.request_seconds,
            ),
            ("queue", "Time a request waited", &self.queue_seconds),
            ("compute", "Time to score a batch", &self.compute_seconds),
        ] {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        }
    }

    /// Counts a request that ended.
    pub fn request(&self, outcome: Outcome, took: Duration) {
        self.requests.get_or_create(&OutcomeLabel { outcome }).inc();
        self.request_seconds.observe(took.as_secs_f64());
    }

    /// Counts records of the prediction log.
    pub fn logged(&self, outcome: LogOutcome, records: u64) {
        let label = LogOutcomeLabel { outcome };
        self.log_records.get_or_create(&label).inc_by(records);
    }

    /// Tells which version answers now.
    pub fn version(&self, version: &str) {
        let version = version.to_owned();
        self.model.clear();
        self.model.get_or_create(&VersionLabel { version }).set(1);
    }

    /// Counts a batch that was scored.
    pub fn scored(&self, rows: usize, took: Duration) {
        self.rows.inc_by(rows as u64);
        self.batch_rows.observe(rows as f64);
        self.compute_seconds.observe(took.as_secs_f64());
    }

    /// All metrics as OpenMetrics text.
    ///
    /// # Errors
    /// When a metric cannot be formatted.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
