use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ptr::NonNull,
    slice,
};

/// One cache line, and one AVX-512 register.
#[repr(align(64))]
struct Line;

const LINE_BYTES: usize = align_of::<Line>();
/// One huge page of x86-64; large buffers start at one.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Zeroed memory aligned to a cache line.
///
/// Buffers of several megabytes ask for huge pages: lookups in an embedding table are random, and
/// with 4 KiB pages each would miss the TLB as well as the cache.
pub(crate) struct AlignedBuffer {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the buffer owns its memory exclusively, like a `Vec<u8>`.
unsafe impl Send for AlignedBuffer {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    pub(crate) fn zeroed(bytes: usize) -> Self {
        let huge = bytes >= 2 * HUGE_PAGE_BYTES;
        let align = if huge { HUGE_PAGE_BYTES } else { LINE_BYTES };
        // Only a size near isize::MAX fails here; no address space holds such a tensor.
        let layout = Layout::from_size_align(bytes, align)
            .unwrap_or_else(|_| panic!("a tensor of {bytes} bytes exceeds the address space"));
        if bytes == 0 {
            // Dangling, but aligned.
            return Self {
                start: NonNull::<Line>::dangling().cast(),
                layout,
            };
        }
        if huge {
            return Self {
                start: huge_zeroed(layout),
                layout,
            };
        }
        // SAFETY: the layout has a non-zero size.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        Self { start, layout }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.layout.size()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        // SAFETY: `start` is valid for `size` initialised bytes (or dangling for none), and `self`
        // is borrowed for as long as the slice.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }

    pub(crate) fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_bytes`, and `self` is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

/// Allocates, asks for huge pages, and only then touches the memory.
fn huge_zeroed(layout: Layout) -> NonNull<u8> {
    // SAFETY: the layout has a non-zero size.
    let start = unsafe { std::alloc::alloc(layout) };
    let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
    #[cfg(target_os = "linux")]
    {
        let whole_pages = layout.size() / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        // SAFETY: the range lies inside the allocation and starts at a page boundary; the advice
        // changes how it is mapped, never its content.
        let advised = unsafe {
            rustix::mm::madvise(
                start.as_ptr().cast(),
                whole_pages,
                rustix::mm::Advice::LinuxHugepage,
            )
        };
        // Kernels without huge pages refuse; the memory works all the same.
        let _ = advised;
    }
    // SAFETY: the allocation spans `size` bytes.
    unsafe { start.as_ptr().write_bytes(0, layout.size()) };
    start
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        if self.layout.size() > 0 {
            // SAFETY: allocated by the global allocator with this very layout.
            unsafe { dealloc(self.start.as_ptr(), self.layout) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zeroed_and_aligned() {
        for bytes in [0, 1, 64, 4100, 5 << 20] {
            let buffer = AlignedBuffer::zeroed(bytes);
            assert_eq!(buffer.as_bytes().len(), bytes);
            assert_eq!(buffer.as_bytes().as_ptr() as usize % LINE_BYTES, 0);
            assert!(buffer.as_bytes().iter().all(|&byte| byte == 0));
        }
    }
}
