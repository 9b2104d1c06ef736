//! The threads of a reader and what they share.
//!
//! One lock guards small values only: windows and batches are made outside it. Workers claim steps in
//! order and take their windows along with the claim, so a window that no later step needs can go.
//! Back-pressure: at most `prefetch` steps are claimed and not yet taken, and the loader stays at most
//! one window ahead of the next claim.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::assemble::Assembly;
use super::plan::Plan;
use super::window::Window;
use crate::data::{Batch, Block, Error, Result};

/// Memory to be filled again.
#[derive(Debug, Default)]
pub(super) struct Spares {
    pub batches: Vec<Batch>,
    pub windows: Vec<Block>,
    /// Where the loader reads blocks.
    pub scratch: Option<Block>,
}

#[derive(Debug)]
pub(super) struct Pipeline {
    plan: Plan,
    state: Mutex<State>,
    /// Something in `state` changed.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// The next step that a worker makes.
    next_claim: u64,
    /// The step after the last; brought forward by an error.
    end: u64,
    /// The next step that `next()` gives.
    next_taken: u64,
    /// The steps from `next_taken` to `next_claim`: those not there yet are being made.
    made: VecDeque<Option<Result<Batch>>>,
    /// The windows from `first_window` to `next_window`.
    windows: VecDeque<Arc<Window>>,
    first_window: usize,
    next_window: usize,
    /// Why window `next_window` cannot be loaded.
    load_error: Option<Error>,
    spares: Spares,
    stop: bool,
    panicked: bool,
}

/// What a worker makes next.
struct Claim {
    step: u64,
    windows: Vec<Arc<Window>>,
    batch: Batch,
}

impl Pipeline {
    /// A pipeline whose first batch is that of `step`.
    pub fn new(plan: Plan, step: u64, spares: Spares) -> Self {
        let end = plan.source.steps();
        let window = if step < end {
            plan.windows(step).start
        } else {
            plan.order.windows()
        };
        let state = State {
            next_claim: step,
            end,
            next_taken: step,
            made: VecDeque::new(),
            windows: VecDeque::new(),
            first_window: window,
            next_window: window,
            load_error: None,
            spares,
            stop: false,
            panicked: false,
        };
        Self {
            plan,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// The next batch; none after the last.
    pub fn next(&self) -> Result<Option<Batch>> {
        let mut state = self.lock();
        loop {
            if let Some(Some(_)) = state.made.front() {
                let made = state.made.pop_front().flatten();
                state.next_taken += 1;
                if let Some(Err(_)) = made {
                    // Nothing follows an error, even what was made already.
                    state.end = state.next_taken;
                    state.made.clear();
                }
                drop(state);
                self.changed.notify_all();
                return made.transpose();
            }
            if state.panicked {
                return Err(Error::Thread);
            }
            if state.next_taken >= state.end {
                return Ok(None);
            }
            state = self.wait(state);
        }
    }

    pub fn recycle(&self, batch: Batch) {
        self.lock().spares.batches.push(batch);
    }

    /// Tells all threads to end.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }

    /// What can be filled again, once the threads have ended.
    pub fn take_spares(&self) -> Spares {
        let mut state = self.lock();
        let mut spares = std::mem::take(&mut state.spares);
        spares
            .batches
            .extend(state.made.drain(..).flatten().flatten());
        let windows = state.windows.drain(..).filter_map(Arc::into_inner);
        spares.windows.extend(windows.map(|window| window.block));
        spares
    }

    /// Loads windows until none is needed.
    pub fn load(&self) {
        let _guard = PanicGuard(self);
        let mut scratch = self
            .lock()
            .spares
            .scratch
            .take()
            .unwrap_or_else(|| self.plan.source.selection.block());
        while let Some((window, block)) = self.next_to_load() {
            let loaded = Window::load(&self.plan, window, &mut scratch, block);
            let mut state = self.lock();
            match loaded {
                Ok(window) => {
                    state.windows.push_back(Arc::new(window));
                    state.next_window += 1;
                }
                Err(error) => state.load_error = Some(error),
            }
            let failed = state.load_error.is_some();
            drop(state);
            self.changed.notify_all();
            if failed {
                break;
            }
        }
        self.lock().spares.scratch = Some(scratch);
    }

    /// Makes batches until all are claimed.
    pub fn work(&self) {
        let _guard = PanicGuard(self);
        while let Some(Claim {
            step,
            windows,
            mut batch,
        }) = self.claim()
        {
            let assembly = Assembly {
                plan: &self.plan,
                windows: &windows,
                step,
            };
            let made = assembly.fill(&mut batch).map(|()| batch);
            let mut state = self.lock();
            let freed = windows.into_iter().filter_map(Arc::into_inner);
            state
                .spares
                .windows
                .extend(freed.map(|window| window.block));
            if made.is_err() {
                state.end = state.end.min(step + 1);
            }
            // There is no place for it where an earlier step failed meanwhile.
            let place = step
                .checked_sub(state.next_taken)
                .map(|place| place as usize);
            if let Some(place) = place.and_then(|place| state.made.get_mut(place)) {
                *place = Some(made);
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Waits until a window is wanted.
    fn next_to_load(&self) -> Option<(usize, Block)> {
        let mut state = self.lock();
        loop {
            if state.stop || state.next_claim >= state.end {
                return None;
            }
            let last = self.plan.windows(state.end - 1).end;
            let ahead = self.plan.windows(state.next_claim).end + 1;
            if state.next_window >= last {
                return None;
            }
            if state.next_window < ahead {
                let block = state.spares.windows.pop();
                let block = block.unwrap_or_else(|| self.plan.source.selection.block());
                return Some((state.next_window, block));
            }
            state = self.wait(state);
        }
    }

    /// Waits until a step may be made and its windows are there.
    fn claim(&self) -> Option<Claim> {
        let prefetch = self.plan.source.settings.prefetch as u64;
        let mut state = self.lock();
        loop {
            if state.stop || state.panicked || state.next_claim >= state.end {
                return None;
            }
            let step = state.next_claim;
            let needed = self.plan.windows(step);
            if step < state.next_taken + prefetch {
                if state.next_window >= needed.end {
                    return Some(self.claimed(&mut state, step));
                }
                if let Some(error) = state.load_error.take() {
                    state.next_claim += 1;
                    state.end = state.next_claim;
                    state.made.push_back(Some(Err(error)));
                    drop(state);
                    self.changed.notify_all();
                    return None;
                }
            }
            state = self.wait(state);
        }
    }

    fn claimed(&self, state: &mut State, step: u64) -> Claim {
        let needed = self.plan.windows(step);
        let first = needed.start - state.first_window;
        let windows = state
            .windows
            .range(first..first + needed.len())
            .cloned()
            .collect();
        state.next_claim += 1;
        state.made.push_back(None);
        let keep = if state.next_claim < state.end {
            self.plan.windows(state.next_claim).start
        } else {
            needed.end
        };
        while state.first_window < keep {
            let freed = state.windows.pop_front().and_then(Arc::into_inner);
            state
                .spares
                .windows
                .extend(freed.map(|window| window.block));
            state.first_window += 1;
        }
        let batch = state.spares.batches.pop().unwrap_or_default();
        self.changed.notify_all();
        Claim {
            step,
            windows,
            batch,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What a panicking thread leaves behind is reported by `next()`, not by a second panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes `next()` when a thread panics, which would otherwise wait for ever.
struct PanicGuard<'a>(&'a Pipeline);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().panicked = true;
            self.0.changed.notify_all();
        }
    }
}
