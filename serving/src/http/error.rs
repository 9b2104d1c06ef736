//! What a caller is told when a request is not answered: `{"error": "..."}`, as the protocol says.

use axum::Json;
use axum::http::{StatusCode, header::RETRY_AFTER};
use axum::response::{IntoResponse, Response};

use crate::error_chain::error_chain;
use crate::protocol::RequestError;
use crate::queue::Refusal;
use crate::ranker::LoadError;

/// An answer that is an error.
#[derive(Debug)]
pub(super) struct HttpError {
    pub(super) status: StatusCode,
    message: String,
}

impl HttpError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }
}

impl From<RequestError> for HttpError {
    fn from(error: RequestError) -> Self {
        let status = match error {
            RequestError::TooManyRows { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error_chain(&error))
    }
}

impl From<Refusal> for HttpError {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal {
            Refusal::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
            Refusal::Late { .. } | Refusal::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::NotANumber { .. } => StatusCode::BAD_REQUEST,
            Refusal::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, refusal.to_string())
    }
}

impl From<LoadError> for HttpError {
    fn from(error: LoadError) -> Self {
        Self::new(StatusCode::CONFLICT, error_chain(&error))
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let body = Json(serde_json::json!({ "error": self.message }));
        let busy = matches!(
            self.status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        );
        if busy {
            return (self.status, [(RETRY_AFTER, "1")], body).into_response();
        }
        (self.status, body).into_response()
    }
}
