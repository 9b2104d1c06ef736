//! Memory that several processes map: a memfd, and a mapping of it.
//!
//! A memfd needs no name in a file system and counts against no size of /dev/shm. It is sealed
//! against shrinking, so a mapping that was valid once never raises SIGBUS.

use std::fs::OpenOptions;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;

use bytemuck::Pod;
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

/// No segment is larger (1 TiB): a bound for sizes that come from other processes.
pub(super) const MAX_SEGMENT_BYTES: u64 = 1 << 40;

/// Starts of parts in a segment are multiples of this.
pub(super) const ALIGNMENT: u64 = 64;

/// The file behind a segment. Its number and the process id let other processes open it.
pub(super) struct SegmentFile {
    fd: OwnedFd,
}

impl SegmentFile {
    /// Creates `bytes` of zeroed memory, reserved now, so that a lack of it is an error here
    /// and not a signal later.
    pub(super) fn create(name: &str, bytes: u64) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = Self {
            fd: rustix::fs::memfd_create(name, flags)?,
        };
        file.extend(0, bytes.max(1))?;
        rustix::fs::fcntl_add_seals(&file.fd, SealFlags::SHRINK)?;
        Ok(file)
    }

    /// Opens the segment `fd` of process `pid`, which must be on this host and keep it open.
    pub(super) fn open(pid: u32, fd: u32) -> io::Result<Self> {
        let path = format!("/proc/{pid}/fd/{fd}");
        let fd: OwnedFd = OpenOptions::new().read(true).write(true).open(path)?.into();
        if !rustix::fs::fcntl_get_seals(&fd)?.contains(SealFlags::SHRINK) {
            return Err(io::Error::other("the file is no segment: it could shrink"));
        }
        Ok(Self { fd })
    }

    /// The number under which this process has the file open.
    pub(super) fn number(&self) -> u32 {
        self.fd.as_raw_fd().unsigned_abs()
    }

    pub(super) fn bytes(&self) -> io::Result<u64> {
        let bytes = u64::try_from(rustix::fs::fstat(&self.fd)?.st_size).unwrap_or(0);
        if bytes > MAX_SEGMENT_BYTES {
            return Err(io::Error::other(format!(
                "a segment of {bytes} bytes is too large"
            )));
        }
        Ok(bytes)
    }

    /// Reserves `bytes` more, zeroed, after `old_bytes`.
    pub(super) fn extend(&self, old_bytes: u64, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.fd, FallocateFlags::empty(), old_bytes, bytes) {
            // Some sandboxes only know how to set the size; memory then comes on first use.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                Ok(rustix::fs::ftruncate(&self.fd, old_bytes + bytes)?)
            }
            result => Ok(result?),
        }
    }

    /// Maps the whole file.
    pub(super) fn map(&self) -> io::Result<Segment> {
        let bytes = usize::try_from(self.bytes()?).map_err(io::Error::other)?;
        // POPULATE, so that the first collective does not pay for page faults.
        let (access, flags) = (
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::POPULATE,
        );
        // SAFETY: The kernel picks an unused address, so no memory in use changes its meaning.
        // The file is sealed against shrinking, so its `bytes` stay backed by memory.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes,
                access,
                flags,
                self.fd.as_fd(),
                0,
            )?
        };
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at null"))?;
        Ok(Segment { base, bytes })
    }
}

/// A mapping of a [`SegmentFile`]; it outlives the file and the process that made it.
pub(super) struct Segment {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: A segment is an address range that it alone unmaps. What may be read and written
// through it, and when, is up to the callers of its unsafe methods, on whatever thread.
unsafe impl Send for Segment {}
// SAFETY: See above; `&Segment` gives access only through unsafe methods and atomics.
unsafe impl Sync for Segment {}

impl Segment {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The atomics at `offset`.
    ///
    /// Panics outside of the segment or where misaligned: both are bugs of the layout.
    pub(super) fn atomics<T: Atomics>(&self, offset: usize) -> &T {
        let end = offset
            .checked_add(size_of::<T>())
            .expect("offsets are small constants");
        assert!(end <= self.bytes && offset.is_multiple_of(align_of::<T>()));
        // SAFETY: In bounds (asserted) and aligned, since a mapping starts at a page. The memory
        // is valid for `&self`; `Atomics` makes every bit pattern valid and all access atomic.
        unsafe { self.base.add(offset).cast::<T>().as_ref() }
    }

    /// `count` values at the byte `offset`.
    ///
    /// Panics outside of the segment or where misaligned.
    ///
    /// # Safety
    /// Nobody, in any process, writes to them while the slice lives.
    pub(super) unsafe fn slice<T: Pod>(&self, offset: usize, count: usize) -> &[T] {
        self.check::<T>(offset, count);
        // SAFETY: In bounds and aligned (checked), any bits are valid (`Pod`), and the caller
        // promises that nobody writes.
        unsafe { std::slice::from_raw_parts(self.base.add(offset).cast().as_ptr(), count) }
    }

    /// `count` values at the byte `offset`, to be written.
    ///
    /// Panics outside of the segment or where misaligned.
    ///
    /// # Safety
    /// Nobody, in any process, reads or writes them otherwise while the slice lives.
    #[expect(
        clippy::mut_from_ref,
        reason = "other processes share the memory; see Safety"
    )]
    pub(super) unsafe fn slice_mut<T: Pod>(&self, offset: usize, count: usize) -> &mut [T] {
        self.check::<T>(offset, count);
        // SAFETY: In bounds and aligned (checked), any bits are valid (`Pod`), and the caller
        // promises that the access is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(offset).cast().as_ptr(), count) }
    }

    fn check<T>(&self, offset: usize, count: usize) {
        let bytes = count.checked_mul(size_of::<T>());
        let end = bytes.and_then(|bytes| bytes.checked_add(offset));
        assert!(
            end.is_some_and(|end| end <= self.bytes) && offset.is_multiple_of(align_of::<T>()),
            "{count} values at byte {offset} are outside of a segment of {} bytes",
            self.bytes
        );
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: This is the very range that `map` mapped, and references to it borrow `self`.
        // A failure would only leak address space.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// Types made of atomics alone.
///
/// # Safety
/// All fields are atomics, or arrays or structs of such; the layout is `repr(C)`.
pub(super) unsafe trait Atomics: Sync {}

/// The f32 at `range`, as a byte offset and a count.
pub(super) fn f32_bytes(range: &Range<usize>) -> (usize, usize) {
    (range.start * size_of::<f32>(), range.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_opening_sees_what_was_written_and_outlives_the_file() {
        let file = SegmentFile::create("test", 4096).unwrap();
        let other = SegmentFile::open(std::process::id(), file.number()).unwrap();
        let (writer, reader) = (file.map().unwrap(), other.map().unwrap());
        drop((file, other));
        // SAFETY: This thread alone has the segment, and the slices live one after the other.
        unsafe {
            writer.slice_mut::<f32>(64, 2).copy_from_slice(&[1.0, 2.0]);
            drop(writer);
            assert_eq!(*reader.slice::<f32>(60, 4), [0.0, 1.0, 2.0, 0.0]);
        }
    }

    #[test]
    fn a_segment_grows_but_never_shrinks() {
        let file = SegmentFile::create("test", 4096).unwrap();
        file.extend(4096, 8192).unwrap();
        assert_eq!(file.bytes().unwrap(), 12288);
        assert_eq!(file.map().unwrap().bytes(), 12288);
        assert!(rustix::fs::ftruncate(&file.fd, 4096).is_err());
    }

    #[test]
    fn an_ordinary_file_is_refused() {
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        assert!(SegmentFile::open(std::process::id(), file.as_raw_fd() as u32).is_err());
    }

    #[test]
    #[should_panic(expected = "outside of a segment")]
    fn slices_are_bounded() {
        let segment = SegmentFile::create("test", 4096).unwrap().map().unwrap();
        // SAFETY: Panics before it makes a slice.
        let _ = unsafe { segment.slice::<f32>(4092, 2) };
    }
}
