//! The body of a request, bounded in bytes and in time.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;

use super::HttpSettings;
use super::error::HttpError;

/// Header of the binary tensor extension, which clients of other servers use by default.
const BINARY: &str = "inference-header-content-length";

pub(super) async fn read(request: Request, settings: &HttpSettings) -> Result<Bytes, HttpError> {
    if request.headers().contains_key(BINARY) {
        let message = "tensors come as JSON here, not in the binary extension; \
                       set binary_data=False in the client";
        return Err(HttpError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let reading = tokio::time::timeout(settings.body_max, Bytes::from_request(request, &()));
    match reading.await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let limit = settings.request_bytes_max;
            let message = format!("the body is longer than {limit} bytes; split the request");
            Err(HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, message))
        }
        Ok(Err(rejection)) => Err(HttpError::new(rejection.status(), rejection.body_text())),
        Err(_) => {
            let limit = settings.body_max.as_secs();
            let message = format!("the body did not arrive within {limit} s");
            Err(HttpError::new(StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}
