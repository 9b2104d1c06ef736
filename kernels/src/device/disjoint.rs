use std::{marker::PhantomData, ops::Range, slice};

/// A mutable slice whose disjoint parts several threads write at the same time.
pub(crate) struct DisjointMut<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: this is an exclusive borrow; what threads do with it is `slice`'s contract.
unsafe impl<T: Send> Send for DisjointMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for DisjointMut<'_, T> {}

impl<'a, T> DisjointMut<'a, T> {
    pub(crate) fn new(elements: &'a mut [T]) -> Self {
        Self {
            start: elements.as_mut_ptr(),
            len: elements.len(),
            borrow: PhantomData,
        }
    }

    /// As [`new`](Self::new), from a pointer.
    ///
    /// # Safety
    /// For `'a`, parts asked of [`slice`](Self::slice) cover only elements that are initialised
    /// and borrowed exclusively through `start`.
    pub(crate) unsafe fn from_raw(start: *mut T, len: usize) -> Self {
        Self {
            start,
            len,
            borrow: PhantomData,
        }
    }

    pub(crate) fn as_ptr(&self) -> *const T {
        self.start
    }

    /// A part of the slice.
    ///
    /// # Safety
    /// While the result lives, no other part that overlaps `range` does.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // Disjointness is the caller's to prove.
    pub(crate) unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:?} of {}",
            self.len
        );
        // SAFETY: the range is inside the borrowed slice, and by contract nothing overlaps it.
        unsafe { slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
