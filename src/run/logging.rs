//! Logs go to standard error; `STREAMREC_LOG` sets the level, such as `debug`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::prelude::*;

use crate::train::{Profile, Recorder};

/// Starts logging for this process; with `profile`, spans too.
pub(super) fn start(profile: Option<&Profile>) {
    let filter = EnvFilter::try_from_env("STREAMREC_LOG").unwrap_or_else(|_| "info".into());
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false);
    let recorder =
        profile.map(|profile| profile.recorder().with_filter(filter_fn(Recorder::wants)));
    let subscriber = tracing_subscriber::registry();
    // A second start, as in tests, keeps the first.
    let _ = subscriber
        .with(log.with_filter(filter))
        .with(recorder)
        .try_init();
}
