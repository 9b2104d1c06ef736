//! Monitoring: nothing rots unseen.
//!
//! ```text
//! streamrec-serve ─► segments ─► prediction_log: compaction ─► predictions/hour=.../*.parquet
//! labels, late ────────────────► label_join ────────────────► labelled/hour=.../*.parquet
//! both, and the artifact's training profile ─► dashboard ─► pages, OpenMetrics
//! ```
//!
//! Never does: slow a server, or change what was logged.

pub mod alert;
pub mod concept;
pub mod dashboard;
pub mod definitions;
pub mod label_join;
pub mod measure;
pub mod prediction_log;
pub mod retention;
pub mod rules;
pub mod significance;
pub mod watch;
pub mod window;

mod error;
mod hour;
mod store;

pub use error::MonitoringError;
pub use hour::Hour;
pub use store::{Store, StoreLock, Table};
