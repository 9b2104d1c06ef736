//! Monitoring: nothing rots unseen.
//!
//! ```text
//! streamrec-serve ─► segments ─► prediction_log: compaction ─► predictions/hour=.../*.parquet
//! labels, late ────────────────► label_join ────────────────► labelled/hour=.../*.parquet
//! both, and the artifact's training profile ─► dashboard ─► pages, OpenMetrics
//! ```
//!
//! Never does: slow a server, or change what was logged.

pub mod concept;
pub mod dashboard;
pub mod label_join;
pub mod prediction_log;
pub mod significance;

mod error;
mod hour;
mod store;

pub use error::MonitoringError;
pub use hour::Hour;
pub use store::{Store, StoreLock, Table};
