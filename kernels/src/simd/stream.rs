//! Stores past the caches.
//!
//! A store into a line that no cache holds first reads the line. For a result that is larger than the
//! caches, that read is wasted: what is stored now will have left them before anyone reads it.

/// Bytes from which on a result leaves the caches before it is read: some second caches' worth.
const MIN_BYTES: usize = 8 << 20;

/// Whether a result of so many floats should be stored past the caches.
pub(crate) fn past_caches(floats: usize) -> bool {
    floats * size_of::<f32>() >= MIN_BYTES
}

/// Orders stores past the caches before all that follows: to be called before another thread may read
/// what was stored.
#[inline]
pub(crate) fn finish_stream() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 CPU has the instruction, which only orders stores.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}
