//! The communication thread of a communicator: collectives run there in the order of submission, or on the thread that
//! calls where it waits anyway and nothing is in flight.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, mpsc};

use super::{CommError, Event};

/// Submits work to the thread that drives an engine.
pub(super) struct Stream<E> {
    // Before the jobs, so that the thread is the last to have it and drops the engine.
    shared: Arc<Shared<E>>,
    jobs: mpsc::Sender<Job<E>>,
}

struct Shared<E> {
    engine: Mutex<E>,
    /// Jobs that were submitted and are not over.
    in_flight: AtomicUsize,
}

type Job<E> = Box<dyn FnOnce(&mut E) + Send>;

impl<E: Send + 'static> Stream<E> {
    /// Starts the thread, of the rank `world_rank` of the world. It ends when the handle is dropped and all that was
    /// submitted is done, and drops the engine; nobody waits for it, so that a failing rank can exit at once.
    pub(super) fn start(world_rank: usize, engine: E) -> Result<Self, CommError> {
        let (jobs, queue) = mpsc::channel::<Job<E>>();
        let shared = Arc::new(Shared {
            engine: Mutex::new(engine),
            in_flight: AtomicUsize::new(0),
        });
        let own = Arc::clone(&shared);
        let work = move || {
            for job in queue {
                job(&mut own.lock());
                own.in_flight.fetch_sub(1, Ordering::Release);
            }
        };
        std::thread::Builder::new()
            .name(format!("comm-{world_rank}"))
            .spawn(work)
            .map_err(|error| CommError::Connect {
                rank: world_rank,
                problem: format!("cannot start the communication thread: {error}"),
            })?;
        Ok(Self { shared, jobs })
    }

    pub(super) fn submit<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut E) -> Result<T, CommError> + Send + 'static,
    ) -> Event<T> {
        let (promise, event) = Event::pending();
        let job: Job<E> = Box::new(move |engine| promise.complete(work(engine)));
        self.shared.in_flight.fetch_add(1, Ordering::Relaxed);
        // If the thread has ended, the promise is dropped and the event says so.
        let _ = self.jobs.send(job);
        event
    }

    /// Does the work and waits for it: on this thread if nothing is in flight, which saves waking another one and being
    /// woken by it; else after what is.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut E) -> Result<T, CommError> + Send + 'static,
    ) -> Result<T, CommError> {
        if self.shared.in_flight.load(Ordering::Acquire) == 0
            && let Some(mut engine) = self.shared.try_lock()
        {
            return work(&mut engine);
        }
        self.submit(work).wait()
    }
}

impl<E> Shared<E> {
    fn lock(&self) -> MutexGuard<'_, E> {
        // Whoever panics inside a collective leaves it to the others' time-out, as with a thread of its own.
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, E>> {
        match self.engine.try_lock() {
            Ok(engine) => Some(engine),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn work_that_is_waited_for_runs_here_unless_other_work_is_in_flight() {
        let stream = Stream::start(0, Vec::new()).unwrap();
        let here = thread::current().id();
        let name = |steps: &mut Vec<u8>, step| {
            steps.push(step);
            Ok(thread::current().id())
        };
        assert_eq!(stream.run(move |steps| name(steps, 1)).unwrap(), here);
        let slow = stream.submit(move |steps| {
            thread::sleep(Duration::from_millis(30));
            name(steps, 2)
        });
        assert_ne!(stream.run(move |steps| name(steps, 3)).unwrap(), here);
        assert_ne!(slow.wait().unwrap(), here);
        let steps = stream.submit(|steps| Ok(steps.clone())).wait().unwrap();
        assert_eq!(steps, [1, 2, 3], "in the order of submission");
    }

    #[test]
    fn the_thread_drops_the_engine_after_all_that_was_submitted() {
        struct Engine(Option<mpsc::Sender<thread::ThreadId>>);
        impl Drop for Engine {
            fn drop(&mut self) {
                if let Some(dropped) = self.0.take() {
                    let _ = dropped.send(thread::current().id());
                }
            }
        }
        let (dropped, dropping) = mpsc::channel();
        let stream = Stream::start(0, Engine(Some(dropped))).unwrap();
        let last = stream.submit(|_| {
            thread::sleep(Duration::from_millis(10));
            Ok(())
        });
        drop(stream);
        last.wait().unwrap();
        assert_ne!(dropping.recv().unwrap(), thread::current().id());
    }
}
