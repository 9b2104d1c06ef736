//! How ranks find each other before they can communicate.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::CommError;

/// A key-value store that all ranks of a job reach.
///
/// Keys are written once: a job that connects again, after a restart, needs a fresh store or
/// another prefix.
pub trait Bootstrap: Send + Sync {
    /// Stores a value.
    fn put(&self, key: &str, value: &str) -> Result<(), BootstrapError>;

    /// Waits up to `timeout` for a value.
    fn get(&self, key: &str, timeout: Duration) -> Result<String, BootstrapError>;
}

/// Why a [`Bootstrap`] failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// Nobody stored the key in time.
    #[error("nobody stored `{key}` within {:.1} s", waited.as_secs_f64())]
    Timeout {
        /// The key.
        key: String,
        /// How long it was waited for.
        waited: Duration,
    },

    /// The store cannot be used.
    #[error("cannot reach the store for `{key}`")]
    Store {
        /// The key.
        key: String,
        /// The error of the store.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
}

/// A store for ranks that are threads of one process; clones share it.
#[derive(Debug, Clone, Default)]
pub struct InProcessBootstrap {
    shared: Arc<(Mutex<HashMap<String, String>>, Condvar)>,
}

impl InProcessBootstrap {
    /// Connects each rank of a world on a thread of its own; returns what they made, in rank order.
    pub(super) fn connect_threads<C: Send>(
        size: usize,
        connect: impl Fn(usize, &Self) -> Result<C, CommError> + Sync,
    ) -> Result<Vec<C>, CommError> {
        let (bootstrap, connect) = (&Self::default(), &connect);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..size)
                .map(|rank| scope.spawn(move || connect(rank, bootstrap)))
                .collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined
                .map(|result| result.unwrap_or(Err(CommError::Abandoned)))
                .collect()
        })
    }
}

impl Bootstrap for InProcessBootstrap {
    fn put(&self, key: &str, value: &str) -> Result<(), BootstrapError> {
        let (values, changed) = &*self.shared;
        let mut values = values.lock().unwrap_or_else(PoisonError::into_inner);
        values.insert(key.to_owned(), value.to_owned());
        changed.notify_all();
        Ok(())
    }

    fn get(&self, key: &str, timeout: Duration) -> Result<String, BootstrapError> {
        let (values, changed) = &*self.shared;
        let start = Instant::now();
        let mut values = values.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(value) = values.get(key) {
                return Ok(value.clone());
            }
            let waited = start.elapsed();
            let Some(left) = timeout.checked_sub(waited).filter(|left| !left.is_zero()) else {
                return Err(BootstrapError::Timeout {
                    key: key.to_owned(),
                    waited,
                });
            };
            let woken = changed
                .wait_timeout(values, left)
                .unwrap_or_else(PoisonError::into_inner);
            values = woken.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn get_waits_for_put() {
        let store = InProcessBootstrap::default();
        let reader = store.clone();
        let thread = std::thread::spawn(move || reader.get("key", Duration::from_secs(5)));
        store.put("key", "value").unwrap();
        assert_eq!(thread.join().unwrap().unwrap(), "value");
    }

    #[test]
    fn get_gives_up_in_time() {
        let store = InProcessBootstrap::default();
        let error = store.get("key", Duration::from_millis(10)).unwrap_err();
        assert!(matches!(error, BootstrapError::Timeout { ref key, .. } if key == "key"));
    }
}
