//! Signals to the launcher itself.

use std::io;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What asks a process to save and leave.
pub(crate) const STOP_SIGNALS: [i32; 2] = [SIGTERM, SIGINT];

/// Collects SIGTERM and SIGINT from now on; the process no longer dies of them, nor after this value is dropped.
pub(crate) struct Interrupts(Signals);

impl Interrupts {
    pub(crate) fn watch() -> io::Result<Self> {
        Signals::new(STOP_SIGNALS).map(Self)
    }

    /// A signal that came since the last call.
    pub(crate) fn take(&mut self) -> Option<i32> {
        self.0.pending().last()
    }
}

/// The name of a signal, such as `SIGKILL`.
pub(crate) fn name_of(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal)
        .map_or_else(|| format!("signal {signal}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names() {
        assert_eq!(
            (name_of(9), name_of(15), name_of(64)),
            ("SIGKILL".into(), "SIGTERM".into(), "signal 64".into())
        );
    }
}
