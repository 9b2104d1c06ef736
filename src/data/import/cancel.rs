//! The wish that an import ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::ImportError;

/// Set from outside, checked in every loop over rows or bytes: a check costs nothing beside either.
#[derive(Debug, Clone, Default)]
pub(super) struct Cancel(pub(super) Arc<AtomicBool>);

impl Cancel {
    /// # Errors
    /// The import shall end.
    #[inline]
    pub(super) fn check(&self) -> Result<(), ImportError> {
        if self.0.load(Ordering::Relaxed) {
            Err(ImportError::Cancelled)
        } else {
            Ok(())
        }
    }
}
