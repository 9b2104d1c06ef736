//! What the communication thread tells about itself.

use std::sync::Arc;

/// Hears what a communicator is doing, so that a rank can report what it waits for; and tells it when to give up.
///
/// Called on the communication thread: it must be quick and must not call the communicator.
pub trait Observer: Send + Sync {
    /// A collective begins on this rank; `sequence` counts those of one communicator from 1.
    fn enter(&self, collective: &'static str, sequence: u64);

    /// The collective of the last [`enter`](Self::enter) is over, well or not.
    fn leave(&self);

    /// The collective has been waiting for a while, for these ranks of the world; called again
    /// when they change.
    fn waiting_for(&self, ranks: &[usize]);

    /// Why the job is being ended, once it is: a rank that waits then gives up. Asked now and then in a long wait.
    fn called_off(&self) -> Option<String> {
        None
    }

    /// Who hears of a group that is split off: both may be in collectives at the same time. Nobody, unless the
    /// observer says otherwise.
    fn of_group(&self) -> Arc<dyn Observer> {
        Arc::new(Silent)
    }
}

/// The observer that ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn enter(&self, _collective: &'static str, _sequence: u64) {}
    fn leave(&self) {}
    fn waiting_for(&self, _ranks: &[usize]) {}
}
