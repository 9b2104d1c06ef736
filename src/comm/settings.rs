//! What a communicator is told at its start.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Observer, Silent};

/// How a communicator of several ranks behaves.
#[derive(Clone)]
pub struct Settings {
    /// How long a rank waits for the others in a collective. A rank whose process ends is
    /// noticed within a fraction of a second; this is for one that hangs.
    pub timeout: Duration,
    /// Hears what the communication thread does and waits for.
    pub observer: Arc<dyn Observer>,
    /// In shared memory: bytes for one message in a rank's mailbox at first; larger messages make it grow.
    pub segment_bytes: usize,
    /// Over MPI and TCP: the most bytes of one message, up to `i32::MAX`; what is larger travels in pieces. The same on
    /// all ranks.
    pub piece_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(600),
            observer: Arc::new(Silent),
            segment_bytes: 256 * 1024,
            piece_bytes: 256 << 20,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            timeout,
            segment_bytes,
            piece_bytes,
            observer: _,
        } = self;
        formatter
            .debug_struct("Settings")
            .field("timeout", timeout)
            .field("segment_bytes", segment_bytes)
            .field("piece_bytes", piece_bytes)
            .finish_non_exhaustive()
    }
}
