//! The prediction log: what was asked, what was answered and how long it took, in append-only files.
//!
//! ```text
//! request ─► answer ─► bounded queue ─► one thread ─► segment files (framed, checked)
//!                        full: dropped                    └─► SegmentReader, elsewhere
//! ```
//!
//! A request never waits for its record: where the queue or the disk is full, records are dropped and counted.
//! `docs/formats/prediction_log.md` tells the bytes.

mod frame;
#[cfg(feature = "http")]
mod load;
mod model;
mod record;
mod sampling;
mod segment;
#[cfg(feature = "http")]
mod segment_file;
#[cfg(feature = "http")]
mod writer;

pub use frame::FRAME_BYTES_MAX;
#[cfg(feature = "http")]
pub use load::UnderWay;
pub use model::LoggedModel;
pub use record::{LogRecord, LogStatus, REQUEST_ID_BYTES_MAX, logged_id};
pub use sampling::Sampling;
pub use segment::{SEGMENT_MAGIC, SegmentEnd, SegmentName, SegmentReader, SegmentState};
#[cfg(feature = "http")]
pub(crate) use writer::now_ms;
#[cfg(feature = "http")]
pub use writer::{LogSettings, PredictionLog};

#[cfg(test)]
mod tests;
