use std::collections::VecDeque;
use std::ops::Range;

use streamrec_kernels::cuda::{Address, DeviceError, Executor};

/// What became of steps that were asked for: the device copies it to the host behind each of them, and the host reads it
/// when it likes. Two at most are under way.
pub(super) struct Outcomes<E: Executor> {
    replies: [E::Reply; 2],
    /// In their order.
    under_way: VecDeque<UnderWay>,
    next: usize,
    /// The reply that was told of last.
    told: usize,
}

/// A step that was asked for.
#[derive(Debug, Clone)]
pub(super) struct UnderWay {
    pub(super) step: u64,
    /// Some rank was asked to stop in it.
    pub(super) stop: bool,
    /// The rows of its batch that it gives probabilities of.
    pub(super) predicted: Range<usize>,
    reply: usize,
}

impl<E: Executor> Outcomes<E> {
    /// Of up to `bytes` bytes each.
    pub(super) fn new(executor: &mut E, bytes: usize) -> Result<Self, DeviceError> {
        Ok(Self {
            replies: [executor.reply(bytes)?, executor.reply(bytes)?],
            under_way: VecDeque::with_capacity(2),
            next: 0,
            told: 0,
        })
    }

    /// Lets the device tell of the step that was asked for last.
    pub(super) fn ask(
        &mut self,
        executor: &mut E,
        (step, predicted): (u64, Range<usize>),
        parts: &[(Address, usize)],
    ) -> Result<(), DeviceError> {
        let reply = self.next;
        executor.ask(&mut self.replies[reply], parts)?;
        self.next = 1 - reply;
        self.under_way.push_back(UnderWay {
            step,
            stop: false,
            predicted,
            reply,
        });
        Ok(())
    }

    /// Keeps whether the step that was asked for last is to be the last one.
    pub(super) fn note_stop(&mut self, stop: bool) {
        if let Some(last) = self.under_way.back_mut() {
            last.stop = stop;
        }
    }

    /// Whether a step was asked for before the last one is told of.
    pub(super) fn is_ahead(&self) -> bool {
        self.under_way.len() > 1
    }

    /// The first and the last step of those under way.
    pub(super) fn steps(&self) -> Option<[u64; 2]> {
        let (first, last) = (self.under_way.front()?, self.under_way.back()?);
        Some([first.step, last.step])
    }

    /// Whether the device has told of the first step, or of all. Does not wait.
    pub(super) fn are_here(&self, executor: &mut E, all: bool) -> Result<bool, DeviceError> {
        let asked = match all {
            true => self.under_way.back(),
            false => self.under_way.front(),
        };
        asked.map_or(Ok(true), |asked| {
            executor.has_come(&self.replies[asked.reply])
        })
    }

    /// The first step under way, with what the device told of it. Waits.
    pub(super) fn take(
        &mut self,
        executor: &mut E,
    ) -> Result<Option<(UnderWay, &[u8])>, DeviceError> {
        let Some(first) = self.under_way.pop_front() else {
            return Ok(None);
        };
        self.told = first.reply;
        let told = executor.read(&mut self.replies[first.reply])?;
        Ok(Some((first, told)))
    }

    /// What the device told of the step that was [taken](Self::take) last; nothing once its memory waits for another step, the
    /// second that is asked for since.
    pub(super) fn last(&self, executor: &E) -> &[u8] {
        executor.was_read(&self.replies[self.told])
    }
}
