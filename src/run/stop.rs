//! SIGTERM and SIGINT: save and leave. A second one ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::RunError;

/// Whether this process was asked to stop.
#[derive(Debug, Clone)]
pub(super) struct StopSignal {
    signal: Arc<AtomicUsize>,
}

impl StopSignal {
    /// Starts to watch.
    pub(super) fn watch() -> Result<Self, RunError> {
        let (asked, signal) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        for number in [SIGTERM, SIGINT] {
            let register = || {
                // In this order, so that the first signal only asks.
                flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&asked))?;
                flag::register(number, Arc::clone(&asked))?;
                flag::register_usize(number, Arc::clone(&signal), number as usize)
            };
            register().map_err(RunError::other("cannot watch signals"))?;
        }
        Ok(Self { signal })
    }

    /// The signal that asked, if one did.
    pub(super) fn received(&self) -> Option<i32> {
        match self.signal.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal as i32),
        }
    }
}
