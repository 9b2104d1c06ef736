//! A refusal from inside a JSON reader, whose own errors are only text.

use std::cell::Cell;

use serde::de;

use super::RequestError;

/// Where a reader leaves what it refused; the JSON error that ends the reading only carries it out.
#[derive(Default)]
pub(super) struct Refusal(Cell<Option<RequestError>>);

impl Refusal {
    /// Leaves `error` and ends the reading.
    #[cold]
    pub(super) fn refuse<E: de::Error>(&self, error: RequestError) -> E {
        let json = E::custom("refused");
        self.0.set(Some(error));
        json
    }

    /// `result`, its error left here.
    #[inline]
    pub(super) fn or_json<T, E: de::Error>(&self, result: Result<T, RequestError>) -> Result<T, E> {
        result.map_err(|error| self.refuse(error))
    }

    pub(super) fn take(&self) -> Option<RequestError> {
        self.0.take()
    }
}
