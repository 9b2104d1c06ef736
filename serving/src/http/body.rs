//! The body of a request, bounded in bytes and in time, alone and together with all others.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::HttpSettings;
use super::error::HttpError;

/// Header of the binary tensor extension, which clients of other servers use by default.
const BINARY: &str = "inference-header-content-length";

/// Bytes of a permit: a semaphore counts no further than `u32` at once.
const PERMIT_BYTES: usize = 1 << 10;

/// The bytes of all requests that are under way.
pub(super) struct BytesInFlight(Arc<Semaphore>);

impl BytesInFlight {
    pub(super) fn new(settings: &HttpSettings) -> Self {
        // At least one request of the full length must fit.
        let bytes = settings.bytes_in_flight_max.max(settings.request_bytes_max);
        Self(Arc::new(Semaphore::new(permits(bytes) as usize)))
    }

    /// Room for so many bytes, unless others have it.
    fn reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0)
            .try_acquire_many_owned(permits(bytes))
            .ok()
    }
}

fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX)
}

/// A body, and its part of the bytes in flight.
pub(super) struct HeldBody {
    pub(super) bytes: Bytes,
    /// Held until the request is answered.
    pub(super) room: OwnedSemaphorePermit,
}

/// Reads the body of `request`; one without a declared length counts as the longest allowed.
pub(super) async fn read(
    request: Request,
    settings: &HttpSettings,
    in_flight: &BytesInFlight,
) -> Result<HeldBody, HttpError> {
    if request.headers().contains_key(BINARY) {
        let message = "tensors come as JSON here, not in the binary extension; \
                       set binary_data=False in the client";
        return Err(HttpError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let limit = settings.request_bytes_max;
    let too_long = || {
        let message = format!("the body is longer than {limit} bytes; split the request");
        HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let declared = request.body().size_hint().upper();
    let length = declared.map_or(limit, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    if length > limit {
        discard(request.into_body(), settings);
        return Err(too_long());
    }
    let Some(room) = in_flight.reserve(length) else {
        discard(request.into_body(), settings);
        let limit = settings.bytes_in_flight_max;
        let message = format!(
            "the server is busy: this body of up to {length} bytes would exceed the {limit} of all \
             requests under way; try again in a moment"
        );
        return Err(HttpError::new(StatusCode::TOO_MANY_REQUESTS, message));
    };
    let reading = tokio::time::timeout(settings.body_max, Bytes::from_request(request, &()));
    match reading.await {
        Ok(Ok(bytes)) => Ok(HeldBody { bytes, room }),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(too_long())
        }
        Ok(Err(rejection)) => Err(HttpError::new(rejection.status(), rejection.body_text())),
        Err(_) => {
            let limit = settings.body_max.as_secs();
            let message = format!("the body did not arrive within {limit} s");
            Err(HttpError::new(StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}

/// Reads on without keeping anything: a caller that still writes when the connection closes would
/// not see the answer.
fn discard(mut body: Body, settings: &HttpSettings) {
    let (limit, patience): (usize, Duration) = (settings.request_bytes_max, settings.body_max);
    tokio::spawn(tokio::time::timeout(patience, async move {
        let mut read = 0;
        while read <= limit {
            match poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
                Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
                _ => break,
            }
        }
    }));
}
