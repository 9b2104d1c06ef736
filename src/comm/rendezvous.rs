//! The launcher's rendezvous as a [`Bootstrap`].

use std::sync::Arc;
use std::time::Duration;

use streamrec_launcher::{RendezvousError, Store};

use super::{Bootstrap, BootstrapError};

impl Bootstrap for Store {
    fn put(&self, key: &str, value: &str) -> Result<(), BootstrapError> {
        self.set(key, value.as_bytes())
            .map_err(|error| bootstrap_error(key, error))
    }

    fn get(&self, key: &str, timeout: Duration) -> Result<String, BootstrapError> {
        let value = Store::get(self, key, timeout).map_err(|error| bootstrap_error(key, error))?;
        String::from_utf8(value).map_err(|error| BootstrapError::Store {
            key: key.to_owned(),
            source: Arc::new(error),
        })
    }
}

fn bootstrap_error(key: &str, error: RendezvousError) -> BootstrapError {
    match error {
        RendezvousError::NotSet { key, waited } => BootstrapError::Timeout { key, waited },
        error => BootstrapError::Store {
            key: key.to_owned(),
            source: Arc::new(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use streamrec_launcher::{RankEnvironment, free_port};

    use super::*;
    use crate::comm::{CommError, Communicator, Settings, SharedMemory};

    const LONG: Duration = Duration::from_secs(10);

    fn world(world_size: usize) -> Vec<RankEnvironment> {
        let master_port = free_port().unwrap();
        let rank = |rank| RankEnvironment {
            rank,
            world_size,
            master_port,
            ..RankEnvironment::single()
        };
        (0..world_size).map(rank).collect()
    }

    #[test]
    fn ranks_that_met_can_communicate() {
        std::thread::scope(|scope| {
            for environment in world(3) {
                scope.spawn(move || {
                    let store = Store::join(&environment, LONG).unwrap();
                    let RankEnvironment {
                        rank, world_size, ..
                    } = environment;
                    let settings = Settings {
                        timeout: LONG,
                        ..Settings::default()
                    };
                    let comm = SharedMemory::connect(rank, world_size, &store, settings).unwrap();
                    let ranks = comm.all_gather_bytes(vec![rank as u8]).wait().unwrap();
                    assert_eq!(ranks, [[0], [1], [2]]);
                });
            }
        });
    }

    #[test]
    fn a_lost_store_is_the_cause() {
        let ranks = world(2);
        let host = Store::join(&ranks[0], LONG).unwrap();
        let store = Store::join(&ranks[1], LONG).unwrap();
        drop(host);
        let error = SharedMemory::connect(1, 2, &store, Settings::default()).unwrap_err();
        assert!(matches!(error, CommError::Bootstrap { rank: 1, .. }));
        let cause = error.source().and_then(Error::source).unwrap();
        assert!(cause.to_string().contains("lost the rendezvous"), "{cause}");
    }
}
