use std::ffi::{CString, c_void};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

const PAGE: usize = 4096;

/// Memory between pages that nobody may touch. Its end lies at one of them, up to the bytes that fill
/// it to a multiple of 16: these hold NaN, and are checked.
pub(crate) struct Buffer {
    pub(crate) name: CString,
    mapping: *mut c_void,
    mapped: usize,
    pub(crate) start: usize,
    pub(crate) bytes: usize,
}

impl Buffer {
    pub(crate) fn new(name: &str, bytes: usize) -> Self {
        Self::ending(name, bytes, bytes)
    }

    /// Memory of which only the last `tail` bytes exist, up to a page more: for tables that no test could hold.
    pub(crate) fn ending(name: &str, bytes: usize, tail: usize) -> Self {
        let data = bytes.next_multiple_of(16).max(16);
        let pages = data.next_multiple_of(PAGE);
        let mapped = pages + 2 * PAGE;
        let kept = tail.next_multiple_of(16).max(16).min(data);
        let kept_pages = kept.next_multiple_of(PAGE);
        // SAFETY: a new mapping, of which the last pages before the last one become accessible.
        let mapping = unsafe {
            let mapping = mmap_anonymous(
                std::ptr::null_mut(),
                mapped,
                ProtFlags::empty(),
                MapFlags::PRIVATE,
            )
            .expect("address space");
            let flags = MprotectFlags::READ | MprotectFlags::WRITE;
            let first = mapping.cast::<u8>().add(PAGE + pages - kept_pages);
            mprotect(first.cast(), kept_pages, flags).expect("pages");
            mapping
        };
        let end = mapping as usize + PAGE + pages;
        let start = end - data;
        // SAFETY: inside the accessible pages. All bits set is NaN in every type of float.
        unsafe { std::ptr::write_bytes((end - kept) as *mut u8, 0xff, kept) };
        Self {
            name: CString::new(name).expect("a name"),
            mapping,
            mapped,
            start,
            bytes,
        }
    }

    pub(crate) fn slice(&self) -> &[u8] {
        // SAFETY: `bytes` bytes of the mapping; nothing writes while a test reads.
        unsafe { std::slice::from_raw_parts(self.start as *const u8, self.bytes) }
    }

    pub(crate) fn check_slack(&self) {
        let slack = self.bytes.next_multiple_of(16).max(16) - self.bytes;
        // SAFETY: the bytes that fill the buffer to a multiple of 16 are accessible.
        let slack =
            unsafe { std::slice::from_raw_parts((self.start + self.bytes) as *const u8, slack) };
        assert!(
            slack.iter().all(|&byte| byte == 0xff),
            "bytes after the end of `{}` were written",
            self.name.to_string_lossy()
        );
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, which nothing refers to any more.
        let _ = unsafe { munmap(self.mapping, self.mapped) };
    }
}
