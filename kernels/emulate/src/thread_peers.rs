use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::collective::{Arriving, Peers};

/// How long ranks wait for one another.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Messages for one rank: by their number and the rank that sent them.
#[derive(Default)]
struct Inbox {
    messages: Mutex<HashMap<(u64, usize), Vec<u8>>>,
    came: Condvar,
}

/// Ranks that are threads of this process.
pub struct ThreadPeers {
    rank: usize,
    inboxes: Vec<Arc<Inbox>>,
    number: u64,
}

impl ThreadPeers {
    /// All ranks of a world.
    pub fn connect(ranks: usize) -> Vec<Self> {
        let inboxes: Vec<Arc<Inbox>> = (0..ranks).map(|_| Arc::default()).collect();
        let of = |rank| Self {
            rank,
            inboxes: inboxes.clone(),
            number: 0,
        };
        (0..ranks).map(of).collect()
    }
}

impl Inbox {
    fn take(&self, key: (u64, usize)) -> Result<Vec<u8>, String> {
        let began = Instant::now();
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(message) = messages.remove(&key) {
                return Ok(message);
            }
            let Some(left) = TIMEOUT.checked_sub(began.elapsed()) else {
                return Err(format!("rank {} did not come", key.1));
            };
            let woken = self.came.wait_timeout(messages, left);
            messages = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Peers for ThreadPeers {
    fn rank(&self) -> [usize; 2] {
        [self.rank, self.inboxes.len()]
    }

    fn exchange(&mut self, messages: Vec<Vec<u8>>) -> Arriving {
        let number = self.number;
        self.number += 1;
        for (inbox, message) in self.inboxes.iter().zip(messages) {
            let mut theirs = inbox
                .messages
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            theirs.insert((number, self.rank), message);
            inbox.came.notify_all();
        }
        let (own, ranks) = (Arc::clone(&self.inboxes[self.rank]), self.inboxes.len());
        Box::new(move || (0..ranks).map(|rank| own.take((number, rank))).collect())
    }
}
