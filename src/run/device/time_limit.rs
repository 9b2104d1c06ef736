//! Work that may never return.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Does something that may never return, such as waiting for a device that hangs. Work that is not done in time goes on in
/// its thread, and nobody hears of it.
pub(super) fn within(
    limit: Duration,
    work: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<(), String> {
    let (done, news) = mpsc::channel();
    let thread = thread::Builder::new().name("self-check".to_owned());
    // Nobody listens behind the limit.
    let started = thread.spawn(move || drop(done.send(work())));
    started.map_err(|error| format!("no thread can be started for the self-check: {error}"))?;
    match news.recv_timeout(limit) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Timeout) => Err(format!(
            "it does not answer: the self-check did not end within {limit:.1?}; look at `nvidia-smi` and at the system's log"
        )),
        Err(RecvTimeoutError::Disconnected) => {
            Err("the self-check broke off; its message stands above".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_hangs_or_breaks_off_is_told_of() {
        let limit = Duration::from_millis(50);
        let hangs = within(limit, || {
            thread::sleep(Duration::from_secs(3600));
            Ok(())
        });
        assert!(
            hangs.unwrap_err().contains("did not end within 50"),
            "the limit is named"
        );
        let long = Duration::from_secs(60);
        let breaks = within(long, || panic!("a test's own"));
        assert!(breaks.unwrap_err().contains("broke off"));
        assert_eq!(within(long, || Ok(())), Ok(()));
        assert_eq!(
            within(long, || Err("other".to_owned())),
            Err("other".to_owned())
        );
    }
}
