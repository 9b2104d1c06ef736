//! How a long job shows that it moves: a bar on a terminal, plain lines elsewhere.

use std::fmt::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// Time between plain lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Progress of one job on rank 0; the other ranks stay silent.
#[derive(Debug)]
pub struct Progress {
    name: &'static str,
    total: u64,
    display: Display,
    /// What was done before, and when this job began to add to it.
    first: Option<(u64, Instant)>,
}

#[derive(Debug)]
enum Display {
    Silent,
    Bar(ProgressBar),
    Lines { last: Instant },
}

impl Progress {
    /// Progress towards `total` units named `unit`, such as "samples"; 0 where it is not known.
    pub fn new(name: &'static str, unit: &str, total: u64) -> Self {
        let length = (total > 0).then_some(total);
        let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
        let template = if total > 0 {
            format!("{name} {{bar:24}} {{percent:>3}}% {{rate}} {unit}/s {{msg}} {{eta}} left")
        } else {
            format!("{name} {{spinner}} {{pos}} {unit} {{rate}} {unit}/s {{msg}}")
        };
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.with_key("rate", whole_rate));
        }
        let display = if bar.is_hidden() {
            Display::Lines {
                last: Instant::now(),
            }
        } else {
            Display::Bar(bar)
        };
        Self {
            name,
            total,
            display,
            first: None,
        }
    }

    /// Progress that shows nothing.
    pub fn silent() -> Self {
        Self {
            name: "",
            total: 0,
            display: Display::Silent,
            first: None,
        }
    }

    /// Moves to `done` units; `message` says more, such as the loss.
    pub fn at(&mut self, done: u64, message: impl FnOnce() -> String) {
        let begins = self.first.is_none();
        let (before, began) = *self.first.get_or_insert((done, Instant::now()));
        match &mut self.display {
            Display::Silent => {}
            Display::Bar(bar) => {
                bar.set_position(done);
                if begins {
                    // What an earlier run did must not count as speed.
                    bar.reset_eta();
                }
                bar.set_message(message());
            }
            Display::Lines { last } => {
                if last.elapsed() < LINE_INTERVAL {
                    return;
                }
                *last = Instant::now();
                let elapsed_s = began.elapsed().as_secs_f64();
                let per_s = (done - before) as f64 / elapsed_s.max(1e-9);
                let left_s = (self.total.saturating_sub(done)) as f64 / per_s;
                let left_s = if left_s.is_finite() {
                    left_s.round()
                } else {
                    0.0
                };
                let (message, total) = (message(), self.total);
                tracing::info!(
                    done,
                    total,
                    per_s = per_s.round(),
                    left_s,
                    "{} {message}",
                    self.name
                );
            }
        }
    }

    /// Ends the bar, so that what is printed next starts on a line of its own.
    pub fn finish(&mut self) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
        self.display = Display::Silent;
    }
}

/// Units a second, without the decimals that nobody reads.
fn whole_rate(state: &ProgressState, to: &mut dyn Write) {
    // Writing to a string cannot fail.
    let _ = write!(to, "{:.0}", state.per_sec());
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
