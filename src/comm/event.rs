//! The pending result of a collective.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::CommError;

/// A collective in flight; [`wait`](Self::wait) gives its result.
///
/// Dropping it does not cancel the collective: the result is dropped when it is there.
#[must_use = "the buffer in flight comes back only through `wait`"]
pub struct Event<T>(Inner<T>);

enum Inner<T> {
    /// From the start.
    Completed(Result<T, CommError>),
    Pending(Arc<State<T>>),
}

/// The side that completes an [`Event`]. Dropped without a result, it completes the event with
/// [`CommError::Abandoned`].
pub struct Promise<T> {
    state: Arc<State<T>>,
}

struct State<T> {
    ready: AtomicBool,
    result: Mutex<Option<Result<T, CommError>>>,
    completed: Condvar,
}

impl<T> State<T> {
    fn lock(&self) -> MutexGuard<'_, Option<Result<T, CommError>>> {
        // An option is valid whatever its last holder did.
        self.result.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Event<T> {
    /// An event and the promise to complete it.
    pub fn pending() -> (Promise<T>, Self) {
        let state = Arc::new(State {
            ready: AtomicBool::new(false),
            result: Mutex::new(None),
            completed: Condvar::new(),
        });
        let promise = Promise {
            state: Arc::clone(&state),
        };
        (promise, Self(Inner::Pending(state)))
    }

    /// An event that is ready from the start.
    pub fn completed(result: Result<T, CommError>) -> Self {
        Self(Inner::Completed(result))
    }

    /// Whether [`wait`](Self::wait) would return at once.
    pub fn is_ready(&self) -> bool {
        match &self.0 {
            Inner::Completed(_) => true,
            Inner::Pending(state) => state.ready.load(Ordering::Acquire),
        }
    }

    /// Blocks until the collective is over, and returns its result.
    pub fn wait(self) -> Result<T, CommError> {
        let state = match self.0 {
            Inner::Completed(result) => return result,
            Inner::Pending(state) => state,
        };
        let mut result = state.lock();
        loop {
            if let Some(result) = result.take() {
                return result;
            }
            result = state
                .completed
                .wait(result)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> Promise<T> {
    /// Completes the event.
    pub fn complete(self, result: Result<T, CommError>) {
        self.set(result);
    }

    fn set(&self, result: Result<T, CommError>) {
        *self.state.lock() = Some(result);
        self.state.ready.store(true, Ordering::Release);
        self.state.completed.notify_one();
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        if !self.state.ready.load(Ordering::Acquire) {
            self.set(Err(CommError::Abandoned));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_the_result_of_another_thread() {
        let (promise, event) = Event::pending();
        assert!(!event.is_ready());
        let worker = std::thread::spawn(move || promise.complete(Ok(7)));
        assert_eq!(event.wait().unwrap(), 7);
        worker.join().unwrap();
    }

    #[test]
    fn is_ready_once_completed() {
        assert!(Event::completed(Ok(1)).is_ready());
    }

    #[test]
    fn a_dropped_promise_is_an_error_not_a_hang() {
        let (promise, event) = Event::<u8>::pending();
        drop(promise);
        assert!(matches!(event.wait(), Err(CommError::Abandoned)));
    }
}
