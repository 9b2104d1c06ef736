//! A communicator behind a link that is slower than the machine's memory.

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{CommBuffer, CommError, Communicator, Event, Message, ReduceOp};

/// A link that carries one collective after the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkSpeed {
    /// Time that every collective takes.
    pub latency: Duration,
    /// Time that its bytes take besides.
    pub bytes_per_s: f64,
}

/// Another communicator, as if its ranks were joined by a link of a given speed: to find out on one machine what an
/// overlap of communication and computation is worth on several. Results are those of the other.
///
/// A collective is over when the other's is, and the link has carried its bytes after those of all collectives before:
/// `2 (n-1)/n` of an all-reduce's buffer, `(n-1)/n` of other buffers, and messages to other ranks (Thakur et al.,
/// "Optimization of Collective Communication Operations in MPICH", 2005). Groups share the link they are split from.
pub struct Delayed {
    inner: Arc<dyn Communicator>,
    link: Arc<Link>,
    /// What waits for the link, in order.
    waiting: Sender<Box<dyn FnOnce() + Send>>,
}

struct Link {
    speed: LinkSpeed,
    traffic: Mutex<Traffic>,
}

struct Traffic {
    /// From when on it is free.
    free: Instant,
    carried: Carried,
}

/// What a link has carried.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Carried {
    /// Collectives, each with its latency.
    pub collectives: u64,
    /// Bytes.
    pub bytes: f64,
}

impl Link {
    /// Takes the link for so many bytes; returns when they have arrived.
    fn carry(&self, bytes: f64) -> Instant {
        let time = self.speed.latency + Duration::from_secs_f64(bytes / self.speed.bytes_per_s);
        let mut traffic = self.lock();
        traffic.carried.collectives += 1;
        traffic.carried.bytes += bytes;
        traffic.free = traffic.free.max(Instant::now()) + time;
        traffic.free
    }

    fn lock(&self) -> MutexGuard<'_, Traffic> {
        // Numbers are valid whatever their last holder did.
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Delayed {
    /// Joins the ranks of `inner` by a link of this speed.
    ///
    /// # Errors
    /// When the speed is none, or its thread cannot be started.
    pub fn new(inner: Arc<dyn Communicator>, speed: LinkSpeed) -> Result<Self, CommError> {
        if !(speed.bytes_per_s.is_finite() && speed.bytes_per_s >= 1.0) {
            return Err(CommError::Connect {
                rank: inner.rank(),
                problem: format!("expected a link of at least 1 byte a second, got {speed:?}"),
            });
        }
        let traffic = Mutex::new(Traffic {
            free: Instant::now(),
            carried: Carried::default(),
        });
        Self::over(inner, Arc::new(Link { speed, traffic }))
    }

    /// What the link has carried so far, for this rank and the groups split from it.
    pub fn carried(&self) -> Carried {
        self.link.lock().carried
    }

    fn over(inner: Arc<dyn Communicator>, link: Arc<Link>) -> Result<Self, CommError> {
        let (waiting, queue) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        thread::Builder::new()
            .name("slow-link".into())
            .spawn(move || queue.into_iter().for_each(|wait| wait()))
            .map_err(|error| CommError::Connect {
                rank: inner.rank(),
                problem: format!("cannot start the thread of the link: {error}"),
            })?;
        Ok(Self {
            inner,
            link,
            waiting,
        })
    }

    fn delay<T: Send + 'static>(&self, event: Event<T>, bytes: f64) -> Event<T> {
        let arrival = self.link.carry(bytes);
        let (promise, delayed) = Event::pending();
        let wait = move || {
            let result = event.wait();
            thread::sleep(arrival.saturating_duration_since(Instant::now()));
            promise.complete(result);
        };
        // If the thread has ended, the promise is dropped and the event says so.
        let _ = self.waiting.send(Box::new(wait));
        delayed
    }

    /// The bytes of a buffer's share that goes to other ranks.
    fn share(&self, buffer: &CommBuffer) -> f64 {
        let others = (self.size() - 1) as f64 / self.size() as f64;
        others * size_of_val::<[f32]>(buffer) as f64
    }
}

impl Communicator for Delayed {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn allocate(&self, len: usize) -> Result<CommBuffer, CommError> {
        self.inner.allocate(len)
    }

    fn all_reduce(&self, buffer: CommBuffer, op: ReduceOp) -> Event<CommBuffer> {
        let bytes = 2.0 * self.share(&buffer);
        self.delay(self.inner.all_reduce(buffer, op), bytes)
    }

    fn broadcast(&self, buffer: CommBuffer, root: usize) -> Event<CommBuffer> {
        let bytes = self.share(&buffer);
        self.delay(self.inner.broadcast(buffer, root), bytes)
    }

    fn reduce_scatter(&self, buffer: CommBuffer, op: ReduceOp) -> Event<CommBuffer> {
        let bytes = self.share(&buffer);
        self.delay(self.inner.reduce_scatter(buffer, op), bytes)
    }

    fn all_gather(&self, buffer: CommBuffer) -> Event<CommBuffer> {
        let bytes = self.share(&buffer);
        self.delay(self.inner.all_gather(buffer), bytes)
    }

    fn all_gather_bytes(&self, message: Vec<u8>) -> Event<Vec<Vec<u8>>> {
        let bytes = message.len() * (self.size() - 1);
        self.delay(self.inner.all_gather_bytes(message), bytes as f64)
    }

    fn message(&self) -> Message {
        self.inner.message()
    }

    fn all_to_all_bytes(&self, messages: Vec<Message>) -> Event<Vec<Message>> {
        let others = messages.iter().enumerate();
        let others = others.filter(|(rank, _)| *rank != self.rank());
        let bytes: usize = others.map(|(_, message)| message.len()).sum();
        self.delay(self.inner.all_to_all_bytes(messages), bytes as f64)
    }

    fn barrier(&self) -> Event<()> {
        self.delay(self.inner.barrier(), 0.0)
    }

    fn ended(&self) -> Event<Vec<usize>> {
        self.inner.ended()
    }

    fn split(&self, color: usize, key: usize) -> Result<Arc<dyn Communicator>, CommError> {
        let group = self.inner.split(color, key)?;
        if group.size() == 1 {
            return Ok(group);
        }
        Ok(Arc::new(Self::over(group, Arc::clone(&self.link))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::{Settings, SharedMemory};

    #[test]
    fn results_are_those_of_the_other_and_come_when_the_link_has_carried_them() {
        let speed = LinkSpeed {
            latency: Duration::from_millis(10),
            bytes_per_s: 4e6,
        };
        let ranks = SharedMemory::connect_threads(2, &Settings::default()).unwrap();
        thread::scope(|scope| {
            for rank in ranks {
                scope.spawn(move || {
                    let comm = Delayed::new(Arc::new(rank), speed).unwrap();
                    let group = comm.split(0, comm.rank()).unwrap();
                    let mut buffer = comm.allocate(10_000).unwrap();
                    buffer.fill(1.0 + comm.rank() as f32);
                    let began = Instant::now();
                    let sum = comm.all_reduce(buffer, ReduceOp::Sum);
                    let message = |_| vec![comm.rank() as u8; 80_000].into();
                    let messages = [0, 1].map(message).into();
                    let received = group.all_to_all_bytes(messages);
                    assert!(sum.wait().unwrap().iter().all(|sum| *sum == 3.0));
                    // 40 kB over the link: 10 ms and 10 ms.
                    assert!(began.elapsed() >= Duration::from_millis(20));
                    assert_eq!(*received.wait().unwrap()[1], [1; 80_000]);
                    // Then 80 kB: 10 ms and 20 ms.
                    assert!(began.elapsed() >= Duration::from_millis(50));
                    let carried = comm.carried();
                    assert_eq!((carried.collectives, carried.bytes), (2, 120_000.0));
                });
            }
        });
    }
}
