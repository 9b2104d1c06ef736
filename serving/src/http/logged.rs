//! What a request leaves behind for the prediction log.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use streamrec_artifact::RawBatch;

use crate::metrics::Outcome;
use crate::prediction_log::{LogRecord, LogStatus, PredictionLog, logged_id, now_ms};
use crate::ranker::Ranker;

/// The header by which a caller, or a proxy before us, names a request.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What is known of a request so far.
pub(super) struct Trace {
    time_ms: i64,
    id: Option<String>,
    pub(super) ranker: Option<Arc<Ranker>>,
    pub(super) rows: RawBatch,
    pub(super) scores: Vec<f32>,
    pub(super) queue: Duration,
    pub(super) compute: Duration,
}

impl Trace {
    /// A request with this head.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let id = headers.get(REQUEST_ID);
        let id = id.and_then(|id| id.to_str().ok());
        Self {
            time_ms: now_ms(),
            id: id.filter(|id| !id.is_empty()).map(logged_id),
            ranker: None,
            rows: RawBatch::default(),
            scores: Vec::new(),
            queue: Duration::ZERO,
            compute: Duration::ZERO,
        }
    }

    /// The body's own id stands before the head's: it comes back with the answer, so labels will have it.
    pub(super) fn told(&mut self, id: Option<&str>) {
        if let Some(id) = id.filter(|id| !id.is_empty()) {
            self.id = Some(logged_id(id));
        }
    }

    /// Logs the request if it is one of the sample; its id.
    pub(super) fn log(
        self,
        log: &PredictionLog,
        live: impl FnOnce() -> Arc<Ranker>,
        outcome: Outcome,
        took: Duration,
    ) -> String {
        let id = self.id.unwrap_or_else(|| log.new_id());
        if !log.takes(&id) {
            return id;
        }
        let record = LogRecord {
            request_id: id.clone(),
            time_ms: self.time_ms,
            status: status(outcome),
            total_us: microseconds(took),
            queue_us: microseconds(self.queue),
            compute_us: microseconds(self.compute),
            rows: self.rows,
            scores: self.scores,
        };
        log.submit(self.ranker.unwrap_or_else(live), record);
        id
    }
}

fn status(outcome: Outcome) -> LogStatus {
    match outcome {
        Outcome::Ok => LogStatus::Ok,
        Outcome::BadRequest => LogStatus::BadRequest,
        Outcome::Shed => LogStatus::Shed,
        Outcome::Failed => LogStatus::Failed,
    }
}

fn microseconds(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// The answer, with the id that labels are joined by.
pub(super) fn with_id(mut answer: Response, id: &str) -> Response {
    // An id that a header cannot hold came in the body, and goes back there.
    if let Ok(id) = HeaderValue::from_str(id) {
        answer.headers_mut().insert(REQUEST_ID, id);
    }
    answer
}
