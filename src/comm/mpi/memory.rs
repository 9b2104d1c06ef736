//! The calls into MPI, and the memory that it reads and writes while this rank goes on.
//!
//! The only unsafe code of this backend. MPI keeps a pointer from the start of an operation until a test says that it
//! is over, whatever becomes of the caller. So [`Memory`] owns what it points to: its slices are checked against the
//! operations under way, and if it is dropped before they are over, what it holds is leaked and never reused.
#![allow(unsafe_code)]

use std::ops::Range;
use std::ptr::NonNull;

use mpi::ffi;

use super::wire::Wire;
use crate::comm::CommBuffer;
use crate::comm::messaging::{self, Refusal};

/// A communicator of MPI. It lasts until MPI is finalised: a job makes a handful.
#[derive(Clone, Copy)]
pub(super) struct Link {
    comm: ffi::MPI_Comm,
}

// SAFETY: A communicator is a handle to what MPI owns, and MPI was initialised for calls from several threads at a
// time (`MPI_THREAD_MULTIPLE`), which `Job` checks before it makes the first link.
unsafe impl Send for Link {}

impl Link {
    /// All processes of the job. MPI must have been initialised with `MPI_THREAD_MULTIPLE`.
    pub(super) fn world() -> Result<Self, Refusal> {
        // SAFETY: A constant of the library, set before `main`.
        let comm = unsafe { ffi::RSMPI_COMM_WORLD };
        let link = Self { comm };
        link.return_errors()?;
        Ok(link)
    }

    /// By default an error of MPI ends the process; it is to be told instead.
    fn return_errors(self) -> Result<(), Refusal> {
        // SAFETY: The handle is of a communicator that is never freed.
        let code = unsafe { ffi::MPI_Comm_set_errhandler(self.comm, ffi::RSMPI_ERRORS_RETURN) };
        check("set the error handler", code)
    }

    /// The rank and the size.
    pub(super) fn place(self) -> Result<(usize, usize), Refusal> {
        let (mut rank, mut size) = (0, 0);
        // SAFETY: A live communicator, and integers to write to.
        unsafe {
            check("ask for the rank", ffi::MPI_Comm_rank(self.comm, &mut rank))?;
            check("ask for the size", ffi::MPI_Comm_size(self.comm, &mut size))?;
        }
        Ok((index(rank), index(size)))
    }

    /// Makes a communicator of the processes that pass the same `color`, in the order of `key`. All processes must.
    /// Waits for them, for ever.
    pub(super) fn split(self, color: usize, key: usize) -> Result<Self, Refusal> {
        let number = |what: usize| i32::try_from(what).unwrap_or(i32::MAX);
        // SAFETY: A constant of the library.
        let mut comm = unsafe { ffi::RSMPI_COMM_NULL };
        // SAFETY: A live communicator, and a handle to write to.
        let code = unsafe { ffi::MPI_Comm_split(self.comm, number(color), number(key), &mut comm) };
        check("split a communicator", code)?;
        let link = Self { comm };
        link.return_errors()?;
        Ok(link)
    }

    /// Takes the next message with this tag, if one has come: whose it is, and the memory that it is received into.
    pub(super) fn probe(self, tag: i32) -> Result<Option<(usize, Memory<()>)>, Refusal> {
        let mut arrived = 0;
        // SAFETY: A live communicator; MPI writes a flag, and message and status if that is set.
        let (mut message, status) = unsafe {
            let mut message = ffi::RSMPI_MESSAGE_NULL;
            let mut status = std::mem::zeroed::<ffi::MPI_Status>();
            let source = ffi::RSMPI_ANY_SOURCE;
            let code = ffi::MPI_Improbe(
                source,
                tag,
                self.comm,
                &mut arrived,
                &mut message,
                &mut status,
            );
            check("look for a message", code)?;
            (message, status)
        };
        if arrived == 0 {
            return Ok(None);
        }
        let mut count = 0;
        // SAFETY: The status is of the message that was found.
        let code = unsafe { ffi::MPI_Get_count(&status, ffi::RSMPI_UINT8_T, &mut count) };
        check("ask for the size of a message", code)?;
        let mut memory: Memory<()> = messaging::Memory::of_bytes(vec![0; index(count)]);
        let start = memory.base.as_ptr();
        // SAFETY: The memory is of `count` bytes and stays until the operation is over.
        memory.begin(0..index(count), true, (), |request| unsafe {
            let data = start.cast();
            ffi::MPI_Imrecv(data, count, ffi::RSMPI_UINT8_T, &mut message, request)
        })?;
        Ok(Some((index(status.MPI_SOURCE), memory)))
    }
}

/// Bytes that messages are sent from and received into; `L` says what each operation is for.
pub(in crate::comm) struct Memory<L> {
    /// `None` after it was given back.
    storage: Option<Storage>,
    base: NonNull<u8>,
    bytes: usize,
    requests: Vec<ffi::MPI_Request>,
    /// Of each request.
    operations: Vec<Operation<L>>,
}

enum Storage {
    Buffer(CommBuffer),
    Bytes(Vec<u8>),
}

struct Operation<L> {
    range: Range<usize>,
    receives: bool,
    label: L,
}

// SAFETY: The pointer is to what `storage` owns, which may be sent; requests may be tested on any thread (see `Link`).
unsafe impl<L: Send> Send for Memory<L> {}

impl<L: Copy + Send> messaging::Memory<L> for Memory<L> {
    type Transport = Wire;

    fn of_buffer(mut buffer: CommBuffer) -> Self {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut buffer);
        let (base, bytes) = (NonNull::from(&mut *bytes).cast(), bytes.len());
        Self::new(Storage::Buffer(buffer), base, bytes)
    }

    fn of_bytes(mut values: Vec<u8>) -> Self {
        let (base, bytes) = (NonNull::from(values.as_mut_slice()).cast(), values.len());
        Self::new(Storage::Bytes(values), base, bytes)
    }

    fn under_way(&self) -> impl Iterator<Item = L> {
        self.operations.iter().map(|operation| operation.label)
    }

    fn into_buffer(mut self) -> Option<CommBuffer> {
        assert!(self.is_over(), "MPI still uses the buffer");
        match self.storage.take() {
            Some(Storage::Buffer(buffer)) => Some(buffer),
            _ => None,
        }
    }

    fn into_bytes(mut self) -> Vec<u8> {
        assert!(self.is_over(), "MPI still uses the bytes");
        match self.storage.take() {
            Some(Storage::Bytes(bytes)) => bytes,
            _ => Vec::new(),
        }
    }

    /// Panics where they are being received.
    fn read(&self, range: Range<usize>) -> &[u8] {
        self.check(&range, false);
        // SAFETY: In bounds of what `storage` owns, and initialised there; nobody writes: `check` rules out MPI, and
        // `&self` this process.
        unsafe { std::slice::from_raw_parts(self.base.add(range.start).as_ptr(), range.len()) }
    }

    /// Panics where they are being sent or received.
    fn write(&mut self, range: Range<usize>) -> &mut [u8] {
        self.check(&range, true);
        // SAFETY: As in `read`; nobody else reads either, by `check` and `&mut self`.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(range.start).as_ptr(), range.len()) }
    }

    fn send(
        &mut self,
        wire: &mut Wire,
        range: Range<usize>,
        (to, tag): (usize, i32),
        label: L,
    ) -> Result<(), Refusal> {
        let (link, to) = (wire.link, to as i32);
        let (start, count) = self.place(&range, false);
        self.begin(range, false, label, |request| {
            // SAFETY: A live communicator. The bytes are in bounds and stay in place until the request is over, since
            // `self` owns them and leaks them otherwise; nobody writes to them meanwhile (`check`).
            unsafe {
                let data = start.as_ptr().cast_const().cast();
                ffi::MPI_Isend(data, count, ffi::RSMPI_UINT8_T, to, tag, link.comm, request)
            }
        })
    }

    fn receive(
        &mut self,
        wire: &mut Wire,
        range: Range<usize>,
        (from, tag): (usize, i32),
        label: L,
    ) -> Result<(), Refusal> {
        let (link, from) = (wire.link, from as i32);
        let (start, count) = self.place(&range, true);
        self.begin(range, true, label, |request| {
            // SAFETY: As in `send`; nobody reads the bytes meanwhile either (`check`).
            unsafe {
                let data = start.as_ptr().cast();
                ffi::MPI_Irecv(
                    data,
                    count,
                    ffi::RSMPI_UINT8_T,
                    from,
                    tag,
                    link.comm,
                    request,
                )
            }
        })
    }

    fn poll(&mut self, _wire: &mut Wire, over: &mut Vec<L>) -> Result<(), Refusal> {
        self.test(over)
    }
}

impl<L: Copy> Memory<L> {
    fn new(storage: Storage, base: NonNull<u8>, bytes: usize) -> Self {
        Self {
            storage: Some(storage),
            base,
            bytes,
            requests: Vec::new(),
            operations: Vec::new(),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.operations.is_empty()
    }

    fn place(&self, range: &Range<usize>, receives: bool) -> (NonNull<u8>, i32) {
        self.check(range, receives);
        let count = i32::try_from(range.len()).expect("pieces are at most i32::MAX bytes");
        // SAFETY: In bounds (`check`).
        (unsafe { self.base.add(range.start) }, count)
    }

    fn begin(
        &mut self,
        range: Range<usize>,
        receives: bool,
        label: L,
        call: impl FnOnce(&mut ffi::MPI_Request) -> i32,
    ) -> Result<(), Refusal> {
        // SAFETY: A constant of the library.
        let mut request = unsafe { ffi::RSMPI_REQUEST_NULL };
        check("begin a message", call(&mut request))?;
        self.requests.push(request);
        self.operations.push(Operation {
            range,
            receives,
            label,
        });
        Ok(())
    }

    /// Appends the labels of the operations that are over by now.
    pub(super) fn test(&mut self, over: &mut Vec<L>) -> Result<(), Refusal> {
        let count = self.requests.len() as i32;
        if count == 0 {
            return Ok(());
        }
        let (mut completed, mut indices) = (0, vec![0; self.requests.len()]);
        // SAFETY: `count` requests that `begin` made, and as many indices to write to.
        let code = unsafe {
            ffi::MPI_Testsome(
                count,
                self.requests.as_mut_ptr(),
                &mut completed,
                indices.as_mut_ptr(),
                ffi::RSMPI_STATUSES_IGNORE,
            )
        };
        check("transfer a message", code)?;
        let mut indices: Vec<usize> = (indices.iter().take(index(completed)))
            .map(|place| index(*place))
            .collect();
        // From the last, so that those before keep their places.
        indices.sort_unstable_by(|a, b| b.cmp(a));
        for place in indices {
            self.requests.swap_remove(place);
            over.push(self.operations.swap_remove(place).label);
        }
        Ok(())
    }

    fn check(&self, range: &Range<usize>, exclusive: bool) {
        assert!(
            range.start <= range.end && range.end <= self.bytes,
            "bytes {range:?} are outside of {}",
            self.bytes
        );
        let collides = |operation: &Operation<L>| {
            (exclusive || operation.receives)
                && operation.range.start < range.end
                && range.start < operation.range.end
        };
        assert!(
            !self.operations.iter().any(collides),
            "MPI still uses bytes of {range:?}"
        );
    }
}

impl<L> Drop for Memory<L> {
    fn drop(&mut self) {
        if !self.operations.is_empty() {
            // MPI may still read or write it.
            std::mem::forget(self.storage.take());
        }
    }
}

fn check(what: &str, code: i32) -> Result<(), Refusal> {
    if code == 0 {
        return Ok(());
    }
    // Longer than the messages of any library: MPI_MAX_ERROR_STRING is 256 to 1024.
    let (mut text, mut len) = ([0_u8; 4096], 0);
    // SAFETY: MPI writes at most MPI_MAX_ERROR_STRING characters, and their number.
    let told = unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast(), &mut len) };
    let text = text.get(..index(len)).filter(|_| told == 0);
    let text = text.map_or_else(
        || format!("error {code}"),
        |text| String::from_utf8_lossy(text).into_owned(),
    );
    Err(Refusal::new(format!("MPI cannot {what}: {text}")))
}

/// A count or a rank of MPI, which is never negative where it is asked for.
fn index(number: i32) -> usize {
    usize::try_from(number).unwrap_or(0)
}
