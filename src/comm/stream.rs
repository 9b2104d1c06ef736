//! The communication thread of a communicator: collectives run there in the order of submission.

use std::sync::mpsc;

use super::{CommError, Event};

/// Submits work to the thread that owns an engine.
pub(super) struct Stream<E> {
    jobs: mpsc::Sender<Job<E>>,
}

type Job<E> = Box<dyn FnOnce(&mut E) + Send>;

impl<E: Send + 'static> Stream<E> {
    /// Starts the thread, of the rank `world_rank` of the world. It ends when the handle is dropped and all that was
    /// submitted is done, and drops the engine; nobody waits for it, so that a failing rank can exit at once.
    pub(super) fn start(world_rank: usize, mut engine: E) -> Result<Self, CommError> {
        let (jobs, queue) = mpsc::channel::<Job<E>>();
        std::thread::Builder::new()
            .name(format!("comm-{world_rank}"))
            .spawn(move || queue.into_iter().for_each(|job| job(&mut engine)))
            .map_err(|error| CommError::Connect {
                rank: world_rank,
                problem: format!("cannot start the communication thread: {error}"),
            })?;
        Ok(Self { jobs })
    }

    pub(super) fn submit<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut E) -> Result<T, CommError> + Send + 'static,
    ) -> Event<T> {
        let (promise, event) = Event::pending();
        let job: Job<E> = Box::new(move |engine| promise.complete(work(engine)));
        // If the thread has ended, the promise is dropped and the event says so.
        let _ = self.jobs.send(job);
        event
    }
}
