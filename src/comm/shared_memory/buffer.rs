//! A buffer that every rank of a group has mapped.

use std::ops::Range;

use super::segment::{Segment, f32_bytes};

/// One allocation: a segment a rank, all mapped here. The own one is the buffer; the others are
/// touched by collectives only.
pub(in crate::comm) struct SharedBuffer {
    /// The token of the communicator that it belongs to.
    token: u64,
    /// The same on every rank: counts the allocations of the communicator from 1.
    number: u64,
    /// `[len]` f32 in each segment.
    len: usize,
    rank: usize,
    segments: Vec<Segment>,
}

impl SharedBuffer {
    /// The allocation `number` of the communicator `token`, with the segments in rank order.
    pub(super) fn new(
        token: u64,
        number: u64,
        len: usize,
        rank: usize,
        segments: Vec<Segment>,
    ) -> Self {
        Self {
            token,
            number,
            len,
            rank,
            segments,
        }
    }

    pub(super) fn token(&self) -> u64 {
        self.token
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(in crate::comm) fn own(&self) -> &[f32] {
        // SAFETY: Other ranks write to this segment only in a collective on this buffer, which
        // takes it by value and gives it back once all ranks are done with it, or never.
        unsafe { self.part(self.rank, 0..self.len) }
    }

    pub(in crate::comm) fn own_mut(&mut self) -> &mut [f32] {
        // SAFETY: As in `own`, for reading too; within this process, `&mut self` excludes others.
        unsafe { self.part_mut(self.rank, 0..self.len) }
    }

    /// The values at `range` of the buffer of `rank`.
    ///
    /// # Safety
    /// Nobody writes to them while the slice lives.
    pub(super) unsafe fn part(&self, rank: usize, range: Range<usize>) -> &[f32] {
        let (offset, count) = f32_bytes(&range);
        // SAFETY: The caller's promise.
        unsafe { self.segments[rank].slice(offset, count) }
    }

    /// The values at `range` of the buffer of `rank`, to be written.
    ///
    /// # Safety
    /// Nobody else reads or writes them while the slice lives.
    #[expect(
        clippy::mut_from_ref,
        reason = "other processes share the memory; see Safety"
    )]
    pub(super) unsafe fn part_mut(&self, rank: usize, range: Range<usize>) -> &mut [f32] {
        let (offset, count) = f32_bytes(&range);
        // SAFETY: The caller's promise.
        unsafe { self.segments[rank].slice_mut(offset, count) }
    }
}
