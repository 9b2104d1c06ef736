//! SIGTERM and SIGINT, and SIGUSR1 to ranks of mpirun: save and leave.
//!
//! A rank that nobody launched ends at once on a second one, for whoever presses Ctrl-C twice. A
//! launched rank does not: a signal to the whole job (systemd, Slurm, Kubernetes) reaches it
//! directly, and again through its launcher, which kills by itself what does not leave in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use streamrec_launcher::{RankEnvironment, Source};

use super::RunError;

/// Whether this process was asked to stop.
#[derive(Debug, Clone)]
pub(super) struct StopSignal {
    signal: Arc<AtomicUsize>,
}

impl StopSignal {
    /// Starts to watch, as the process that `environment` describes.
    pub(super) fn watch(environment: &RankEnvironment) -> Result<Self, RunError> {
        let alone = environment.source == Source::Single;
        let (asked, signal) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        for number in [SIGTERM, SIGINT] {
            let register = || {
                if alone {
                    // Before the next line, so that the first signal only asks.
                    flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&asked))?;
                }
                flag::register(number, Arc::clone(&asked))?;
                flag::register_usize(number, Arc::clone(&signal), number as usize)
            };
            register().map_err(RunError::other("cannot watch signals"))?;
        }
        if matches!(environment.source, Source::OpenMpi | Source::Hydra) {
            // mpirun keeps SIGTERM to itself, and passes this one on.
            flag::register_usize(SIGUSR1, Arc::clone(&signal), SIGTERM as usize)
                .map_err(RunError::other("cannot watch signals"))?;
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
