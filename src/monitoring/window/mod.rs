//! Windows: what an hour looked like, in a summary that does not grow with its traffic.
//!
//! ```text
//! predictions/hour=.../*.parquet ─┐ one scan
//! labelled/hour=.../*.parquet ────┴─► WindowSummary ─► merge: days, weeks
//! ```

mod estimate;
mod scan;
mod score_histogram;
mod service;
mod summary;

pub use estimate::{CALIBRATION_LABELS_MIN, CalibrationMap, Estimate};
pub use scan::{LabelledRow, Subject, sources, summarise};
pub use score_histogram::{BinnedAuc, LabelHistogram, ScoreHistogram};
pub use service::Service;
pub use summary::{Group, Measured, SegmentKey, WINDOW_VERSION, WindowSummary};
