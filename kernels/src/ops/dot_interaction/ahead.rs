use crate::simd::{LANES, prefetch};

/// Memory that the next samples need, asked for some lines at each step of these samples' computation:
/// a core has some ten requests under way at most and waits with more.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    next: *const f32,
    /// Lines of a step.
    share: usize,
}

impl Ahead {
    /// At least `floats` floats from `start` on, which may be any address, in so many steps.
    #[inline(always)]
    pub(super) fn new(start: *const f32, floats: usize, steps: usize) -> Self {
        let share = floats.div_ceil(LANES).div_ceil(steps.max(1));
        Self { next: start, share }
    }

    #[inline(always)]
    pub(super) fn step(&mut self) {
        for _ in 0..self.share {
            prefetch(self.next);
            self.next = self.next.wrapping_add(LANES);
        }
    }
}
